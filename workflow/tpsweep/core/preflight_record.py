"""What a preflight checks and what it found, as files below the results root.

A class is a node class and a number of GPUs. Its record is ``preflight/<class>.json``, its marker
(there only if all is well) is what the class's cells wait for.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = "preflight"
MARKERS = ".preflight"
MINUTES = 10
"""The time limit of a preflight."""


def class_name(gpu: str, count: int) -> str:
    """A node class and a number of GPUs, as paths and people have it."""
    return f"{gpu}x{count}"


@dataclass(frozen=True)
class Request:
    """What a class must have. ``memory_gib``: of each GPU, None where the site does not say.

    ``real_weights``: the markers of the models whose weights are read, not made up. A marker is a
    file that says where a model's files are. ``imports``: vLLM is imported, to see that it works;
    on a host that runs the sessions itself that would only cost the time twice. ``nodes`` hold the
    GPUs; one of them is looked at.
    """

    gpu: str
    gpus: int
    card: str
    is_cpu: bool
    vllm_version: str
    real_weights: list[str]
    memory_gib: float | None = None
    imports: bool = True
    nodes: int = 1

    @property
    def on_node(self) -> int:
        """GPUs on one of its nodes."""
        return self.gpus // self.nodes

    @property
    def name(self) -> str:
        """The class's name in paths."""
        return class_name(self.gpu, self.gpus)

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Request:
        """Inverse of ``to_json``."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; ``said`` is what was found, and what was expected if not ok."""

    name: str
    ok: bool
    said: str


@dataclass(frozen=True)
class Record:
    """What a class's preflight found. ``link`` is the slowest between two GPUs, None for one."""

    name: str
    ok: bool
    checks: list[Check]
    host: str
    slurm_job_id: str | None
    link: str | None = None
    when: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def reason(self) -> str:
        """Why the class failed, in one line."""
        return "; ".join(f"{check.name}: {check.said}" for check in self.checks if not check.ok)

    @classmethod
    def read(cls, path: Path) -> Record:
        """A record, the job's own or the executor's; raises ``OSError`` or ``ValueError``."""
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
        try:
            if "checks" not in data:
                ended = Check(f"job ({data['type']})", False, data["message"])
                return cls(path.stem, False, [ended], "", data["job"] or None, when=data["when"])
            return cls(**{**data, "checks": [Check(**check) for check in data["checks"]]})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a preflight record: {error}") from error


def marker(name: str, day: str | None = None) -> str:
    """Path of a class's marker below the results root.

    It is good for one day (UTC): what a node had last week says nothing today, and a sweep that is
    typed again need not wait for the same answer.
    """
    return f"{MARKERS}/{day or datetime.now(UTC).date().isoformat()}/{name}.ok"


def record_path(name: str) -> str:
    """Path of a class's record below the results root."""
    return f"{FOLDER}/{name}.json"
