"""Static batches as compact matrices: batches down, layouts across, a matrix per value."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tpsweep.analysis.series import KEY
from tpsweep.analysis.table import Record, digits
from tpsweep.core.layout import Layout
from tpsweep.figures.groups import series_name
from tpsweep.report.boxes import Box

VALUES = (
    ("tpot_ms", "Decode (ms/token)"),
    ("prefill_ms", "Prefill (ms)"),
    ("output_tok_s_per_gpu", "Output per GPU (tok/s)"),
)
_SETTING = (*(name for name in KEY if name != "batch"), "allreduce_backend")


@dataclass(frozen=True)
class Matrices:
    """The matrices of a setting; ``left_out``: layouts without any value, and why."""

    title: str
    boxes: tuple[Box, ...]
    left_out: str


def make_matrices(records: Iterable[Record], limit: int) -> tuple[Matrices, ...]:
    """Of settings with several values; at most ``limit`` batches."""
    settings: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        if not record["imported"]:
            settings[tuple(record[name] for name in _SETTING)].append(record)
    found: list[Matrices] = []
    for own in settings.values():
        cells = {(record["batch"], Layout.of(record)): record for record in own}
        known = [place for place, record in cells.items() if record["tpot_ms"] is not None]
        limit -= len({batch for batch, _ in known})
        if len(known) > 1 and limit >= 0:
            found.append(_matrices(own[0], cells, known))
    return tuple(found)


def _matrices(
    first: Record,
    cells: dict[tuple[int, Layout], Record],
    known: list[tuple[int, Layout]],
) -> Matrices:
    layouts = sorted({layout for _, layout in cells}, key=lambda layout: layout.order)
    shown = [layout for layout in layouts if any(layout == one for _, one in known)]
    batches = sorted({batch for batch, _ in known})
    headings = ["Batch", *(layout.label for layout in shown)]
    boxes = tuple(
        Box(
            title,
            headings,
            [
                [str(batch), *(_word(cells.get((batch, layout)), name) for layout in shown)]
                for batch in batches
            ],
        )
        for name, title in VALUES
    )
    states = {layout: _word(record, "tpot_ms") for (_, layout), record in cells.items()}
    left_out = [f"{one.label}: {states[one]}" for one in layouts if one not in shown]
    return Matrices(series_name(first), boxes, "; ".join(left_out))


def _word(record: Record | None, name: str) -> str:
    if record is None:
        return ""
    if record[name] is not None:
        return digits(record[name])
    state = str(record["state"]).split(":")[0]
    return "not measured" if state == "missing" else state
