"""Sections of what has no row: failures one by one, the other cells grouped and counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from tpsweep.analysis.table import Record, Table, joined, make_grid, model_name
from tpsweep.report.boxes import Box, Part

NO_HOLES = "Every cell of the matrix is planned and measured."


def make_failures(failures: Table, limit: int) -> Part:
    """One line per failed cell, at most ``limit``, with their count by type above."""
    if not failures.records:
        return Part([], failures.empty)
    counts = Counter(found["type"] for found in failures.records)
    grid = make_grid(failures.views, failures.records[:limit])
    common = [(kind, str(count)) for kind, count in counts.most_common()]
    more = max(0, len(failures.records) - limit)
    box = Box(failures.title, grid.headings, grid.lines, common)
    return Part([box], more=more, more_in=f"tables/{failures.name}.csv")


def make_holes(cells: list[Record], limit: int) -> Part:
    """Cells that were not run, by state and reason."""
    groups: dict[tuple[Any, Any], list[Record]] = defaultdict(list)
    for cell in cells:
        if cell["state"] not in ("measured", "failed"):
            groups[cell["state"], cell["reason"]].append(cell)
    if not groups:
        return Part([], NO_HOLES)
    lines = [
        [
            state,
            reason or ("not run yet" if state == "missing" else ""),
            str(len(found)),
            joined(map(model_name, found)),
            *(joined(cell[name] for cell in found) for name in ("gpu", "tp", "workload")),
        ]
        for (state, reason), found in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]
    headings = ["State", "Reason", "Cells", "Models", "GPU classes", "TP", "Workloads"]
    box = Box("Cells without a measurement", headings, lines[:limit])
    more = max(0, len(lines) - limit)
    return Part([box], more=more, more_in="tables/cells.csv")
