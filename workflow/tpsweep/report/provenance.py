"""Section "what ran on what": node classes and software by the rows, models by the cells."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tpsweep.analysis.table import Record, Table, make_grid, model_name, sort_key
from tpsweep.report.boxes import Box, Part

_MODEL = ("model", "model_revision", "dtype", "weights")
_MODEL_HEADINGS = ["Model", "Revision", "Dtype", "Weights", "Cells measured", "Cells planned"]
_PLANNED = ("measured", "failed", "missing")


def make_provenance(machines: Table, cells: list[Record], limit: int) -> Part:
    """One line per node class and number of GPUs, and one per model."""
    boxes = []
    if machines.records:
        grid = make_grid(machines.views, machines.records)
        boxes.append(Box(machines.title, grid.headings, grid.lines[:limit]))
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for cell in cells:
        if cell["state"] in _PLANNED:
            groups[tuple(cell[name] for name in _MODEL)].append(cell)
    if groups:
        ordered = sorted(groups.values(), key=lambda found: sort_key(found[0], _MODEL))
        boxes.append(Box("Models", _MODEL_HEADINGS, [_line(found) for found in ordered[:limit]]))
    return Part(boxes, machines.empty)


def _line(cells: list[Record]) -> list[str]:
    measured = sum(cell["state"] == "measured" for cell in cells)
    rest = ("none" if cells[0][name] is None else str(cells[0][name]) for name in _MODEL[1:])
    return [model_name(cells[0]), *rest, str(measured), str(len(cells))]
