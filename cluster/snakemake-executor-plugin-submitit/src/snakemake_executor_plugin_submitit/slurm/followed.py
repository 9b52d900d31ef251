"""A session that Slurm has, as the main process sees it, and why it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..packing import Request
from ..spec import Cell, SessionSpec
from ..spool import says_out_of_memory
from . import queue
from .queue import Status
from .submission import logs


@dataclass
class Followed:
    """A session that Slurm has, with the cells whose end is still to come, in their order.

    For a session of an earlier main process, ``taken`` are the jobs that will take its results,
    and ``replaced`` those that it runs in an outdated version: they wait for its end.
    ``packed`` are jobs that share it without having asked for it.
    """

    spec: SessionSpec
    job: str
    folder: Path  # of the array: scripts, output of its jobs
    left: list[Cell]
    asked: set[str]  # cells that Snakemake waits for
    is_running: bool = False
    over: Status | None = None
    over_since: float = 0.0
    unknown_since: float | None = None
    is_pending: bool = False
    waits_for: str = ""  # what may not pass by itself
    waits_since: float | None = None
    given_up: str = ""  # why it was cancelled by us
    kind: str = ""  # of its end, once that is known
    is_waited_for: bool = False  # and somebody was told
    revoked_at: float | None = None
    packed: dict[str, Request] = field(default_factory=dict)
    taken: dict[str, Request] = field(default_factory=dict)
    replaced: dict[str, Request] = field(default_factory=dict)


def verdict(followed: Followed) -> str:
    """Why the session ended, from Slurm's final state, its log and what the runner said."""
    assert followed.over is not None
    kind = queue.OVER[followed.over.state]
    if kind == "cancelled" and followed.spec.spool.owner is None:  # it never began
        is_node = not followed.given_up and queue.was_refused_by_its_node(followed.job)
        return "node_failure" if is_node else kind
    if kind != "crash":
        return kind
    spec = followed.spec
    if any(says_out_of_memory(log) for log in logs(followed.folder, followed.job, spec.nodes)[::2]):
        return "out_of_memory"
    return spec.spool.end_reason or kind


def last_line(log: Path) -> str:
    """The last line of a log that is not empty, shortened; "" if there is none."""
    try:
        lines = log.read_text("utf-8", "replace").split("\n")
    except FileNotFoundError:
        return ""
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")
