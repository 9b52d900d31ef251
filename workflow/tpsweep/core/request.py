"""What a cell's client and the engine daemon say to each other. Standard library only.

Over the socket each sends one line of JSON. A daemon that cannot start leaves a file instead.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

SOCKET_NAME = "engine.sock"


@dataclass(frozen=True)
class Request:
    """What the daemon gets, as one line of JSON."""

    cell: str  # canonical JSON of the cell
    row: str  # absolute path of the row to write
    session_id: str
    session_log: str
    dataset: str = ""  # absolute path of the cell's file of requests, if it has one

    def to_line(self) -> bytes:
        """One line of JSON, newline included."""
        return _line(asdict(self))

    @classmethod
    def from_line(cls, line: bytes) -> Request:
        """Inverse of ``to_line``."""
        return cls(**json.loads(line))


@dataclass(frozen=True)
class Answer:
    """What a client gets back: done, or why not (``type`` is one of ``core.failure.TYPES``)."""

    ok: bool
    type: str = ""
    message: str = ""

    def to_line(self) -> bytes:
        """One line of JSON, newline included."""
        return _line(asdict(self))

    @classmethod
    def from_line(cls, line: bytes) -> Answer:
        """Inverse of ``to_line``."""
        return cls(**json.loads(line))


@dataclass(frozen=True)
class StartFailure:
    """Why the engine did not start; ``type`` is one of ``core.failure.TYPES``."""

    type: str
    message: str

    def write(self, session: Path) -> None:
        """Leave it in the session's folder."""
        (session / _START_FAILURE).write_bytes(_line(asdict(self)))

    @classmethod
    def read(cls, session: Path) -> StartFailure:
        """That of a session's folder; raises ``OSError`` without, ``ValueError`` for another."""
        try:
            return cls(**json.loads((session / _START_FAILURE).read_text("utf-8")))
        except TypeError as error:
            raise ValueError(f"{session / _START_FAILURE}: {error}") from error


_START_FAILURE = "start_failure.json"


def _line(fields: dict[str, object]) -> bytes:
    return json.dumps(fields).encode() + b"\n"
