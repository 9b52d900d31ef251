"""A typed record of why a cell has no row: ``results/failures/<cell_id>.json``.

Standard library only: the clients import it once per cell.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tpsweep.core.atomic import replacing

TYPES = (
    "out_of_memory",  # GPU or host memory: the same cell will fail again
    "engine_start",  # the engine never became ready
    "crash",  # the engine or its daemon died during the cell
    "timeout",  # the cell's own time limit
    "invalid",  # measured, but refused by the rules of measuring
    "preempted",  # the scheduler took the nodes
    "cancelled",  # Ctrl-C, or the job was cancelled
    "write",  # the row could not be written (disk full, no permission)
    "preflight",  # the node class failed its preflight: nothing was submitted
    "unreadable",  # there was a row, and it could not be read
    # Reported by the executor when a session ends before its cells do:
    "node_failure",
    "lost",  # neither squeue nor sacct knew the job any more
    "submit",  # sbatch refused it
)
WOULD_FAIL_AGAIN = ("out_of_memory", "invalid")
"""Types that would fail again: no retry."""
FINAL_EXIT_CODE = 65
"""EX_DATAERR of sysexits.h: tells the executor not to retry."""
STOPPED = "stopped: the run was hopeless"
"""Error of a request that we cut off with its run (``core.slo_counts.Stop``): the server did not
fail. vLLM's load generator prints it as one, up to ten for each such run."""

_TELLING = re.compile(
    r"error|exception|killed|out of memory|traceback|assert|no space|refused|signal", re.IGNORECASE
)
_OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|CUDA out of memory|oom-kill|DefaultCPUAllocator: can't allocate"
    r"|No available memory for the cache blocks|less than desired GPU memory utilization"
    r"|KV cache is needed, which is larger than the available",
    re.IGNORECASE,
)
_LOG_TAIL_BYTES = 400_000
_TELLING_LINES = 12
_LINE_LIMIT = 300


def in_words(kind: str, message: str) -> str:
    """Type and message as people read them; a preflight's message names the type itself."""
    return message if message.startswith(kind) else f"{kind}: {message}"


@dataclass(frozen=True)
class Failure:
    """Why a cell has no row. ``type`` is one of ``TYPES``; ``log`` is a path or empty."""

    cell_id: str
    workload: str
    cell: str  # the row's path below the results root, for people
    type: str
    message: str
    log: str = ""
    telling_lines: list[str] = field(default_factory=list)
    session_id: str = ""
    host: str = ""
    when: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def write(self, folder: Path) -> Path:
        """Write the record atomically as ``folder/<cell_id>.json``; returns the path."""
        path = folder / f"{self.cell_id}.json"
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", "utf-8")
        return path


def log_size(path: str) -> int:
    """Bytes in a log now, to read later only what came after; 0 if there is none."""
    return Path(path).stat().st_size if path and Path(path).exists() else 0


def log_since(path: str, offset: int = 0) -> str:
    """A log's text from ``offset`` on, at most its last 400 kB; empty if there is none."""
    size = log_size(path)
    if not size:
        return ""
    with Path(path).open("rb") as file:
        file.seek(max(offset, size - _LOG_TAIL_BYTES))
        return file.read().decode("utf-8", "replace")


def telling_lines(text: str) -> list[str]:
    """The last lines of a log that look like a cause, shortened; without one, its last lines.

    Requests that we cut off ourselves are no cause.
    """
    stripped = (line.strip() for line in text.splitlines())
    lines = [line for line in stripped if line and not line.endswith(STOPPED)]
    telling = [line for line in lines if _TELLING.search(line)] or lines[-3:]
    return [line[:_LINE_LIMIT] for line in telling[-_TELLING_LINES:]]


def classify(default: str, text: str) -> str:
    """``out_of_memory`` if ``text`` (message and log) says so, else ``default``."""
    return "out_of_memory" if _OUT_OF_MEMORY.search(text) else default
