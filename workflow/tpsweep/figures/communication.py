"""Figures: the share of communication against the batch, and what a decode step is made of."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from tpsweep import row
from tpsweep.figures.plot import Bar, Curve, Drawing, Point, draw, draw_bars, draw_curves
from tpsweep.tables.table import Record, digits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FREE = ("cell_id", "tp", "gpus", "batch", "allreduce_backend", "run")
_SAME = tuple(name for name in row.IDENTITY_NAMES if name not in _FREE)
PARTS = ("compute", "transfer and all-gather", "rest")


def draw_communication(records: list[Record], limit: int) -> tuple[list[Drawing], int]:
    """At most ``limit`` figures of the lines of ``communication``, and how many were left out.

    Two of each series: the share against the batch, and a bar per TP and batch.
    """
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        if record["step_ms"] is not None:
            groups[tuple(record[name] for name in _SAME)].append(record)
    drawings = []
    for at, lines in enumerate(groups.values()):
        if any(line["tp"] > 1 for line in lines):
            drawings.append(_share(f"share{at}", lines))
        if bars := _bars(lines):
            drawings.append(_breakdown(f"step{at}", lines[0], bars))
    return drawings[:limit], max(0, len(drawings) - limit)


def step_picture(records: list[Record], pictures: dict[str, Path]) -> list[Drawing]:
    """The picture of one decode step: of the largest TP, and of its smallest batch.

    ``pictures``: the analysis's SVG files by ``cell_id``.
    """
    known = [line for line in records if line["cell_id"] in pictures]
    if not known:
        return []
    line = min(known, key=lambda line: (-line["tp"], line["batch"], _program(line)))
    # As an image it is shut off from the page: whatever is in the file, nothing of it runs.
    data = base64.b64encode(pictures[line["cell_id"]].read_bytes()).decode()
    caption = (
        f"One decode step of {_name(line)}, TP={line['tp']}, batch {line['batch']}, as"
        f" {line['profiler_ran']} saw it. Upper part: the whole step; lower part: its first layers."
    )
    image = Markup('<img class="wide" alt="{}" src="data:image/svg+xml;base64,{}">')
    return [Drawing(caption, caption, image.format(caption, data))]


def _share(name: str, lines: list[Record]) -> Drawing:
    curves = []
    kinds = sorted({_kind(line) for line in lines if line["tp"] > 1})
    for colour, (tp, backend, program) in enumerate(kinds):
        own = [line for line in lines if _kind(line) == (tp, backend, program)]
        for column, what, profiled in (
            ("transfer_fraction", "of decode time", False),
            ("transfer_fraction_profiled", "of profiled step", True),
        ):
            points = [
                Point(line["batch"], 100 * line[column], hollow=profiled)
                for line in sorted(own, key=lambda line: line["batch"])
                if line[column] is not None
            ]
            if points:
                label = f"TP={tp}, {backend}, {program}: {what}"
                curves.append(Curve(label, points, colour, dashed=profiled))
    batches = sorted({line["batch"] for line in lines})

    def panel(axes: Axes) -> None:
        draw_curves(axes, curves)
        axes.set_xscale("log", base=2)
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.minorticks_off()
        axes.set_xlabel("Batch (sequences)")
        axes.set_ylabel("All-reduce transfer (%)")

    words = "; ".join(
        f"{curve.label}: "
        + ", ".join(f"{digits(point.y)} % at batch {point.x}" for point in curve.points)
        for curve in curves
    )
    description = f"Share of all-reduce transfer in a decode step against the batch. {words}."
    caption = (
        f"{_name(lines[0])}: transfer of a decode step's all-reduces, as a share of the decode time"
        " of the latency cell like it, and (dashed) of the step under the profiler."
    )
    return Drawing(caption, description, draw(name, [panel], description))


def _bars(lines: Iterable[Record]) -> list[Bar]:
    """One per batch and TP, of the first profiler by name where there are several."""
    first: dict[tuple[Any, ...], Record] = {}
    for line in sorted(lines, key=_program):
        if line["decode_ms"] is not None and line["compute_ms"] is not None:
            place = (line["batch"], line["tp"], line["allreduce_backend"], line["run"])
            first.setdefault(place, line)
    return [
        Bar(_bar_label(line), _parts(line)) for _, line in sorted(first.items(), key=lambda i: i[0])
    ]


def _parts(line: Record) -> tuple[float, ...]:
    moved = line["transfer_ms"] + line["all_gather_ms"]
    # A profiler may have stretched the kernels beyond the time without it.
    rest = max(0.0, line["decode_ms"] - line["compute_ms"] - moved)
    return line["compute_ms"], moved, rest


def _bar_label(line: Record) -> str:
    backend = "" if line["tp"] == 1 else f"\n{line['allreduce_backend']}"
    return f"TP={line['tp']}\nbatch {line['batch']}{backend}"


def _breakdown(name: str, one: Record, bars: list[Bar]) -> Drawing:
    def panel(axes: Axes) -> None:
        draw_bars(axes, bars, PARTS)
        axes.set_ylabel("Decode step (ms)")

    words = "; ".join(
        f"{' '.join(bar.label.split())}: "
        + ", ".join(f"{part} {digits(ms)} ms" for part, ms in zip(PARTS, bar.parts, strict=True))
        for bar in bars
    )
    description = f"What a decode step is made of. {words}."
    caption = (
        f"{_name(one)}: a bar is as high as the decode time without a profiler. Compute, transfer"
        " and all-gather are the capture's; the rest is what is left: launches, the host, waits."
    )
    return Drawing(caption, description, draw(name, [panel], description))


def _kind(line: Record) -> tuple[int, str, str]:
    return line["tp"], line["allreduce_backend"], _program(line)


def _program(line: Record) -> str:
    return str(line["profiler_ran"]).split(" ")[0]


def _name(line: Record) -> str:
    return (
        f"{line['model']} on {line['gpu']} ({line['variant']}, {line['dtype']}, {line['weights']}"
        f" weights, {line['input_len']} tokens in)"
    )
