"""What a cell's client and the engine daemon say to each other. Standard library only."""

from __future__ import annotations

import json
from dataclasses import dataclass

SOCKET_NAME = "engine.sock"
START_FAILURE = "start_failure.json"


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
        return json.dumps(self.__dict__).encode() + b"\n"
