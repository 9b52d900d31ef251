"""Table ``batch_scaling``: what a larger batch costs and brings, node classes side by side.

One line per model, TP, batch and node class. Growth is relative to the smallest measured batch of
the same series at the same TP; the reference is the node class whose card has the highest datasheet
bandwidth. Nothing is interpolated: a batch that the other side lacks has no ratio.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tpsweep.analysis import verdicts
from tpsweep.analysis.decode_figures import (
    DECODE,
    DECODE_COLUMNS,
    decode_time,
    rate_ratio,
    ratio_columns,
    time_ratio,
)
from tpsweep.analysis.series import (
    HEAD,
    KEY,
    LINE,
    LINE_VIEWS,
    ORDER,
    TAIL,
    Line,
    Series,
    Source,
    by_batch,
    dummy_note,
    unlike,
)
from tpsweep.analysis.table import (
    NA,
    NOTE,
    Record,
    Table,
    View,
    figure,
    sort_records,
    text,
)
from tpsweep.core.layout import Layout
from tpsweep.core.schema import FLOAT, INT, TEXT, Column
from tpsweep.core.workloads import LATENCY
from tpsweep.perfmodel.gpu_specs import card_by_name

_CLASS = ("site", "gpu", "gpu_card")


COLUMNS = (
    *HEAD,
    *DECODE_COLUMNS,
    Column("output_tok_s", FLOAT, "median over runs; prefill is in it"),
    Column("output_tok_s_per_gpu", FLOAT, "output_tok_s / gpus"),
    Column("smallest_batch", INT, "smallest batch measured of this series at this TP"),
    *ratio_columns("decode_growth", "tpot_ms / that of the smallest batch"),
    Column("output_growth", FLOAT, "output_tok_s / that of the smallest batch"),
    Column("reference_gpu", TEXT, "measured node class of the highest datasheet bandwidth"),
    *ratio_columns("decode_ratio", "tpot_ms / that of the reference class at this batch"),
    Column("output_ratio", FLOAT, "output_tok_s / that of the reference class at this batch"),
    Column("bandwidth_ratio", FLOAT, "datasheet bandwidth: the reference's card / this card"),
    *TAIL,
)
VIEWS = (
    *LINE_VIEWS,
    View("Decode (ms/token)", figure("tpot_ms", NA)),
    View("Intervals", text("interval_kind"), once=True),
    View("Output (tok/s)", figure("output_tok_s", NA)),
    View("Per GPU (tok/s)", figure("output_tok_s_per_gpu", NA)),
    View("Smallest batch", text("smallest_batch", NA), once=True),
    View("Decode time (ratio to smallest batch)", figure("decode_growth", NA)),
    View("Growth verdict", lambda record: verdicts.SHORT[record["decode_growth_verdict"]]),
    View("Output (ratio to smallest batch)", figure("output_growth", NA)),
    View("Reference class", text("reference_gpu", NA), once=True),
    View("Decode time (ratio to reference)", figure("decode_ratio", NA)),
    View("Reference verdict", lambda record: verdicts.SHORT[record["decode_ratio_verdict"]]),
    View("Bandwidth (reference / card)", figure("bandwidth_ratio", NA)),
    View("Output (ratio to reference)", figure("output_ratio", NA)),
    NOTE,
)
LEGEND = (
    "Values are geometric means of the run medians. Smallest batch: the smallest that"
    " is measured for the series at this TP, which need not be 1.",
    "Reference: the measured node class whose card has the highest memory bandwidth by its"
    " datasheet. If bandwidth alone bound decode, its time would stand to the reference's as"
    " the bandwidths do. n/a: not measured, the line is itself the reference, or no datasheet.",
    verdicts.KINDS_LEGEND,
)
EMPTY = "The matrix has no latency cells."
_ORDER = (*(name for name in ORDER if name not in (*_CLASS, "batch", *LINE)), *LINE, "batch")


@dataclass(frozen=True)
class _Spot:
    """One line of the table: a TP of a series, whose batch it is."""

    series: Series
    line: Line

    @property
    def card_tb_s(self) -> float | None:
        """Datasheet bandwidth of its card; None for a processor or an unknown card."""
        card = card_by_name(self._of("gpu_card") or "")
        return card.bandwidth_tb_s if card else None

    @property
    def node_class(self) -> tuple[Any, ...]:
        return tuple(self._of(name) for name in _CLASS)

    @property
    def peers(self) -> tuple[Any, ...]:
        """What it has in common with the same measurement on another class, the batch apart."""
        others = [n for n in KEY if n not in (*_CLASS, "batch")]
        return (*map(self._of, others), self.series.backend, self.size)

    @property
    def size(self) -> Layout:
        return self.line.layout

    def _of(self, name: str) -> Any:
        return self.series.key[KEY.index(name)]


def build(source: Source) -> Table:
    """Every TP and batch of every node class that the manifest has, measured or not."""
    ladders = list(_ladders(source.series(LATENCY)))
    spots = [spot for ladder in ladders for spot in ladder]
    at_batch = {(spot.peers, spot.node_class, spot.series.batch): spot for spot in spots}
    references = _references(spots)
    lines = []
    for ladder in ladders:
        smallest = next((spot for spot in ladder if spot.line.runs(DECODE)), None)
        for spot in ladder:
            best = references.get(spot.peers)
            place = (spot.peers, best.node_class, spot.series.batch) if best else None
            reference = at_batch.get(place) if place else None
            lines.append(_record(spot, smallest, best, reference))
    sort_records(lines, (*_ORDER, *_CLASS))
    judged = ("decode_growth_verdict", "decode_ratio_verdict")
    legend = (*LEGEND, *verdicts.by_chance(lines, judged))
    return Table("batch_scaling", "Batch scaling", COLUMNS, VIEWS, lines, legend, EMPTY)


def _ladders(series: list[Series]) -> Iterator[list[_Spot]]:
    """Spots that differ in the batch alone, rising."""
    for group in by_batch(series):
        by_size: dict[Layout, list[_Spot]] = defaultdict(list)
        for one in group:
            for line in one.lines:
                spot = _Spot(one, line)
                by_size[spot.size].append(spot)
        yield from by_size.values()


def _references(spots: list[_Spot]) -> dict[tuple[Any, ...], _Spot]:
    """Per peers a spot of the measured class with most bandwidth; of equals the first by name."""
    found: dict[tuple[Any, ...], _Spot] = {}
    for spot in sorted(spots, key=lambda one: tuple(map(str, one.node_class))):
        if spot.card_tb_s is None or not spot.line.runs(DECODE):
            continue
        best = found.get(spot.peers)
        if best is None or spot.card_tb_s > (best.card_tb_s or 0):
            found[spot.peers] = spot
    return found


def _record(
    spot: _Spot, smallest: _Spot | None, best: _Spot | None, reference: _Spot | None
) -> Record:
    """``best``: any spot of the reference class; ``reference``: the one at this batch."""
    line, rate = spot.line, spot.line.output_tok_s
    before = smallest.line if smallest and smallest is not spot else None
    beside = reference.line if reference and reference is not spot else None
    bandwidths = None
    if best is not None and best.card_tb_s and spot.card_tb_s:
        bandwidths = best.card_tb_s / spot.card_tb_s
    return {
        **spot.series.record(line, *_warnings(spot, before, beside)),
        **decode_time(line),
        "output_tok_s": rate,
        "output_tok_s_per_gpu": None if rate is None else rate / line.gpus,
        "smallest_batch": smallest.series.batch if smallest else None,
        **time_ratio("decode_growth", line, before),
        "output_growth": rate_ratio(line, before),
        "reference_gpu": best.node_class[1] if best else None,
        **time_ratio("decode_ratio", line, beside),
        "output_ratio": rate_ratio(line, beside),
        "bandwidth_ratio": bandwidths,
    }


def _warnings(spot: _Spot, smallest: Line | None, reference: Line | None) -> Iterator[str]:
    yield from dummy_note(spot.line)
    for other, name in ((smallest, "the smallest batch"), (reference, "the reference")):
        if other is None or not spot.line.measured or not other.measured:
            continue
        found = unlike(spot.line, other)
        if spot.line.hosts != other.hosts:
            found.append("host")
        if found:
            yield f"unlike {name}: {', '.join(found)}"
