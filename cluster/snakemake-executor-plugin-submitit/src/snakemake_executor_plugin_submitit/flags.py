"""From a session's needs and the site to the flags of sbatch: pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .packing import SessionKey
from .site import MARGIN_MINUTES, ONE_LINE, Site, SiteError, is_one_line
from .slurm.environment import FOR_SRUN

GRID = (5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 360, 480, 720, 1440)
"""Time limits in minutes; beyond, whole days. Sessions of similar length share an array."""
DAY = 1440
ANNOUNCED_S = 30
SETUP_FAILED = 78
"""EX_CONFIG of sysexits.h."""
MEMORY = {"mem", "mem-per-cpu", "mem-per-gpu"}
"""sbatch takes one of them."""
OF_THE_JOB = {"gpus"}
"""Flags of the whole job; ``{n}`` of all others is of one node (there is one task on each)."""


@dataclass(frozen=True)
class SlurmParameters:
    """What the jobs of one array have in common.

    ``flags`` are sbatch's long names without dashes, with a value or True for a bare flag;
    ``setup`` lines of the batch script; ``minutes`` the time limit; ``cpus`` are those of each of
    ``nodes``.
    """

    flags: tuple[tuple[str, str | bool], ...]
    setup: tuple[str, ...]
    minutes: int
    cpus: int
    nodes: int = 1

    def submitit(self) -> dict[str, Any]:
        """Arguments of ``submitit.SlurmExecutor.update_parameters``."""
        return {
            "time": self.minutes,
            "nodes": self.nodes,
            "ntasks_per_node": 1,
            "cpus_per_task": self.cpus,
            "wckey": None,  # submitit's own is refused where keys are enforced
            "setup": list(self.setup),
            # A session that has lost the runner of one of its nodes is of no use.
            "srun_args": ["--kill-on-bad-exit=1"] if self.nodes > 1 else [],
            # submitit asks for SIGUSR2, by which most programs end at once.
            "additional_parameters": {**dict(self.flags), "signal": f"TERM@{ANNOUNCED_S}"},
        }

    def __str__(self) -> str:
        """The flags for people, on one line."""
        words = [
            f"--{name}" if value is True else f"--{name}={value}" for name, value in self.flags
        ]
        nodes = [f"--nodes={self.nodes}"] if self.nodes > 1 else []
        return " ".join([*words, *nodes, f"--time={self.minutes}"])


def slurm_parameters(
    key: SessionKey,
    minutes: int | None,
    site: Site,
    environ: Mapping[str, str],
    threads: int = 1,
    mem_mb: int | None = None,
) -> SlurmParameters:
    """The parameters of a session that takes ``minutes`` at most (None: as long as it may).

    Raises ``SiteError`` if the account or a time limit is missing.
    """
    flags: dict[str, str | bool] = dict(site.slurm)
    cpus = threads
    if key.gpu_type:
        known = site.gpus[key.gpu_type]
        flags |= {
            name: value.format(n=key.gpus if name in OF_THE_JOB else key.gpus_per_node)
            if isinstance(value, str)
            else value
            for name, value in known.slurm.items()
        }
        cpus = max(known.cpus_per_gpu * key.gpus_per_node, threads)
    if site.qos is not None:
        flags["qos"] = site.qos
    if (account := account_of(site, environ)) is not None:
        flags["account"] = account
    for name, asked in (("partition", key.partition), ("constraint", key.constraint)):
        if asked:
            flags[name] = asked
    flags = {name: value for name, value in flags.items() if value is not False}
    if key.mem_mb_per_cpu:
        flags = {name: value for name, value in flags.items() if name not in MEMORY}
        flags["mem-per-cpu"] = f"{key.mem_mb_per_cpu}M"
    elif mem_mb:  # a job's own word on it counts more than the site's for all
        flags = {name: value for name, value in flags.items() if name not in MEMORY}
        flags["mem"] = f"{mem_mb}M"
    if "requeue" not in flags:  # the cluster's default is to requeue, unknown to the executor
        flags["no-requeue"] = True
    return SlurmParameters(
        flags=tuple(sorted(flags.items())),
        setup=(*_checked(site.setup), *FOR_SRUN),
        minutes=_time_limit(minutes, site.session_minutes(key.gpu_type)),
        cpus=cpus,
        nodes=key.nodes,
    )


def _checked(lines: Iterable[str]) -> Iterator[str]:
    """Lines of a batch script that end it, and say which, if one of them fails."""
    for line in lines:
        yield line
        said = shlex.quote(f"setup failed: {line}")
        yield f"[ $? -eq 0 ] || {{ echo {said} >&2; exit {SETUP_FAILED}; }}"


def account_of(site: Site, environ: Mapping[str, str]) -> str | None:
    """The account that jobs are charged to, None if the site needs none; raises ``SiteError``."""
    if site.account_env is None:
        return None
    account = environ.get(site.account_env, "")
    if not account:
        raise SiteError(f"account_env: {site.account_env} is not set, allowed: an account")
    if not is_one_line(account):
        raise SiteError(f"account_env: {site.account_env} is {account!r}, allowed: {ONE_LINE}")
    return account


def _time_limit(minutes: int | None, longest: int | None) -> int:
    if minutes is None:
        if longest is None:
            raise SiteError("runtime: missing, allowed: minutes (the site has no max_minutes)")
        return longest
    asked = minutes + MARGIN_MINUTES
    rounded = next((step for step in GRID if step >= asked), -(-asked // DAY) * DAY)
    return rounded if longest is None else min(rounded, longest)
