"""Medians with intervals, and the comparison of two sides (measuring rule 8). Pure.

Every sample here is a time: positive, and lower is better. Two kinds of spread are kept apart.
Samples of one engine start share its luck, so an interval over them says nothing about the next
engine start; only runs (engine starts) do.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
RESAMPLES = 4000
SEED = 20260101
MIN_RUNS = 3
"""Minimum runs per side to estimate the spread between engine starts."""
TAIL_SAMPLES = 10
"""With fewer samples above it, a percentile says nothing about the tail."""

SIGNIFICANT = "significant"
NOT_SIGNIFICANT = "not significant"
DIFFERS_WITHIN = (
    "differs beyond the noise within a session; spread between engine starts not measured"
)
SAME_WITHIN = "no difference beyond the noise within a session"
UNDECIDED = "undecided: a run with a single sample has no interval"

Samples = Sequence[float] | NDArray[np.float64]
Kind = Literal["between runs", "within session"]

_T_DF = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 30, 60, 120, math.inf)


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval, in the unit of the samples; no interval: both ends None."""

    value: float
    lo: float | None
    hi: float | None
    kind: Kind = "within session"


@dataclass(frozen=True)
class Speedup:
    """How many times faster the other side is than the baseline (above 1: faster)."""

    value: float
    lo: float | None
    hi: float | None
    kind: Kind
    verdict: str


@dataclass(frozen=True)
class Side:
    """Runs that are compared with those of several other sides, checked and sorted once.

    ``runs``: of each the sorted, positive samples.
    """

    runs: list[NDArray[np.float64]]

    @classmethod
    def of(cls, runs: Sequence[Samples] | Side) -> Side:
        """Raises ``ValueError`` for a run without samples, or a sample that is not positive."""
        return runs if isinstance(runs, Side) else cls([_positive(run) for run in runs])

    @cached_property
    def centre(self) -> float:
        """Median of the run medians. Raises ``ValueError`` if there is no run."""
        if not self.runs:
            raise ValueError("a comparison needs at least one run per side")
        return statistics.median(self.medians)

    @cached_property
    def medians(self) -> list[float]:
        """Of each run."""
        return [_middle(run) for run in self.runs]

    @cached_property
    def log_medians(self) -> list[float]:
        """Their logarithms."""
        return [math.log(median) for median in self.medians]


def median_interval(samples: Samples) -> Interval:
    """Median of ``samples`` with its 95 % percentile-bootstrap interval (seeded: repeatable).

    One sample has a value and no interval. Raises ``ValueError`` if there is none, or one that
    is not finite.
    """
    values = _sorted(samples)
    median = _middle(values)
    if values.size == 1:
        return Interval(median, None, None)
    lo, hi = _percentiles(_bootstrap_medians(values, 0))
    return Interval(median, lo, hi)


def percentile(samples: Samples, p: int) -> float | None:
    """Percentile ``p`` of ``samples``, interpolated; None if fewer than 10 of them lie above it."""
    if len(samples) * (100 - p) < 100 * TAIL_SAMPLES:
        return None
    return float(np.percentile(samples, p))


def median_of_runs(runs: Sequence[Samples] | Side) -> Interval:
    """Median of the run medians; each run holds the positive samples of one engine start.

    The interval is made as that of ``speedup``: "between runs" from three runs on, else "within
    session", and none if a run has a single sample. Raises ``ValueError`` as ``speedup`` does.
    """
    side = Side.of(runs)
    value = side.centre
    if len(side.runs) >= MIN_RUNS:
        variance, df = _variance_of_mean(side.log_medians)
        spread = math.exp(_half_width(variance, df))
        return Interval(value, value / spread, value * spread, "between runs")
    if any(run.size == 1 for run in side.runs):
        return Interval(value, None, None)
    lo, hi = _percentiles(_resampled_centre(side.runs, 0))
    return Interval(value, lo, hi)


def speedup(
    baseline_runs: Sequence[Samples] | Side, other_runs: Sequence[Samples] | Side
) -> Speedup:
    """Median of the baseline's run medians divided by that of the other side, with an interval.

    With at least three runs per side the interval is "between runs": Welch's t on the logarithms
    of the run medians. It stands around the ratio of medians, which scatters up to sqrt(pi/2)
    more than the mean that Welch's interval is made for, and is widened by as much. With fewer
    it is "within session": the percentile bootstrap of the samples of each run and, where a side
    has several, of the runs.

    Raises ``ValueError`` for a side or run without samples, or a sample that is not a positive
    number.
    """
    before, after = Side.of(baseline_runs), Side.of(other_runs)
    baseline, other = before.runs, after.runs
    value = before.centre / after.centre
    if min(len(baseline), len(other)) >= MIN_RUNS:
        spread = math.exp(_welch_half_width(before.log_medians, after.log_medians))
        lo, hi = value / spread, value * spread
        verdict = NOT_SIGNIFICANT if lo <= 1 <= hi else SIGNIFICANT
        return Speedup(value, lo, hi, "between runs", verdict)
    if any(run.size == 1 for run in (*baseline, *other)):
        return Speedup(value, None, None, "within session", UNDECIDED)
    ratios = _resampled_centre(baseline, 0) / _resampled_centre(other, len(baseline))
    lo, hi = _percentiles(ratios)
    verdict = SAME_WITHIN if lo <= 1 <= hi else DIFFERS_WITHIN
    return Speedup(value, lo, hi, "within session", verdict)


