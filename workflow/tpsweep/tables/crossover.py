"""Table ``crossover``: from which batch on a larger TP is better (measuring rule 10).

Four lines per series and pair of TPs. At equal sequences per node: output tokens/s of one engine
at batch B beside smaller ones that fill the same GPUs, each with its share of B. At equal batch:
decode time, output tokens/s per GPU and of all GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from tpsweep.analysis.crossing import LEVEL, Crossing, Point, Sign, find_crossing, observe
from tpsweep.analysis.decode_figures import DECODE, rate_ratio
from tpsweep.analysis.equal_sequences import Shares, engines_on
from tpsweep.analysis.pairs import (
    PAIR_HEAD,
    PAIR_ORDER,
    PAIR_TAIL,
    PAIR_VIEWS,
    differences,
    identify,
    synthetic,
)
from tpsweep.analysis.series import Line, Series, Source, by_batch
from tpsweep.analysis.table import NOTE, Record, Table, View, digits, identity, sort_records, text
from tpsweep.core import stats
from tpsweep.core.layout import Layout
from tpsweep.core.schema import INT, TEXT, Column
from tpsweep.core.workloads import LATENCY

RATE = "output_tok_s"
EQUAL = "equal_sequences"
METRICS = {
    EQUAL: "output tok/s at equal sequences per node",
    "decode": "decode time at equal batch",
    "output": "output tok/s at equal batch",
    "output_per_gpu": "output tok/s per GPU at equal batch",
}
COLUMNS = (
    *(column for column in PAIR_HEAD if column.name != "batch"),
    Column("metric", TEXT, f"one of: {', '.join(METRICS.values())}"),
    Column("observed", TEXT, "by the values alone, not tested: where the larger TP is ahead"),
    Column("ratios", TEXT, "per batch: how many times better the larger TP is"),
    Column("crossover", TEXT, "<= batch, (b_i, b_j] and who is ahead after it, none, undecided"),
    Column("smallest_batch", INT, "smallest batch measured at both TPs"),
    Column("largest_batch", INT, "largest batch measured at both TPs"),
    Column("brackets", INT, "changes of significant sign between measured neighbours"),
    Column("ahead", TEXT, "per batch of the series: which TP is significantly better, or the hole"),
    Column("why", TEXT, "what leaves it undecided, or limits what is said"),
    *PAIR_TAIL,
)
NA = "n/a"
VIEWS = (
    *(view for view in PAIR_VIEWS if view.heading != "Batch"),
    View("Of", text("metric")),
    View("By the values", text("observed", NA)),
    View("Larger / smaller TP, by batch", text("ratios", NA)),
    View("Crossover (batch), significant", text("crossover")),
    identity("Smallest batch", "smallest_batch"),
    identity("Largest batch", "largest_batch"),
    View("Ahead, by batch", text("ahead")),
    View("Why", text("why"), once=True),
    NOTE,
)
LEGEND = (
    "At equal sequences per node: one engine of the larger TP at a batch beside smaller engines on"
    " the same GPUs, each with its share of the batch (computed: the smaller TP's own line at that"
    " share, times the engines). It answers which layout a node should run. A batch that does not"
    " divide over the smaller engines is left out. The other lines are at equal batch, where the"
    " larger TP holds more GPUs.",
    f"By the values: level within {100 * LEVEL:.0f} %, about what two engine starts of one layout"
    " may differ by; not tested.",
    "Crossover: the batch from which on the larger TP is better. <= b: it is at every measured"
    " batch, b the smallest. (b_i, b_j]: one TP is significantly ahead at b_i, the other at b_j."
    " none in range: the smaller TP is ahead at every measured batch.",
    "Undecided: anything else. Significant: between runs, from"
    f" {stats.MIN_RUNS} engine starts per side. No crossover is given across a batch that is not"
    " measured at both TPs.",
)
EMPTY = "The matrix has no latency cells at two TPs."
_ORDER = (*(name for name in PAIR_ORDER if name != "batch"),)


@dataclass(frozen=True)
class _Sides:
    """Two lines that stand beside each other at ``batch`` sequences; None: not in the matrix.

    ``high`` is one engine, ``low`` one of ``engines`` that together are the other side. ``missing``
    and ``where``: what is said if one is not in the matrix, and at which batch ``low`` is.
    """

    batch: int
    low: Line | None
    high: Line | None
    engines: int = 1
    missing: str = "not in the matrix at both TPs"
    where: str = ""


def build(source: Source) -> Table:
    """Every pair of TPs of every series, measured or not."""
    series = source.series(LATENCY)
    shares = Shares(series)
    lines = [record for group in by_batch(series) for record in _records(group, shares)]
    sort_records(lines, _ORDER)
    return Table("crossover", "Crossover", COLUMNS, VIEWS, lines, LEGEND, EMPTY)


def _records(group: list[Series], shares: Shares) -> Iterator[Record]:
    """``group``: series that agree in all but the batch, rising."""
    by_tp = [{line.tp: line for line in one.lines if line.layout.is_tp_alone} for one in group]
    for low_tp, high_tp in combinations(sorted({tp for lines in by_tp for tp in lines}), 2):
        at_batch = [
            _Sides(one.batch or 0, lines.get(low_tp), lines.get(high_tp))
            for one, lines in zip(group, by_tp, strict=True)
        ]
        split = _split(group, by_tp, low_tp, high_tp, shares)
        low, high = (next(lines[tp] for lines in by_tp if tp in lines) for tp in (low_tp, high_tp))
        head = identify(group[0], low, high)
        for metric in METRICS:
            sides = split if metric == EQUAL else at_batch
            # At equal sequences a hole says which smaller batch the matrix lacks.
            if not (sides and (_both(sides) or (metric == EQUAL and _both(at_batch)))):
                continue
            yield {
                **{name: value for name, value in head.items() if name != "batch"},
                **_judged(metric, sides, low_tp, high_tp),
            }


def _both(sides: Sequence[_Sides]) -> list[tuple[Line, Line]]:
    return [(s.low, s.high) for s in sides if s.low is not None and s.high is not None]


def _split(
    group: list[Series], by_tp: list[dict[int, Line]], low_tp: int, high_tp: int, shares: Shares
) -> list[_Sides]:
    """One engine of the larger TP beside the smaller ones, at every batch that divides."""
    low, high = Layout(tp=low_tp), Layout(tp=high_tp)
    engines = engines_on(high.gpus, low)
    if engines is None or group[0].has_experts:
        return []
    return [
        _Sides(
            one.batch,
            shares.at(one, low, engines),
            lines.get(high_tp),
            engines,
            f"not in the matrix (TP={low_tp} at batch {one.batch // engines})",
            f" at batch {one.batch // engines}",
        )
        for one, lines in zip(group, by_tp, strict=True)
        if one.batch is not None and one.batch % engines == 0 and high_tp in lines
    ]


def _judged(metric: str, sides: list[_Sides], low_tp: int, high_tp: int) -> Record:
    """What a metric's points say; ``sides`` rise in their batch."""
    points = [_point(metric, one) for one in sides]
    found = find_crossing(points)
    both = _both(sides)
    notes = dict.fromkeys(note for low, high in both for note in differences(low, high))
    names = {-1: f"TP={low_tp}", 1: f"TP={high_tp}", 0: "not significant"}
    observed = observe(points, names[1])
    starts = _starts(both)
    return {
        "metric": METRICS[metric],
        "observed": observed and "; ".join([observed, *starts]),
        "ratios": ", ".join(f"{p.batch}: {digits(p.ratio)}" for p in points if p.ratio) or None,
        "crossover": _words(found, names),
        "smallest_batch": found.smallest,
        "largest_batch": found.largest,
        "brackets": len(found.brackets),
        "ahead": ", ".join(
            f"{p.batch}: {p.hole if p.sign is None else names[p.sign]}" for p in points
        ),
        "why": "; ".join([*found.why, *_few_runs(both)]) or None,
        "note": "; ".join(notes) or None,
        "synthetic": synthetic(*(x for s in sides for x in (s.low, s.high) if x is not None)),
    }


