"""What a session must do, as the file ``spec.json`` of its spool. Standard library only."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .spool import Spool, write_atomically

GRACE_S = 10.0


@dataclass(frozen=True)
class Cell:
    """One job's command: ``limit_s`` seconds, None for no limit.

    Before it starts, ``folders`` are made, ``stale`` files are removed and ``markers`` written:
    Snakemake's own marks of incomplete outputs. They stay until Snakemake has recorded the result,
    so that a result that no main process saw is looked at before it is taken. ``wanted`` says what
    the job must do (see ``wanted.digest``): results with another digest are not this job's.
    """

    id: str
    argv: list[str]
    log: Path
    limit_s: float | None = None
    environment: dict[str, str] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    stale: list[Path] = field(default_factory=list)
    markers: list[Path] = field(default_factory=list)
    wanted: str = ""


@dataclass(frozen=True)
class SessionSpec:
    """All that a runner needs. ``folder`` is the session's spool, below the log folder.

    ``environment`` is set for the command and the cells (None: unset). ``start_limit_s`` is the
    time that the command has to become ready; ``limit_s`` the time that the scheduler gives to all
    of it, None if there is no such limit. ``watched`` is (pid, start time) of a process on this
    host that the session must not outlive; None to watch none. ``grace_s`` seconds lie between
    SIGTERM and SIGKILL. ``nodes`` hold ``gpus`` together, in equal parts; the command runs on each
    of them, the cells on the first.
    """

    id: str
    key: str
    command: str | None
    cells: list[Cell]
    gpus: int
    workdir: Path
    folder: Path
    start_limit_s: float | None = None
    limit_s: float | None = None
    environment: dict[str, str | None] = field(default_factory=dict)
    watched: tuple[int, int] | None = None
    grace_s: float = GRACE_S
    nodes: int = 1

    @property
    def spool(self) -> Spool:
        """Where the session says what happened."""
        return Spool(self.folder)

    def write(self) -> None:
        """Write ``spec.json``; the folder is made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dataclasses.asdict(self), default=str)
        write_atomically(self.spool.spec, text)

    @classmethod
    def read(cls, folder: Path) -> SessionSpec:
        """The specification in a spool; raises ``OSError`` or ``ValueError`` if there is none."""
        data: dict[str, Any] = json.loads(Spool(folder).spec.read_text("utf-8"))
        cells = [_cell(cell) for cell in data.pop("cells")]
        watched = data.pop("watched")
        for name in ("workdir", "folder"):
            data[name] = Path(data[name])
        return cls(cells=cells, watched=tuple(watched) if watched else None, **data)


def _cell(data: dict[str, Any]) -> Cell:
    lists = {name: [Path(p) for p in data[name]] for name in ("folders", "stale", "markers")}
    return Cell(**{**data, "log": Path(data["log"]), **lists})
