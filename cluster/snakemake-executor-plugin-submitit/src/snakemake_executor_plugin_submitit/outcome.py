"""How a job ended, as the executor reports it to Snakemake."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from .spool import Result, Spool, write_atomically

FAILED = "failed"
"""The job ended by itself, with an exit code that is not 0."""
CUT_OFF = (
    "preempted",
    "node_failure",
    "lost",
    "crash",
    "timeout",
    "cancelled",
    "out_of_memory",
    "stuck",
)
"""Ways in which a session ends before its jobs do; ``timeout`` and ``out_of_memory`` end one job
alone, too. ``lost``: nothing is known of the session any more. ``crash``: it ended by itself.
"""
REFUSED = "submit"
"""The scheduler did not take the job."""
STUCK = "stuck"
"""The scheduler holds the job back for a reason that somebody has to remove."""
FINAL = ("out_of_memory", "cancelled", STUCK, REFUSED)
"""Not worth another attempt: it would end the same way, or somebody wanted it to end."""
FINAL_EXIT_CODE = 65
"""EX_DATAERR of sysexits.h. A job says by it that it would fail again: ``--retries`` leaves it."""
TELLING_LINES = 12
_FULL = re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE)
_TELLING = re.compile(r"error|exception|killed|out of memory|no space|traceback", re.IGNORECASE)


@dataclass(frozen=True)
class Outcome:
    """How a job ended: ``kind`` is "" if well, ``message`` says what went wrong.

    ``job`` is the scheduler's id of the job that ran it. ``by_itself``: the job's own program came
    to its end, and could say why it failed. ``seconds`` it took, None if that is not known.
    """

    kind: str = ""
    message: str = ""
    logs: list[Path] = field(default_factory=list)
    job: str = ""
    code: int | None = None
    seconds: float | None = None

    @property
    def by_itself(self) -> bool:
        """Whether the job's own program ended, so that it could say itself why it failed."""
        return self.kind in ("", FAILED)

    @property
    def is_final(self) -> bool:
        """Whether another attempt would be pointless."""
        return self.kind in FINAL or self.code == FINAL_EXIT_CODE

    @property
    def is_for_memory(self) -> bool:
        """Whether an attempt that asks for more memory may end otherwise."""
        return self.kind == "out_of_memory"

    def last_words(self) -> str:
        """Where the job's log is and how it ends, in one line."""
        log = next((log for log in self.logs if log.exists()), None)
        if log is None:
            return "it has no log"
        lines = [line.strip() for line in _tail(log).splitlines() if line.strip()]
        return f"its log {log} " + (f"ends: {lines[-1][:300]}" if lines else "is empty")

    def record(self, path: Path) -> None:
        """Write what is known as JSON, for whoever asks later why there is no output."""
        path.parent.mkdir(parents=True, exist_ok=True)
        log = next((log for log in self.logs if log.exists()), None)
        said = {
            "type": self.kind,
            "message": self.message,
            "log": str(log or ""),
            "telling_lines": _telling_lines(log) if log else [],
            "job": self.job,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_atomically(path, json.dumps(said, indent=1) + "\n")


def of_result(result: Result, spool: Spool, log: Path, job: str = "") -> Outcome:
    """The outcome of a job that the session's runner saw to its end."""
    session, took = spool.folder.name, result.seconds
    if result.ok:
        return Outcome(job=job, code=0, seconds=took)
    if result.reason == "timeout":
        said = f"ended at its time limit in session {session}"
        return Outcome("timeout", said, [log], job, seconds=took)
    if result.reason == "out_of_memory":
        said = f"killed by the kernel (out of memory) in session {session}"
        return Outcome("out_of_memory", said, [log], job, seconds=took)
    said = f"exit code {result.code} in session {session}"
    if result.note:
        said += f"; {result.note}"
    elif log.exists() and (full := _FULL.search(_tail(log))):
        said += f"; its log says: {full[0]}"
    return Outcome(FAILED, said, [log], job, result.code, took)


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 100_000))
        return file.read().decode("utf-8", "replace")


def _telling_lines(log: Path) -> list[str]:
    lines = [line.strip() for line in _tail(log).splitlines()]
    telling = [line for line in lines if _TELLING.search(line)] or [x for x in lines if x][-3:]
    return [line[:300] for line in telling[-TELLING_LINES:]]
