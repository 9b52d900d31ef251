"""The sbatch scripts that a sweep would submit, by the executor's own functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit import packing
from snakemake_executor_plugin_submitit.dry_run import as_text
from snakemake_executor_plugin_submitit.site import Site
from snakemake_executor_plugin_submitit.slurm.scripts import BatchScript, batch_scripts
from snakemake_executor_plugin_submitit.spec import Cell
from tpsweep.core.preflight_record import MINUTES
from tpsweep.plan.plan import jobs_to_run
from tpsweep.plan.sessions import pack_jobs, parameters_of
from tpsweep.sweep.sweep import Sweep

LOGDIR = Path(".snakemake/submitit")
"""Where the executor keeps its files, unless it is told otherwise."""


@dataclass(frozen=True)
class Scripts:
    """Scripts of a sweep: cells wait for the preflight of their class.

    ``note`` is a line on what only the submission will know, "" if nothing.
    """

    preflights: list[BatchScript]
    cells: list[BatchScript]
    note: str = ""

    def as_text(self) -> str:
        """For people; all that is not of a script begins with ``#``."""
        parts = [("preflights, which the cells wait for", self.preflights), ("cells", self.cells)]
        text = f"# {self.note}\n" if self.note else ""
        for title, scripts in parts:
            jobs = sum(len(sessions) for _, sessions in scripts)
            text += f"# {title}: {len(scripts)} scripts, {jobs} jobs\n\n{as_text(scripts)}"
        return f"{text}# nothing was submitted\n"

    def as_json(self) -> list[dict[str, Any]]:
        """For programs, in the order of submission; the jobs of cells are the paths of rows."""
        return [
            {
                "script": text,
                "sessions": [
                    {
                        "session": one.key.session,
                        "gpu_type": one.key.gpu_type,
                        "gpus": one.key.gpus,
                        "nodes": one.key.nodes,
                        "jobs": [cell.id for cell in one.cells],
                    }
                    for one in sessions
                ],
            }
            for text, sessions in [*self.preflights, *self.cells]
        ]


def make_scripts(sweep: Sweep, environ: Mapping[str, str]) -> Scripts:
    """The scripts of what a run would submit now; writes and submits nothing.

    ``environ`` has the account that the site names. Raises ``ValueError`` if there is no scheduler.
    """
    site = sweep.site
    if site.cluster != "slurm":
        raise ValueError(f"--sbatch: site {site.name} has no scheduler, allowed: a site of Slurm")
    note = ""
    if site.account_env and not environ.get(site.account_env):
        # For a look from elsewhere; the executor itself refuses to submit without an account.
        environ = {**environ, site.account_env: f"${site.account_env}"}
        note = f"{site.account_env} is not set here: its value will be the account"
    jobs = jobs_to_run(sweep)
    first = packing.pack(_preflights(sweep, jobs), site)
    then = pack_jobs(jobs, site, sweep.config.engine_start_minutes)
    return Scripts(_scripts(first, site, environ), _scripts(then, site, environ), note)


def _preflights(sweep: Sweep, paths: Mapping[str, Any]) -> list[packing.Request]:
    return [
        packing.Request(
            packing.SessionKey("", "", asked.gpu, asked.on_node),
            Cell(id=f"preflight {name}", argv=[], log=Path(), limit_s=60 * MINUTES),
        )
        for name in sorted(sweep.preflights_to_run(paths))
        for asked in [sweep.preflight(name)]
    ]


def _scripts(
    sessions: list[packing.Session], site: Site, environ: Mapping[str, str]
) -> list[BatchScript]:
    asked = [(session, parameters_of(session, site, environ)) for session in sessions]
    return batch_scripts(asked, site, LOGDIR.absolute())