def _words(found: Crossing, names: dict[int, str]) -> str:
    if found.verdict == "at_most":
        return f"<= {found.smallest}"
    if found.verdict == "brackets":
        return ", ".join(f"({b.after}, {b.upto}] to {names[b.to]}" for b in found.brackets)
    return found.verdict


def _few_runs(sides: Sequence[tuple[Line, Line]]) -> list[str]:
    return [f"a side has fewer than {stats.MIN_RUNS} runs"] if _is_few(sides) else []


def _is_few(sides: Sequence[tuple[Line, Line]]) -> bool:
    return any(
        0 < len(line.measured) < stats.MIN_RUNS and low.measured and high.measured
        for low, high in sides
        for line in (low, high)
    )


def _starts(sides: Sequence[tuple[Line, Line]]) -> list[str]:
    """Why the values are not tested: how many engine starts each side has, over the batches."""
    if not _is_few(sides):
        return []
    measured = [pair for pair in sides if all(line.measured for line in pair)]
    if all(len(line.measured) == 1 for pair in measured for line in pair):
        return ["one start per side, not tested"]
    each = [
        f"{_span(len(pair[at].measured) for pair in measured)} of TP={measured[0][at].tp}"
        for at in (0, 1)
    ]
    return [f"engine starts: {', '.join(each)}, not tested"]


def _span(counts: Iterable[int]) -> str:
    found = sorted(set(counts))
    return " to ".join(str(count) for count in dict.fromkeys((found[0], found[-1])))


def _point(metric: str, sides: _Sides) -> Point:
    """The sign of one batch; a hole if a side is not planned, not measured or has no value."""
    low, high, batch = sides.low, sides.high, sides.batch
    if low is None or high is None:
        return Point(batch, None, sides.missing)
    for line, where in ((low, sides.where), (high, "")):
        if not _side(metric, line).runs:
            state = "no usable value" if line.measured else line.state
            return Point(batch, None, f"{state} (TP={line.tp}{where})")
    if metric == "decode":
        found = low.ratio_to(high, DECODE)
    else:
        # stats.speedup is made for times, where less is better: for rates the sides change places.
        found = stats.speedup(_side(metric, high, sides.engines), _side(metric, low))
    sign: Sign = 0
    if found.verdict == stats.SIGNIFICANT:
        sign = 1 if found.value > 1 else -1
    ratio = found.value
    if metric != "decode":
        # As tp_comparison and tp_pairs have it, of medians over starts; the test is of log means.
        share = high.gpus / low.gpus if metric == "output_per_gpu" else sides.engines
        ratio = (rate_ratio(high, low) or math.nan) / share
    return Point(batch, sign, ratio=ratio)


def _side(metric: str, line: Line, engines: int = 1) -> stats.Side:
    """Per run the decode samples, or the one rate that a latency row has: of all GPUs, per GPU, or
    the part of it that one of several smaller engines must reach."""
    if metric == "decode":
        return line.side(DECODE)
    return line.rates(RATE, line.gpus if metric == "output_per_gpu" else engines)
