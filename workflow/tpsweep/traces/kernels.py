"""What a kernel is, by its name: the table ``data/kernels.yaml`` as objects."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import yaml

from tpsweep.traces.events import Bools, Ints

COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "dispatch",
    "combine",
    "exchange",
    "all_to_all",
    "send_recv",
    "generic",
    "other",
    "norm_half",
    "local",
)
EXPERTS = ("dispatch", "combine", "exchange", "all_to_all")
"""What moves tokens to the GPUs of their experts and back."""
COPIES = ("none", "before", "around")


@dataclass(frozen=True)
class Kernel:
    """One row of the table; the meaning of each field is written at its head."""

    pattern: str
    collective: str
    backend: str
    source: str
    versions: str
    algorithm: str | None = None
    fused: bool = False
    lower_bound: bool = False
    copies: str = "none"

    def __post_init__(self) -> None:
        for key, value, allowed in (
            ("collective", self.collective, COLLECTIVES),
            ("copies", self.copies, COPIES),
        ):
            if value not in allowed:
                raise ValueError(f"kernels.yaml: {key}: {value!r}; allowed: {', '.join(allowed)}")


@dataclass(frozen=True)
class Table:
    """All rows, and the patterns beside them; ``ambiguous``: names that run any collective,
    ``training``: names that only training has."""

    rows: tuple[Kernel, ...]
    copy: re.Pattern[str]
    unknown: re.Pattern[str]
    ambiguous: re.Pattern[str]
    training: re.Pattern[str]

    def of(self, *kinds: str) -> Bools:
        """Which rows are of one of the kinds of collective, shape (rows,)."""
        return np.array([row.collective in kinds for row in self.rows], dtype=np.bool_)

    def row_of(self, name: str) -> int:
        """Index of the first row that matches a kernel's name, -1 if none does."""
        for index, row in enumerate(self.rows):
            if re.search(row.pattern, name):
                return index
        return -1


@dataclass(frozen=True)
class NameClasses:
    """Classes of a list of names, each shape (names,): table row or -1, copy, unknown candidate."""

    row: Ints
    copy: Bools
    unknown: Bools


@cache
def table() -> Table:
    """The table as shipped."""
    text = files("tpsweep.traces").joinpath("data/kernels.yaml").read_text("utf-8")
    data: dict[str, Any] = yaml.safe_load(text)
    rows = tuple(Kernel(**row) for row in data["kernels"])
    patterns = (re.compile(data[key]) for key in ("copy", "unknown", "ambiguous", "training"))
    return Table(rows, *patterns)


_AS = " as nccl:"


def annotated(name: str, collective: str) -> str:
    """The name of a kernel that runs any collective, with the one that its annotation says;
    other names, and those that have one, as they are."""
    if _AS in name or not table().ambiguous.search(name):
        return name
    return f"{name}{_AS}{collective}"


def classify(names: list[str]) -> NameClasses:
    """Class of each name. Names are few (hundreds) however many events there are."""
    known = table()
    rows = np.array([known.row_of(name) for name in names], dtype=np.int64)
    copies = np.array([bool(known.copy.search(name)) for name in names], dtype=np.bool_)
    unknown = np.array([bool(known.unknown.search(name)) for name in names], dtype=np.bool_)
    local = np.append(known.of("local"), False)[rows]
    return NameClasses(np.where(local, -1, rows), copies, unknown & (rows < 0))
