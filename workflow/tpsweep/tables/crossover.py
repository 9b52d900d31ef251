"""Table ``crossover``: from which batch on a larger TP is better (measuring rule 10).

Three lines per series and pair of TPs: of decode time, of output tokens/s per GPU and of all GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from tpsweep.analysis.crossing import Crossing, Point, Sign, find_crossing
from tpsweep.analysis.decode_figures import DECODE
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
from tpsweep.analysis.table import NOTE, Record, Table, View, identity, sort_records, text
from tpsweep.core import stats
from tpsweep.core.schema import INT, TEXT, Column
from tpsweep.core.workloads import LATENCY

RATE = "output_tok_s"
METRICS = {
    "decode": "decode time",
    "output_per_gpu": "output tok/s per GPU",
    "output": "output tok/s",
}
COLUMNS = (
    *(column for column in PAIR_HEAD if column.name != "batch"),
    Column("metric", TEXT, "decode time, output tok/s per GPU, or output tok/s"),
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
    View("Crossover (batch)", text("crossover")),
    identity("Smallest batch", "smallest_batch"),
    identity("Largest batch", "largest_batch"),
    View("Ahead, by batch", text("ahead")),
    View("Why", text("why"), once=True),
    NOTE,
)
LEGEND = (
    "Crossover: the batch from which on the larger TP is better. <= b: it is at every measured"
    " batch, b the smallest. (b_i, b_j]: one TP is significantly ahead at b_i, the other at b_j."
    " none in range: the smaller TP is ahead at every measured batch.",
    "Undecided: anything else. Significant: between runs, from"
    f" {stats.MIN_RUNS} engine starts per side. No crossover is given across a batch that is not"
    " measured at both TPs.",
)
EMPTY = "The matrix has no latency cells at two TPs."
_ORDER = (*(name for name in PAIR_ORDER if name != "batch"),)


def build(source: Source) -> Table:
    """Every pair of TPs of every series, measured or not."""
    lines = [record for group in by_batch(source.series(LATENCY)) for record in _records(group)]
    sort_records(lines, _ORDER)
    return Table("crossover", "Crossover", COLUMNS, VIEWS, lines, LEGEND, EMPTY)


def _records(group: list[Series]) -> Iterator[Record]:
    """``group``: series that agree in all but the batch, rising."""
    by_tp = [{line.tp: line for line in one.lines if line.layout.is_tp_alone} for one in group]
    for low_tp, high_tp in combinations(sorted({tp for lines in by_tp for tp in lines}), 2):
        sides = [(lines.get(low_tp), lines.get(high_tp)) for lines in by_tp]
        both = [(low, high) for low, high in sides if low is not None and high is not None]
        if not both:
            continue
        notes = dict.fromkeys(note for low, high in both for note in differences(low, high))
        head = identify(group[0], *both[0])
        for metric, label in METRICS.items():
            points = [
                _point(metric, one.batch or 0, *pair)
                for one, pair in zip(group, sides, strict=True)
            ]
            found = find_crossing(points)
            names = {-1: f"TP={low_tp}", 1: f"TP={high_tp}", 0: "not significant"}
            yield {
                **{name: value for name, value in head.items() if name != "batch"},
                "metric": label,
                "crossover": _words(found, names),
                "smallest_batch": found.smallest,
                "largest_batch": found.largest,
                "brackets": len(found.brackets),
                "ahead": ", ".join(
                    f"{p.batch}: {p.hole if p.sign is None else names[p.sign]}" for p in points
                ),
                "why": "; ".join([*found.why, *_few_runs(both)]) or None,
                "note": "; ".join(notes) or None,
                "synthetic": any(synthetic(*pair) for pair in both),
            }


def _words(found: Crossing, names: dict[int, str]) -> str:
    if found.verdict == "at_most":
        return f"<= {found.smallest}"
    if found.verdict == "brackets":
        return ", ".join(f"({b.after}, {b.upto}] to {names[b.to]}" for b in found.brackets)
    return found.verdict


def _few_runs(sides: list[tuple[Line, Line]]) -> list[str]:
    few = any(
        0 < len(line.measured) < stats.MIN_RUNS and low.measured and high.measured
        for low, high in sides
        for line in (low, high)
    )
    return [f"a side has fewer than {stats.MIN_RUNS} runs"] if few else []


def _point(metric: str, batch: int, low: Line | None, high: Line | None) -> Point:
    """The sign of one batch; a hole if a side is not planned, not measured or has no figure."""
    for line in (low, high):
        if line is None:
            return Point(batch, None, "not in the matrix at both TPs")
        if not _side(metric, line).runs:
            state = "no usable figure" if line.measured else line.state
            return Point(batch, None, f"{state} (TP={line.tp})")
    if low is None or high is None:  # for the type checker: seen above
        raise AssertionError
    if metric == "decode":
        found = low.ratio_to(high, DECODE)
    else:
        # stats.speedup is made for times, where less is better: for rates the sides change places.
        found = stats.speedup(_side(metric, high), _side(metric, low))
    sign: Sign = 0
    if found.verdict == stats.SIGNIFICANT:
        sign = 1 if found.value > 1 else -1
    return Point(batch, sign)


def _side(metric: str, line: Line) -> stats.Side:
    """Per run the decode samples, or the one rate that a latency row has (per GPU or of all)."""
    if metric == "decode":
        return line.side(DECODE)
    return line.rates(RATE, line.gpus if metric == "output_per_gpu" else 1)
