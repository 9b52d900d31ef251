"""A digest of what a job must do: it tells whether an earlier run's result is this job's result.

A main process that was killed leaves sessions that go on. What they have done, or are about to do,
counts only if it is what is wanted now: the same command, the same parameters, the same inputs.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from .command import Command, jobs_of
from .packing import SessionKey


def digest(job: Any, command: Command, key: SessionKey) -> str:
    """Equal for two runs of a job if neither command, params nor inputs have changed."""
    known = {
        # The command line of a nested Snakemake is another one in each run.
        "argv": None if command.is_nested else command.argv,
        # Without the number of nodes where it is 1: what an earlier version asked for is the same.
        "session": [
            key.session,
            key.command,
            key.gpu_type,
            key.gpus,
            *((key.nodes,) if key.nodes > 1 else ()),
        ],
        "jobs": [_one(one) for one in jobs_of(job)],
    }
    text = json.dumps(known, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def is_asked_anew(job: Any) -> bool:
    """Whether the user wants the job to run again, whatever there is of it.

    Snakemake's own word for it, ``reason.forced``, is also said of incomplete outputs.
    """
    return any(_is_forced(one) or _is_outdated(one) for one in jobs_of(job))


def is_newer(outputs: list[Path], inputs: list[Path]) -> bool:
    """Whether all outputs are there, and none is older than any of the inputs."""
    try:
        made = min((path.lstat().st_mtime for path in outputs), default=0.0)
    except FileNotFoundError:
        return False
    return all(path.stat().st_mtime <= made for path in inputs if path.is_file())


def outputs_of(job: Any) -> list[Path]:
    """What a job makes."""
    return [Path(str(path)).absolute() for one in jobs_of(job) for path in one.output]


def inputs_of(job: Any) -> list[Path]:
    """The input files whose age counts."""
    return [
        Path(str(path)).absolute()
        for one in jobs_of(job)
        for path in one.input
        if not (path.is_ancient or getattr(path, "is_storage", False))
    ]


def _one(job: Any) -> dict[str, Any]:
    rule = job.rule
    return {
        "rule": rule.name,
        "wildcards": dict(job.wildcards_dict),
        "shell": job.shellcmd if job.is_shell else None,
        "run": rule.run_func_src,
        "scripts": [str(rule.script), str(rule.notebook), str(rule.wrapper)],
        "params": job.dag.workflow.persistence._params(job),
        "input": sorted(map(str, job.input)),
        "files": sorted(_state(path) for path in inputs_of(job)),
        "output": sorted(map(str, job.output)),
        "threads": job.threads,
    }


def _state(path: Path) -> list[Any]:
    try:
        found = path.stat()
    except OSError:
        return [str(path)]
    return [str(path), found.st_mtime_ns, 0 if path.is_dir() else found.st_size]


def _is_forced(job: Any) -> bool:
    settings = job.dag.workflow.dag_settings
    if settings.forceall or (settings.forcetargets and job in job.dag.targetjobs):
        return True
    forced = set(settings.forcerun)
    return job.rule.name in forced or any(str(path) in forced for path in job.output)


def _is_outdated(job: Any) -> bool:
    reason = job.dag.reason(job)
    return bool(reason.updated_input or reason.updated_input_run) or bool(
        reason.is_provenance_triggered()
    )
