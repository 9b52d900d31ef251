"""Figures: the share of communication against the batch, and what a decode step is made of."""

from __future__ import annotations

import base64
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from tpsweep.analysis.table import Record, digits, model_name
from tpsweep.analysis.unprofiled import program_of
from tpsweep.core import schema
from tpsweep.figures.groups import doubling, labelled, number_format
from tpsweep.figures.plot import Bar, Curve, Drawing, Picture, Point, draw_bars, draw_curves
from tpsweep.traces import timeline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FREE = ("cell_id", "tp", "gpus", "batch", "allreduce_backend", "run")
_SAME = tuple(name for name in schema.IDENTITY_NAMES if name not in _FREE)
LARGEST = 2_000_000
"""Characters of a picture: the page must open at once, and larger ones are no step's."""
PARTS = ("compute", "transfer and all-gather", "rest")


def draw_communication(records: list[Record], limit: int) -> tuple[list[Picture], int]:
    """At most ``limit`` figures of the lines of ``communication``, and how many were left out.

    Two of each series: the share against the batch, and a bar per TP and batch.
    """
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        if record["step_ms"] is not None and not record["group"]:
            groups[tuple(record[name] for name in _SAME)].append(record)
    pictures = []
    for at, lines in enumerate(groups.values()):
        if any(line["tp"] > 1 for line in lines):
            pictures.append(_share(f"share{at}", lines))
        if bars := _bars(lines):
            pictures.append(_breakdown(f"step{at}", lines[0], bars))
    return pictures[:limit], max(0, len(pictures) - limit)


def step_picture(records: list[Record], pictures: Mapping[str, Path]) -> list[Drawing]:
    """The picture of one decode step: of the largest TP, and of its smallest batch.

    ``pictures``: the analysis's SVG files by ``cell_id``.
    """
    known = [line for line in records if line["cell_id"] in pictures]
    known.sort(key=lambda line: (-line["tp"], line["batch"], program_of(line)))
    for line in known:
        data = _picture(pictures[line["cell_id"]])
        if data is None:
            continue
        caption = (
            f"One decode step of {_name(line)}, TP={line['tp']}, batch {line['batch']}, as"
            f" {line['profiler_ran']} saw it. Upper part: the whole step; lower part: its first"
            " layers."
        )
        # As an image it is shut off from the page: whatever is in the file, nothing of it runs.
        image = Markup('<img class="wide" alt="{}" src="data:image/svg+xml;base64,{}">')
        return [Drawing(caption, caption, image.format(caption, data))]
    return []


def _picture(path: Path) -> str | None:
    """The SVG in base64; None if it only says why there is no picture, or is none (stderr)."""
    try:
        svg = path.read_text("utf-8")
        root = ElementTree.fromstring(svg)
    except (OSError, ValueError, ElementTree.ParseError) as error:
        print(f"{path}: no picture, left out of the page: {error}", file=sys.stderr)
        return None
    if timeline_svg.is_nothing(svg) or root.tag.rpartition("}")[2] != "svg":
        return None
    if len(svg) > LARGEST:
        print(f"{path}: over {LARGEST} characters, left out of the page", file=sys.stderr)
        return None
    return base64.b64encode(svg.encode()).decode()


def _share(name: str, lines: list[Record]) -> Picture:
    curves = []
    kinds = sorted({_kind(line) for line in lines if line["tp"] > 1})
    for colour, (tp, backend, program) in enumerate(kinds):
        own = [line for line in lines if _kind(line) == (tp, backend, program)]
        for column, what, profiled in (
            ("transfer_fraction", "of decode time", False),
            ("transfer_fraction_profiled", "of profiled step", True),
        ):
            points = [
                Point(batch, 100 * _median(lines_, column), hollow=profiled)
                for batch, lines_ in _by_batch(own, column)
            ]
            if points:
                label = f"TP={tp}, {backend}, {program}: {_least(own)}{what}"
                curves.append(Curve(label, points, colour, dashed=profiled))
    double_x = doubling((line["batch"] for line in lines), "Batch (sequences)")

    def panel(axes: Axes) -> None:
        draw_curves(axes, curves)
        double_x(axes)
        axes.set_ylabel("All-reduce transfer (%)")

    words = "; ".join(
        f"{curve.label}: "
        + ", ".join(f"{digits(point.y)} % at batch {point.x}" for point in curve.points)
        for curve in curves
    )
    description = f"Share of all-reduce transfer in a decode step against the batch. {words}."
    caption = (
        f"{_name(lines[0])}: transfer of a decode step's all-reduces, as a share of the decode time"
        " of the matching latency cell, and (dashed) of the step under the profiler."
    )
    return Picture(name, caption, description, (panel,))


