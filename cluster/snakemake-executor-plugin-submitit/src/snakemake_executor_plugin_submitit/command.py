"""What a session runs for a Snakemake job: its shell command itself, or a nested Snakemake."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake.shell import MAX_ARG_LEN, shell

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""What Snakemake sets to a job's ``threads``."""
TEMPORARY_VARIABLES = ("TMPDIR", "TMP", "TEMPDIR", "TEMP")
"""What Snakemake sets to a job's ``tmpdir`` resource."""
UNKNOWN_HERE = "<TBD>"
"""What Snakemake fills in for a resource that is known where the job runs."""
PLAIN_FLAGS = {"temp", "protected", "report", "ensure", "nonempty", "sha256", "touch"}
"""Marks of outputs that the main process deals with."""


@dataclass(frozen=True)
class Command:
    """A program with its arguments and what must be so before it starts."""

    argv: list[str]
    is_nested: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    stale: list[Path] = field(default_factory=list)
    markers: list[Path] = field(default_factory=list)


def command_of(job: Any, nested: Callable[[Any], str]) -> Command:
    """The command of ``job``; ``nested`` formats the command line of a nested Snakemake.

    Starting a nested Snakemake takes about 3 s, which a session pays between every two cells, so
    a plain shell command is run as it is, with the environment and folders that Snakemake gives.
    """
    if not _is_plain(job):
        return Command(["bash", "-c", nested(job)], is_nested=True, markers=_markers(job))
    executable = shell.get_executable() or "/bin/sh"
    parts = (shell._get_process_prefix(), job.shellcmd, shell._process_suffix)
    environment = {name: str(job.threads) for name in THREAD_VARIABLES}
    if tmpdir := job.resources.get("tmpdir"):
        environment |= {name: str(tmpdir) for name in TEMPORARY_VARIABLES}
    outputs = [Path(str(path)) for path in job.output]
    logs = [Path(str(path)) for path in job.log]
    return Command(
        argv=[str(executable), "-c", " ".join(parts).strip()],
        environment=environment,
        folders=sorted({path.absolute().parent for path in outputs + logs}),
        stale=[path.absolute() for path in outputs],
        markers=_markers(job),
    )


def jobs_of(job: Any) -> list[Any]:
    """A job, or the jobs of a group."""
    return list(job.jobs) if job.is_group() else [job]


def log_name(job: Any, identity: str) -> str:
    """A file name that tells people which job it is, and is unique by ``identity``."""
    readable = "groupjob" if job.is_group() else str(job.rule.name)
    if not job.is_group():
        readable = "-".join([readable, *(str(v) for v in job.wildcards_dict.values())])
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", readable)[:80].strip("._-")
    return f"{safe}-{identity[:8]}.log"


def _markers(job: Any) -> list[Path]:
    """The files by which Snakemake marks outputs as incomplete, one per output.

    The session writes them, since it may begin without a main process, and the main process
    removes them as it records the result. None with another backend than files (a database).
    """
    persistence = jobs_of(job)[0].dag.workflow.persistence
    folder = getattr(persistence, "_incomplete_path", None)
    if folder is None:
        return []
    outputs = [path for one in jobs_of(job) for path in one.output]
    key_of = getattr(persistence, "_get_key", lambda path: path)  # older ones take the file itself
    keys = (key_of(path) for path in outputs)
    return [Path(persistence._record_path(folder, key)).absolute() for key in keys]


def _is_plain(job: Any) -> bool:
    """A ``shell:`` rule that uses nothing that Snakemake does on the job's side."""
    if job.is_group() or not job.is_shell or job.rule.shadow_depth is not None:
        return False
    deployed = job.conda_env_spec or job.container_img_url or job.env_modules
    if deployed or job.is_containerized or job.benchmark or job.resources.get("shell_exec"):
        return False
    files = [*job.input, *job.output, *job.log]
    if any(getattr(path, "is_storage", False) for path in files):
        return False
    if UNKNOWN_HERE in job.shellcmd:  # {resources.tmpdir}: only the node knows it
        return False
    flags = {flag for path in job.output for flag in getattr(path, "flags", {})}
    return flags <= PLAIN_FLAGS and len(job.shellcmd) < MAX_ARG_LEN
