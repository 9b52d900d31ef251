"""What a difference allows to say: kinds of interval, verdicts of served load, short forms."""

from __future__ import annotations

from tpsweep.analysis.series import Line
from tpsweep.core import stats

KINDS = "between runs, or within session"
"""What a column holds that says of which kind an interval is."""
KINDS_LEGEND = (
    f"Between runs: at least {stats.MIN_RUNS} engine starts a side; only then can a difference be"
    f" significant. Within session: {stats.DIFFERS_WITHIN.split('; ')[1]}."
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
    stats.SAME_WITHIN: "no difference (within session)",
    stats.UNDECIDED: "undecided",
    OVERLAP: "inconclusive: ranges overlap",
    APART: "ranges do not overlap",
    NO_RANGE: "inconclusive: one seed",
}
"""A verdict as a table has it."""


def of_load(name: str, baseline: Line, line: Line) -> str:
    """What may be said of a difference in the figure ``name`` between two measured lines."""
    sides = [[[run[name]] for run in side.measured if run[name]] for side in (baseline, line)]
    if min(map(len, sides)) >= stats.MIN_RUNS:
        return stats.speedup(*sides).verdict
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
