"""Tables of the page, as plain text cells: the template escapes every one of them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tpsweep.tables.table import Record, Table, make_grid

_NUMBER = re.compile(r"(n/a|[-+]?\d[\d.]*( \([\d.]+ to [\d.]+\))?( ms \([-+\d.]+ %\))?|\d+/\d+)?")
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
        """Per column: whether it holds nothing but numbers, which stand to the right."""
        columns = zip(*self.lines, strict=True)
        return [all(_NUMBER.fullmatch(cell) for cell in column) for column in columns]


@dataclass(frozen=True)
class Part:
    """A section's tables; ``more`` lines were left out, ``more_in`` says where they stand."""

    boxes: list[Box]
    empty: str = ""
    more: int = 0
    more_in: str = ""
    legend: tuple[str, ...] = ()


def make_part(table: Table, limit: int, empty: str) -> Part:
    """A comparison table as one box per model and node class, of ``limit`` lines together."""
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in table.records[:limit]:
        groups[record["model"], record["gpu"]].append(record)
    boxes = []
    for (model, gpu), records in groups.items():
        grid = make_grid(table.views, records)
        common = [(name, word) for name, word in grid.common if name not in _IN_CAPTION]
        headings, lines = _without_empty(grid.headings, grid.lines)
        boxes.append(Box(f"{table.title}: {model} on {gpu}", headings, lines, common))
    more = max(0, len(table.records) - limit)
    legend = table.legend if boxes else ()
    return Part(boxes, table.empty or empty, more, f"tables/{table.name}.csv", legend)


def joined(values: Iterable[Any], limit: int = 4) -> str:
    """Distinct values as a list for people; what is null is left out."""
    found = list(dict.fromkeys(str(value) for value in _flat(values)))
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return ", ".join(found[:limit]) + more


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            if value is not None and value == value:  # NaN is not itself
                yield value
        else:
            yield from _flat(value)


def _without_empty(
    headings: list[str], lines: list[list[str]]
) -> tuple[list[str], list[list[str]]]:
    kept = [at for at in range(len(headings)) if any(line[at] for line in lines)]
    return [headings[at] for at in kept], [[line[at] for at in kept] for line in lines]
