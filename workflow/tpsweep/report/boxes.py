"""Tables of the page, as plain text cells: the template escapes every one of them."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

from tpsweep.analysis.table import Grid, Record, Table, View, make_grid, model_name

_NUMBER = re.compile(
    r"(n/a|[-+]?\d[\d.]*( \([\d.]+ to [\d.]+\))?( ms \([-+\d.]+ %\))?|\d[\d.]* %|\d+/\d+"
    r"|\d{4}-\d\d-\d\d)?"
)
SMALLEST = 10
"""Lines that every box may have, however many boxes there are."""
_ONCE = ("Runs", "Saturated")
"""Said once on the page where all lines agree, to leave room for the figures."""
UNPLANNED = ("infeasible", "excluded")
_IN_CAPTION = ("GPU", "Model", "Site", "Workload")


@dataclass(frozen=True)
class Box:
    """One table: ``common`` is what all lines agree in, ``notes`` are lines below."""

    caption: str
    headings: list[str]
    lines: list[list[str]]
    common: list[tuple[str, str]] = field(default_factory=list)

    @property
    def numeric(self) -> list[bool]:
        """Per column: whether it holds only numbers, which are aligned right."""
        columns = zip(*self.lines, strict=True)
        return [all(_NUMBER.fullmatch(cell) for cell in column) for column in columns]


@dataclass(frozen=True)
class Part:
    """A section's tables; ``more`` lines were left out, ``more_in`` says where they are."""

    boxes: list[Box]
    empty: str = ""
    more: int = 0
    more_in: str = ""
    legend: tuple[str, ...] = ()


def make_part(table: Table, limit: int, empty: str) -> Part:
    """A comparison table as one box per model and node class, of ``limit`` lines together.

    Each has an equal share of them: no model fills the page alone.
    """
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in table.records:
        groups[record["model"], record["gpu"]].append(record)
    views = [_for_page(view) for view in table.views]
    boxes, shown = [], 0
    share = max(SMALLEST, limit // max(1, len(groups)))
    for (_, gpu), records in list(groups.items())[: limit // SMALLEST]:
        grid = make_grid(views, records[:share])
        shown += len(grid.lines)
        name = f"{table.title}: {model_name(records[0])} on {gpu}"
        boxes.append(_box(name, grid))
    more = len(table.records) - shown
    legend = table.legend if boxes else ()
    return Part(boxes, table.empty or empty, more, f"tables/{table.name}.csv", legend)


def make_plain(table: Table) -> Part:
    """A short table that is of no model or node class, as one box."""
    if not table.records:
        return Part([], table.empty)
    return Part([_box(table.title, make_grid(table.views, table.records))], legend=table.legend)


def _for_page(view: View) -> View:
    if view.heading == "State":
        return replace(view, show=_short_state, once=True)
    return replace(view, once=True) if view.heading in _ONCE else view


def _short_state(record: Record) -> str:
    """Without the reason of a cell that was never planned: the page gives it once, below."""
    state = str(record["state"])
    word = state.split(":")[0]
    return word if word in UNPLANNED else state


def _box(caption: str, grid: Grid) -> Box:
    """``grid`` without empty columns; lines without a figure have no interval to be unlike."""
    common = [(name, word) for name, word in grid.common if name not in _IN_CAPTION]
    kept: dict[str, list[str]] = {}
    for heading, column in zip(grid.headings, grid.columns, strict=True):
        words = set(column) - {""}
        if heading == "Intervals" and len(words) == 1:
            common.append((heading, words.pop()))
        elif words:
            kept[heading] = column
    lines = [list(line) for line in zip(*kept.values(), strict=True)]
    return Box(caption, list(kept), lines, common)
