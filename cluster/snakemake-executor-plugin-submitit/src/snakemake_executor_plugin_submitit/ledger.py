"""Which sessions were given to the scheduler and are still to be followed: a file that survives.

``ledger.jsonl`` in the log folder, one event per line, each appended in one write. An intent is
written before sbatch is called and names the job, so that a main process killed at any moment
leaves enough to find its jobs again. Opening the file rewrites it, without closed sessions and
without a last line that was cut short.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .spool import write_atomically


@dataclass
class Entry:
    """One submission: an array (or a job) called ``name`` with a session per element.

    ``sessions`` maps open sessions to their element's position; ``jobs`` are the elements' ids, []
    until it is known whether sbatch took them. ``minutes`` is its time limit.
    """

    name: str
    sessions: dict[str, int]
    minutes: int
    jobs: list[str] = field(default_factory=list)

    def job_of(self, session: str) -> str:
        """The scheduler's id of a session's job."""
        return self.jobs[self.sessions[session]]


class Ledger:
    """The open submissions, in memory and in the file.

    ``damaged`` lines could not be understood when it was opened: something else wrote into it.
    ``is_new``: there was none. Only ``intend`` raises ``OSError``: what cannot be written later is
    found again in Slurm's queue, and ``say`` is told.
    """

    def __init__(self, path: Path, say: Callable[[str], None] = lambda _: None) -> None:
        self.path = path
        self.say = say
        self.is_new = not path.exists()
        self.entries: dict[str, Entry] = {}
        self._names: dict[str, str] = {}  # session -> submission
        self.damaged = 0
        for line in _lines(path):
            try:
                self._apply(json.loads(line))
            except (ValueError, KeyError, TypeError):
                self.damaged += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            json.dumps(event) for entry in self.entries.values() for event in _as_events(entry)
        ]
        write_atomically(path, "".join(f"{line}\n" for line in lines))

    def intend(self, name: str, sessions: Iterable[str], minutes: int) -> None:
        """``name`` is about to be submitted. Raises ``OSError`` if that cannot be written."""
        self._write(
            {"event": "intent", "name": name, "sessions": list(sessions), "minutes": minutes}
        )

    def submitted(self, name: str, jobs: list[str]) -> None:
        """``name`` was taken: the ids of its elements."""
        self._note({"event": "submitted", "name": name, "jobs": jobs})

    def refused(self, name: str) -> None:
        """``name`` was not taken, and never will be."""
        self._note({"event": "refused", "name": name})

    def close(self, session: str) -> None:
        """All jobs of ``session`` are reported: nobody will ask for it again."""
        if session in self._names:
            self._note({"event": "closed", "session": session})

    def _note(self, event: dict[str, Any]) -> None:
        try:
            self._write(event)
        except OSError as error:
            self.say(f"{self.path}: {error.strerror}")
            self._apply(event)

    def _write(self, event: dict[str, Any]) -> None:
        data = json.dumps(event).encode() + b"\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            before = os.fstat(descriptor).st_size
            if os.write(descriptor, data) != len(data):
                os.ftruncate(descriptor, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        finally:
            os.close(descriptor)
        self._apply(event)

    def _apply(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "intent":
            positions = {session: k for k, session in enumerate(event["sessions"]) if session}
            if not positions:
                raise ValueError("an intent without sessions")
            self.entries[event["name"]] = Entry(event["name"], positions, event["minutes"])
            self._names.update(dict.fromkeys(positions, event["name"]))
        elif kind == "submitted":
            self.entries[event["name"]].jobs = event["jobs"]
        elif kind == "refused":
            for session in self.entries.pop(event["name"]).sessions:
                del self._names[session]
        elif kind == "closed":
            entry = self.entries[self._names.pop(event["session"])]
            del entry.sessions[event["session"]]
            if not entry.sessions:
                del self.entries[entry.name]


def _as_events(entry: Entry) -> Iterable[dict[str, Any]]:
    """An open entry as it is rewritten; closed sessions leave a gap, so that positions hold."""
    sessions = [""] * (max(entry.sessions.values()) + 1)
    for session, position in entry.sessions.items():
        sessions[position] = session
    yield {"event": "intent", "name": entry.name, "sessions": sessions, "minutes": entry.minutes}
    if entry.jobs:
        yield {"event": "submitted", "name": entry.name, "jobs": entry.jobs}


def _lines(path: Path) -> list[bytes]:
    """Whole lines; what follows the last newline was cut short."""
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
