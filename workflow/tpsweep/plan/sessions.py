"""The sessions and job arrays that the executor will make of a sweep's jobs: by its own functions.

Nothing is submitted and no scheduler is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from snakemake_executor_plugin_submitit import packing
from snakemake_executor_plugin_submitit.flags import SlurmParameters, slurm_parameters
from snakemake_executor_plugin_submitit.site import Site
from snakemake_executor_plugin_submitit.slurm.scripts import DEFAULT_ARRAY_SIZE, largest_array
from snakemake_executor_plugin_submitit.spec import Cell
from tpsweep.sweep.sweep import Job


@dataclass(frozen=True)
class PlannedSession:
    """One engine start and the jobs that share it. ``limit_minutes`` is what Slurm is asked for
    (on a host, what the executor allows)."""

    gpu: str
    gpus: int
    nodes: int
    jobs: list[Job]
    limit_minutes: float
    parameters: SlurmParameters | None  # None where there is no scheduler


@dataclass(frozen=True)
class Array:
    """Sessions that are submitted as one job array."""

    gpu: str
    gpus: int
    limit_minutes: int
    sessions: list[PlannedSession]


def make_sessions(jobs: Mapping[str, Job], site: Site, start_minutes: int) -> list[PlannedSession]:
    """Sessions of ``jobs`` (by the paths of their rows), as the executor packs them."""
    return [_planned(one, jobs, site) for one in pack_jobs(jobs, site, start_minutes)]


def pack_jobs(jobs: Mapping[str, Job], site: Site, start_minutes: int) -> list[packing.Session]:
    """The executor's own sessions of ``jobs``; its cells are named by the paths of their rows."""
    requests = [
        packing.Request(
            key=packing.SessionKey(
                job.session, job.session_command, job.gpu_type, job.gpus, nodes=job.nodes
            ),
            cell=Cell(id=path, argv=[], log=Path(), limit_s=60 * job.minutes),
            order=job.order,
            start_minutes=start_minutes,
        )
        for path, job in jobs.items()
    ]
    return packing.pack(requests, site)


def _planned(session: packing.Session, jobs: Mapping[str, Job], site: Site) -> PlannedSession:
    parameters = None
    if site.cluster == "slurm":
        # Some account: a plan does not depend on which, and needs none.
        account = {site.account_env: "any"} if site.account_env else {}
        parameters = parameters_of(session, site, account)
    return PlannedSession(
        gpu=session.key.gpu_type,
        gpus=session.key.gpus,
        nodes=session.key.nodes,
        jobs=[jobs[cell.id] for cell in session.cells],
        limit_minutes=(session.minutes or 0.0) if parameters is None else parameters.minutes,
        parameters=parameters,
    )


def parameters_of(
    session: packing.Session, site: Site, environ: Mapping[str, str]
) -> SlurmParameters:
    """What a session's job asks Slurm for; every job has a time limit."""
    return slurm_parameters(session.key, int(-(-(session.minutes or 0.0) // 1)), site, environ)


def make_arrays(sessions: list[PlannedSession], site: Site) -> list[Array]:
    """Arrays of equal flags and time limit, split where the site's arrays or queue end.

    Of a site file that does not say ``max_array_size`` Slurm's default is taken: the executor asks
    Slurm.
    """
    most = largest_array(site.max_array_size or DEFAULT_ARRAY_SIZE)
    most = min(most, site.submit_limit() or most)
    groups: dict[SlurmParameters, list[PlannedSession]] = {}
    for session in sessions:
        if session.parameters is not None:
            groups.setdefault(session.parameters, []).append(session)
    return [
        Array(group[0].gpu, group[0].gpus, parameters.minutes, group[at : at + most])
        for parameters, group in groups.items()
        for at in range(0, len(group), most)
    ]
