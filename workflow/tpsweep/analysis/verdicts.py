"""What a difference allows to say: kinds of interval, verdicts of served load, short forms."""

from __future__ import annotations

from collections.abc import Iterable

from tpsweep.analysis.series import Line
from tpsweep.analysis.table import Record
from tpsweep.core import stats

KINDS = "between runs, or within session"
"""What a column holds that says of which kind an interval is."""
LEVEL = f"95 % interval of its kind; null within a session of under {stats.MIN_REPEATS} repeats"
"""What a column holds that is an end of an interval."""
KINDS_LEGEND = (
    f"Intervals are 95 %, between engine starts, from {stats.MIN_RUNS} starts a side on (starts of"
    " one node count as one, unless both sides ran on the same nodes); only then can a difference"
    " be significant. Where there are fewer, the number of starts is said instead, and ± is the"
    " spread of the like lines that are named. Intervals within one start are in the .csv and"
    " .parquet: they say nothing of the next start."
)
"""The line below every table that has such intervals."""

RANGED = {
    "request_s": "request_s_samples",
    "ttft_p50_ms": "ttft_p50_ms_samples",
    "itl_p50_ms": "itl_p50_ms_samples",
    "output_tok_s": "output_tok_s_samples",
}
"""Figures with one sample per seed."""

OVERLAP = "seed ranges overlap: no claim"
APART = "seed ranges apart; spread between engine starts not measured"
NO_RANGE = "no range over seeds: no claim"

SHORT = {
    None: "",
    stats.SIGNIFICANT: "significant",
    stats.NOT_SIGNIFICANT: "not significant",
    stats.DIFFERS_WITHIN: "differs (within session)",
    stats.DIFFERS_NODES: "differs (within session; too few nodes)",
    stats.SAME_WITHIN: "no difference (within session)",
    stats.UNDECIDED: "undecided",
    OVERLAP: "inconclusive: ranges overlap",
    APART: "ranges do not overlap",
    NO_RANGE: "inconclusive: one seed",
}
"""A verdict as a table has it."""


def by_chance(records: Iterable[Record], names: Iterable[str]) -> list[str]:
    """The legend's line on how many comparisons were made: each has its own 5 %."""
    told = [record[name] for record in records for name in names]
    judged = sum(verdict in (stats.SIGNIFICANT, stats.NOT_SIGNIFICANT) for verdict in told)
    if not judged:
        return []
    return [
        f"{judged} comparisons with enough starts, each by itself, not corrected for their number:"
        f" without any difference about {(1 - stats.LEVEL) * judged:.1f} would be significant."
    ]


def of_load(name: str, baseline: Line, line: Line) -> str:
    """What may be said of a difference in the figure ``name`` between two measured lines."""
    before, after = (side.rates(name) for side in (baseline, line))
    if min(len(before.runs), len(after.runs)) >= stats.MIN_RUNS:
        found = stats.speedup(before, after)
        if found.kind == stats.BETWEEN:
            return found.verdict
    if name not in RANGED:
        return NO_RANGE
    (lo, hi), (other_lo, other_hi) = seed_range(baseline, name), seed_range(line, name)
    if lo is None or hi is None or other_lo is None or other_hi is None:
        return NO_RANGE
    return APART if hi < other_lo or other_hi < lo else OVERLAP


def seed_range(line: Line, name: str) -> tuple[float | None, float | None]:
    """Lowest and highest seed of all runs; a single seed has no range."""
    seeds = [float(value) for run in line.runs(RANGED[name]) for value in run]
    return (min(seeds), max(seeds)) if len(seeds) > 1 else (None, None)
