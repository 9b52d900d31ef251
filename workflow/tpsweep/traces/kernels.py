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

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "other", "norm_half")
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
    """All rows, and the two patterns beside them."""

    rows: tuple[Kernel, ...]
    copy: re.Pattern[str]
    unknown: re.Pattern[str]

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
    return Table(rows, re.compile(data["copy"]), re.compile(data["unknown"]))


def classify(names: list[str]) -> NameClasses:
    """Class of each name. Names are few (hundreds) however many events there are."""
    known = table()
    rows = np.array([known.row_of(name) for name in names], dtype=np.int64)
    copies = np.array([bool(known.copy.search(name)) for name in names], dtype=np.bool_)
    unknown = np.array([bool(known.unknown.search(name)) for name in names], dtype=np.bool_)
    return NameClasses(rows, copies, unknown & (rows < 0))
