"""The files through which a session says what happened, and is told to stop.

They are on a file system that all nodes share, and outlive both the session and the main process:
whoever comes later reads the same. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

REVOKED = "revoked"
NEWS = "news"
_OUT_OF_MEMORY = re.compile(r"oom-kill event|exceeded memory limit|oom_kill", re.IGNORECASE)


@dataclass(frozen=True)
class Result:
    """How a cell ended: exit code, and ``reason`` if the runner ended it ("" if it did not).

    ``seconds`` it took, None if it never ran; ``note`` is what else is known of a failure.
    """

    code: int
    reason: str = ""
    seconds: float | None = field(default=None, compare=False)
    note: str = field(default="", compare=False)

    @property
    def ok(self) -> bool:
        """Ended well, and by itself."""
        return self.code == 0 and not self.reason

    def write(self, path: Path) -> None:
        """Atomic: whoever sees the file sees all of it."""
        write_atomically(path, json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Result | None:
        """The result at ``path``; None if the cell has not ended, or nobody can read how."""
        text = _text(path)
        try:
            return None if text is None else cls(**json.loads(text))
        except (ValueError, TypeError):  # a file system that lost power, or was full
            return None


@dataclass(frozen=True)
class Spool:
    """One session's folder, below the log folder that all sessions share."""

    folder: Path

    @property
    def spec(self) -> Path:
        """What the session must do."""
        return self.folder / "spec.json"

    @property
    def log(self) -> Path:
        """Output of the session's command, over all its starts."""
        return self.folder / "session.log"

    def log_of(self, node: int) -> Path:
        """The same on another of its nodes than the first, of its part of the command."""
        return self.folder / f"session-{node}.log"

    @property
    def starts(self) -> Path:
        """One line per start of the command."""
        return self.folder / "starts"

    @property
    def ready_after_s(self) -> float | None:
        """Seconds that the command took to become ready; None if it is not."""
        text = _text(self.folder / "ready")
        return float(text) if text else None

    def say_ready(self, seconds: float) -> None:
        """Say that the command is ready, after so many seconds."""
        with contextlib.suppress(OSError):  # for people only: no session ends for lack of it
            write_atomically(self.folder / "ready", f"{seconds:.2f}")

    @property
    def pid(self) -> Path:
        """The runner's process id, for its own host."""
        return self.folder / "runner.pid"

    @property
    def records(self) -> Path:
        """One line per session that has ended, of all sessions."""
        return self.folder.parent / "sessions.jsonl"

    def result(self, cell_id: str) -> Path:
        """Where a cell's result appears."""
        return self.folder / f"{cell_id}.rc"

    # A session that the main process gave up on may still run on a node that nobody reaches, and
    # one that was requeued may run twice. The cells belong to whom ``owner`` names.

    def claim(self) -> str | None:
        """Take the session over from whoever ran it; the token that says so, None if revoked."""
        if self.owner == REVOKED:
            return None
        token = secrets.token_hex(8)
        write_atomically(self.folder / "owner", token)
        return token

    def revoke(self) -> None:
        """Tell the session's runner, wherever it is, to end itself."""
        write_atomically(self.folder / "owner", REVOKED)

    @property
    def owner(self) -> str | None:
        """The token of the runner that may run cells; ``REVOKED`` for none, None before any."""
        return _text(self.folder / "owner")

    # The end of a session that left cells undone.

    def end(self, reason: str) -> None:
        """Say why the session ended before all its cells did."""
        write_atomically(self.folder / "ended", reason)
        self.tell()

    def forget_end(self) -> None:
        """The session runs again: a requeued job."""
        for name in ("ended", "ready"):
            (self.folder / name).unlink(missing_ok=True)

    @property
    def end_reason(self) -> str | None:
        """Why the session ended before all its cells did; None if it has not said so."""
        return _text(self.folder / "ended")

    # One folder for all sessions tells which of them have anything new, so that looking costs the
    # same however many sessions and results there are.

    def tell(self) -> None:
        """Say that there is news of this session."""
        news = self.folder.parent / NEWS
        news.mkdir(exist_ok=True)
        (news / self.folder.name).touch()


def take_news(logdir: Path) -> list[str]:
    """Sessions with news since the last call.

    The mark is removed before the caller reads the spool: later writes set it again.
    """
    try:
        names = [entry.name for entry in os.scandir(logdir / NEWS)]
    except FileNotFoundError:
        return []
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            (logdir / NEWS / name).unlink()
    return names


def has_news(logdir: Path) -> bool:
    """Whether ``take_news`` would find any."""
    try:
        with os.scandir(logdir / NEWS) as entries:
            return any(entries)
    except OSError:
        return False


def says_out_of_memory(log: Path) -> bool:
    """Whether a job's log ends with one of Slurm's out-of-memory messages."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 20_000))
            return bool(_OUT_OF_MEMORY.search(file.read().decode("utf-8", "replace")))
    except FileNotFoundError:
        return False


def now() -> str:
    """The time, for records: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_atomically(path: Path, text: str) -> None:
    """Whoever sees the file sees all of it."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return None