def _sorted(samples: Samples) -> NDArray[np.float64]:
    values = np.sort(np.asarray(samples, dtype=np.float64))
    if values.size == 0:
        raise ValueError("a median needs at least one sample")
    # Sorted, NaN stands last: nothing between two finite ends is not finite.
    if not (math.isfinite(values[0]) and math.isfinite(values[-1])):
        raise ValueError("a sample is not a finite number")
    return values


def _positive(samples: Samples) -> NDArray[np.float64]:
    values = _sorted(samples)
    if values[0] <= 0:
        raise ValueError(f"a time must be positive, found {values[0]:g}")
    return values


def _middle(ordered: NDArray[np.float64]) -> float:
    """Median of a sorted array: many small ones are asked for, and numpy's takes 20 us for each."""
    half = ordered.size // 2
    if ordered.size % 2:
        return float(ordered[half])
    return (float(ordered[half - 1]) + float(ordered[half])) / 2


def _bootstrap_medians(ordered: NDArray[np.float64], stream: int) -> NDArray[np.float64]:
    """Shape (RESAMPLES,): medians of resamples with replacement of the sorted ``ordered``.

    Samples that are compared need unequal ``stream`` numbers, to be resampled independently.
    """
    lower, upper = _median_ranks(ordered.size, stream)
    return (ordered[lower] + ordered[upper]) / 2


@lru_cache(maxsize=256)
def _median_ranks(n: int, stream: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Ranks of the two middle members (the same one for odd ``n``) of resamples of n samples.

    No resample is drawn: its k-th smallest member has the rank floor(n * U), with U the k-th
    smallest of n uniform numbers, whose distribution is a Beta. That is exact, its cost does not
    depend on n, and the draws are shared by all samples of one size. ``scipy.stats.bootstrap``
    draws every resample, and from other random numbers: published intervals would change.
    """
    rng = np.random.default_rng((SEED, stream, n))
    half = n // 2
    upper = rng.beta(half + 1, n - half, RESAMPLES)
    lower = upper if n % 2 else upper * rng.beta(half, 1, RESAMPLES)
    # A Beta draw can round up to 1.0, one past the last rank.
    return (
        np.minimum((lower * n).astype(np.intp), n - 1),
        np.minimum((upper * n).astype(np.intp), n - 1),
    )


def _resampled_centre(runs: list[NDArray[np.float64]], stream: int) -> NDArray[np.float64]:
    """Shape (RESAMPLES,): the median over resampled runs of the resampled median of each.

    Runs are drawn with replacement, too (a two-stage bootstrap): runs that are there and disagree
    must not vanish in the median's steadiness, however few they are.
    """
    draws = [_bootstrap_medians(run, stream + index) for index, run in enumerate(runs)]
    if len(draws) == 1:
        return draws[0]
    picked = np.take_along_axis(np.stack(draws), _drawn_runs(len(runs), stream), axis=0)
    centre: NDArray[np.float64] = np.median(picked, axis=0)
    return centre


@lru_cache(maxsize=256)
def _drawn_runs(n: int, stream: int) -> NDArray[np.intp]:
    """Shape (n, RESAMPLES): which of n runs each resample takes."""
    drawn: NDArray[np.intp] = np.random.default_rng((SEED, stream, n, n)).integers(
        0, n, (n, RESAMPLES), dtype=np.intp
    )
    return drawn


def _percentiles(draws: NDArray[np.float64]) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    lo, hi = np.quantile(draws, (tail, 1 - tail))
    return float(lo), float(hi)


def _variance_of_mean(values: list[float]) -> tuple[float, int]:
    """Variance of the mean of ``values`` and its degrees of freedom."""
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return variance / len(values), len(values) - 1


def _welch_half_width(a: list[float], b: list[float]) -> float:
    """Half the 95 % interval of the difference of the medians of ``a`` and ``b``.

    ``scipy.stats.ttest_ind`` says the same of means (a test compares the two) and takes
    hundreds of times as long; a large sweep has tens of thousands of comparisons.
    """
    (variance_a, df_a), (variance_b, df_b) = _variance_of_mean(a), _variance_of_mean(b)
    variance = variance_a + variance_b
    if variance == 0:
        return 0.0
    return _half_width(variance, variance**2 / (variance_a**2 / df_a + variance_b**2 / df_b))


def _half_width(variance_of_mean: float, df: float) -> float:
    """Half the 95 % interval of a median: Student's, widened from the mean's to the median's."""
    return t_975(df) * math.sqrt(variance_of_mean * math.pi / 2)


def t_975(df: float) -> float:
    """The 97.5 % point of Student's t for ``df`` >= 2.

    Of the four digits that printed tables have, and between their points linear in 1/df, where
    the curve is convex: up to 1.6 % too wide, never too narrow. So were published intervals made,
    and they must come out again.
    """
    inverse_df, points = _t_table()
    return float(np.interp(1 / df, inverse_df, points))


@lru_cache(maxsize=1)
def _t_table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rising 1/df, and the 97.5 % point of Student's t at each."""
    from scipy.special import stdtrit  # 0.2 s, which a sweep of single runs need not wait for

    df = np.array(_T_DF[::-1])
    return 1 / df, np.round(stdtrit(df, 1 - (1 - LEVEL) / 2), 4)
