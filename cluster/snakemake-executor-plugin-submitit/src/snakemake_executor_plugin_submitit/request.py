"""From a Snakemake job to what it asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .command import command_of, log_name
from .packing import PackingError, Request, SessionKey
from .site import ONE_LINE, is_one_line
from .spec import Cell
from .wanted import digest, inputs_of, is_asked_anew, outputs_of


def request_of(
    job: Any, nested: Callable[[Any], str], logdir: Path, is_counted: Callable[[int], bool]
) -> Request:
    """What ``job`` asks for; raises ``PackingError`` for a resource that is not a number.

    ``nested`` formats the command line of a nested Snakemake. ``is_counted``: whether threads and
    memory are asked for beside so many GPUs.
    """
    identity = identity_of(job)
    command = command_of(job, nested)
    runtime = _number(job, "runtime")
    gpus = _count(job, "gpus")
    counted = is_counted(gpus)
    per_cpu = _count(job, "mem_mb_per_cpu")
    key = SessionKey(
        session=_text(job, "session"),
        command=_text(job, "session_command"),
        gpu_type=_text(job, "gpu_type"),
        gpus=gpus,
        threads=job.threads if counted else 0,
        mem_mb=_count(job, "mem_mb") if counted and not per_cpu else 0,
        mem_mb_per_cpu=per_cpu,
        partition=_flag(job, "slurm_partition"),
        constraint=_flag(job, "constraint"),
        nodes=_count(job, "nodes", 1),
    )
    cell = Cell(
        id=identity,
        argv=command.argv,
        log=logdir / "cells" / log_name(job, identity),
        limit_s=None if runtime is None else runtime * 60,
        environment=command.environment,
        folders=command.folders,
        stale=command.stale,
        markers=command.markers,
        wanted=digest(job, command, key),
    )
    order = _count(job, "session_order")
    start = _number(job, "session_runtime")
    return Request(
        key,
        cell,
        order,
        start,
        outputs=outputs_of(job),
        inputs=inputs_of(job),
        is_alone=bool(_number(job, "session_alone")),
        is_asked_anew=is_asked_anew(job),
    )


OF_OTHER_EXECUTORS = {
    "account": "the site's account_env",
    "clusters": "one site file per cluster",
    "cpus_per_gpu": "the site's cpus_per_gpu",
    "cpus_per_task": "threads",
    "gpu": "gpus and gpu_type",
    "gpu_model": "gpu_type",
    "gres": "gpus and gpu_type",
    "mpi": "one task per node",
    "nvidia_gpu": "gpus and gpu_type",
    "qos": "the site's qos",
    "slurm_account": "the site's account_env",
    "slurm_extra": "the site's slurm",
    "slurm_qos": "the site's qos",
    "tasks": "one task per node",
    "tasks_per_gpu": "one task per node",
}
"""Resources that other executors for Slurm know, and what there is here instead."""
ONLY_SLURM = ("mem_mb_per_cpu", "slurm_partition", "constraint")


def unused_resources(job: Any, cluster: str) -> list[str]:
    """Resources of ``job`` that mean something elsewhere and nothing here, a line each."""
    given = [name for name in OF_OTHER_EXECUTORS if _text(job, name)]
    lines = [f"{name}: not used by this executor: {OF_OTHER_EXECUTORS[name]}" for name in given]
    if cluster == "local":
        lines += [f"{name}: not used on this host" for name in ONLY_SLURM if _text(job, name)]
    return lines


def asks_for_more_memory(job: Any) -> bool:
    """Whether another attempt of ``job`` asks for more memory than this one."""
    attempt = job.attempt
    if job.restart_times < attempt or _number(job, "gpus"):
        return False  # beside GPUs memory is the site's business
    now = _memory(job)
    job.attempt = attempt + 1
    try:
        return _memory(job) > now
    finally:
        job.attempt = attempt


def _memory(job: Any) -> tuple[float, float]:
    return _number(job, "mem_mb") or 0, _number(job, "mem_mb_per_cpu") or 0


def identity_of(job: Any) -> str:
    """A job's name that is the same in every run: of its rule and its wildcards."""
    return str(job.jobid if job.is_group() else job.uuid())


def failure_record_of(job: Any) -> Path | None:
    """The file in which to say why a job has no output; None if it names none."""
    record = _text(job, "failure_record")
    return Path(record).absolute() if record else None


def readable_name(job: Any) -> str:
    """What a user calls a job: its rule, and its wildcards if it has any."""
    if job.is_group():
        return f"group {job.groupid}"
    values = " ".join(f"{name}={value}" for name, value in job.wildcards.items())
    return f"{job.rule.name} {values}".strip()


def _text(job: Any, resource: str) -> str:
    value = job.resources.get(resource)
    return "" if value is None else str(value)


def _flag(job: Any, resource: str) -> str:
    value = _text(job, resource)
    if value and not is_one_line(value):
        raise PackingError(f"{resource}: {value!r}, allowed: {ONE_LINE}")
    return value


def _count(job: Any, resource: str, default: int = 0) -> int:
    value = _number(job, resource)
    return default if value is None else int(value)


def _number(job: Any, resource: str) -> float | None:
    value = job.resources.get(resource)
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise PackingError(f"{resource}: {value!r}, allowed: a number") from error
