"""Static batches as compact matrices: batches down, layouts across, a matrix per value."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from tpsweep.analysis.series import KEY
from tpsweep.analysis.table import IDENTITY_VIEWS, Record, digits, make_grid, model_name
from tpsweep.core.layout import Layout
from tpsweep.report.boxes import UNPLANNED, Box

VALUES = (
    ("tpot_ms", "Decode (ms/token)"),
    ("prefill_ms", "Prefill (ms)"),
    ("output_tok_s_per_gpu", "Output per GPU (tok/s)"),
)
_SETTING = (*(name for name in KEY if name != "batch"), "allreduce_backend")


def make_matrices(records: Iterable[Record], limit: int) -> list[Box]:
    """Of settings that have several layouts or batches; at most ``limit`` lines."""
    settings: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        if not record["imported"]:
            settings[tuple(record[name] for name in _SETTING)].append(record)
    told = _told(list(settings.values()))
    boxes: list[Box] = []
    for own, common in zip(settings.values(), told, strict=True):
        for name, title in VALUES:
            box = _matrix(own, name, title, common)
            if box is not None and sum(len(one.lines) for one in (*boxes, box)) <= limit:
                boxes.append(box)
    return boxes


def _matrix(
    records: list[Record], name: str, title: str, common: list[tuple[str, str]]
) -> Box | None:
    cells = {(record["batch"], Layout.of(record)): record for record in records}
    known = {place for place, record in cells.items() if record[name] is not None}
    layouts = sorted({layout for _, layout in cells}, key=lambda layout: layout.order)
    shown = [one for one in layouts if any(layout == one for _, layout in known)]
    batches = sorted({batch for batch, _ in known})
    if len(known) < 2:
        return None
    lines = [
        [str(batch), *(_word(cells.get((batch, layout)), name) for layout in shown)]
        for batch in batches
    ]
    # A layout without any value is a remark, not a column.
    left = [
        (layout.label, _word(next(r for (_, one), r in cells.items() if one == layout), name))
        for layout in layouts
        if layout not in shown
    ]
    caption = f"{title}: {model_name(records[0])} on {records[0]['gpu']}"
    return Box(caption, ["Batch", *(layout.label for layout in shown)], lines, [*common, *left])


def _word(record: Record | None, name: str) -> str:
    if record is None:
        return ""
    if record[name] is not None:
        return digits(record[name])
    state = str(record["state"]).split(":")[0]
    return state if state in UNPLANNED else "n/a"


def _told(settings: list[list[Record]]) -> list[list[tuple[str, str]]]:
    """What is common to each setting, without what all of them have in common, or the caption."""
    views = [view for view in IDENTITY_VIEWS if view.heading not in ("GPU", "Model")]
    found = [make_grid(views, own).common for own in settings]
    shared = set.intersection(*map(set, found)) if found else set()
    return [[pair for pair in common if pair not in shared] for common in found]