def _bars(lines: Iterable[Record]) -> list[Bar]:
    """One per batch and TP, of the first profiler by name where there are several."""
    places: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for line in lines:
        if line["decode_ms"] is not None and line["compute_ms"] is not None:
            places[line["batch"], line["tp"], line["allreduce_backend"]].append(line)
    bars = []
    for _, found in sorted(places.items()):
        first = min(program_of(line) for line in found)
        runs = [line for line in found if program_of(line) == first]
        bars.append(Bar(_bar_label(runs[0]), _parts(runs), _stretched(runs)))
    return bars


def _parts(runs: list[Record]) -> tuple[float, ...]:
    """Medians over runs, ms: compute, transfer and all-gather, and what is left of the step."""
    compute = _median(runs, "compute_ms")
    moved = _median(runs, "transfer_ms") + _median(runs, "all_gather_ms")
    # A profiler may have stretched the kernels beyond the time without it.
    return compute, moved, max(0.0, _median(runs, "decode_ms") - compute - moved)


def _stretched(runs: list[Record]) -> str:
    decode = _median(runs, "decode_ms")
    if sum(_parts(runs)) <= decode * (1 + 1e-9):
        return ""
    return f"higher than the decode time of {digits(decode)} ms: the profiler stretched the kernels"


def _by_batch(lines: list[Record], column: str) -> list[tuple[int, list[Record]]]:
    """The lines that have the figure, by rising batch: there is one per run."""
    found: dict[int, list[Record]] = defaultdict(list)
    for line in lines:
        if line[column] is not None:
            found[line["batch"]].append(line)
    return sorted(found.items())


def _median(lines: list[Record], column: str) -> float:
    return float(median(line[column] for line in lines))


def _least(lines: list[Record]) -> str:
    return "at least, " if any(line["transfer_lower_us"] is not None for line in lines) else ""


def _bar_label(line: Record) -> str:
    backend = "" if line["tp"] == 1 else f"\n{line['allreduce_backend']}"
    return f"TP={line['tp']}\nbatch {line['batch']}{backend}"


def _breakdown(name: str, one: Record, bars: list[Bar]) -> Picture:
    def panel(axes: Axes) -> None:
        draw_bars(axes, bars, PARTS)
        axes.set_ylabel("Decode step (ms)")

    words = "; ".join(
        f"{' '.join(bar.label.split())}: "
        + ", ".join(f"{part} {digits(ms)} ms" for part, ms in zip(PARTS, bar.parts, strict=True))
        + (f" ({bar.note})" if bar.note else "")
        for bar in bars
    )
    description = f"What a decode step is made of. {words}."
    caption = (
        f"{_name(one)}: a bar is as high as the decode time without a profiler. Compute, transfer"
        " and all-gather are the capture's; the rest is what is left: launches, the host, waits."
    )
    if any(bar.note for bar in bars):
        caption += " A bar without rest is higher: there the profiler stretched the kernels."
    return Picture(name, caption, description, (panel,))


def _kind(line: Record) -> tuple[int, str, str]:
    return line["tp"], line["allreduce_backend"], program_of(line)


def _name(line: Record) -> str:
    variant = labelled(line, line["variant"])
    return (
        f"{model_name(line)} on {line['gpu']} ({variant}, {number_format(line)},"
        f" {line['weights']} weights, {line['input_len']} tokens in)"
    )
