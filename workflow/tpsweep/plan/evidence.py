"""What cells and engine starts took here, for those of which nothing can be expected (a CPU, a card
without datasheet figures, a model that cannot be counted): from the rows in the results folder.

Rows of an older matrix count, too. A cell takes what the rows nearest to it took, by the iteration.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from tpsweep.core import results_paths
from tpsweep.core.axes import LAYOUT
from tpsweep.core.cell import Cell, Engine
from tpsweep.results.rows import read_rows

_KIND = ("workload", "gpu_card", "model")
_NEARER = (
    tuple(axis.name for axis in LAYOUT),
    ("input_len", "output_len", "dataset"),
    ("batch", "num_prompts", "request_rate", "max_concurrency"),
)
"""Rows that agree in these are nearer, one group after the other."""
_ROW = ("warmups", "repeats", "started_at", "ended_at", "engine_id", "engine_start_s")


@dataclass(frozen=True)
class Evidence:
    """``rows``: the identity and ``_ROW`` of each row."""

    rows: Sequence[dict[str, Any]] = ()

    @classmethod
    def of(cls, results: Path) -> Evidence:
        """All rows below ``results`` that can be read and were measured here."""
        files = (results / results_paths.CELLS).rglob(f"*{results_paths.ROW_SUFFIX}")
        places = {
            results_paths.cell_id_of(path.name): path.relative_to(results).as_posix()
            for path in files
            if not path.name.startswith(".")
        }
        if not places:
            return cls()
        names = [*_KIND, *(name for group in _NEARER for name in group), *_ROW, "imported"]
        found = read_rows(results, places).rows.select(names).to_pylist()
        return cls([row for row in found if not row["imported"]])

    def seconds(self, cell: Cell) -> float | None:
        """What the cell should take on its engine; None without a row of its kind."""
        wanted = cell.columns()
        near = self._by_kind.get(tuple(wanted[name] for name in _KIND), [])
        for names in _NEARER:
            same = [row for row in near if all(row[name] == wanted[name] for name in names)]
            near = same or near
        return median(map(_each, near)) * (cell.warmups + cell.repeats) if near else None

    def start_seconds(self, engine: Engine) -> float | None:
        """What the engine's start should take: of this model on this card, else of any on it."""
        of_card = [start for start in self._starts if start["gpu_card"] == engine.gpu_card]
        same = [start for start in of_card if start["model"] == engine.model.name]
        return median(start["engine_start_s"] for start in same or of_card) if of_card else None

    @cached_property
    def _by_kind(self) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
        found = defaultdict(list)
        for row in self.rows:
            if row["started_at"] and row["ended_at"] and row["repeats"]:
                found[tuple(row[name] for name in _KIND)].append(row)
        return found

    @cached_property
    def _starts(self) -> list[dict[str, Any]]:
        known = [row for row in self.rows if row["engine_id"] and row["engine_start_s"]]
        return list({row["engine_id"]: row for row in known}.values())


def _each(row: dict[str, Any]) -> float:
    """Seconds of an iteration."""
    began, ended = (datetime.fromisoformat(row[name]) for name in ("started_at", "ended_at"))
    iterations = int(row["warmups"] or 0) + int(row["repeats"])
    return (ended - began).total_seconds() / iterations
