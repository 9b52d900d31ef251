"""Medians with intervals, and the comparison of two sides (measuring rule 8). Pure.

Every sample here is a time: positive, and lower is better. Two kinds of spread are kept apart.
Samples of one engine start share its luck, so an interval over them says nothing about the next
engine start; only runs (engine starts) do. And starts on one node share that node's luck.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tpsweep.core import student

LEVEL = 0.95
RESAMPLES = 4000
SEED = 20260101
MIN_RUNS = 3
"""Minimum runs per side to estimate the spread between engine starts, and nodes that between
nodes."""
MIN_REPEATS = 6
"""Five samples span their median in 93.8 % of cases, three in 75 %: with fewer than six nothing can
be called a 95 % interval."""
TAIL_SAMPLES = 10
"""With fewer samples above it, a percentile says nothing about the tail."""

SIGNIFICANT = "significant"
NOT_SIGNIFICANT = "not significant"
DIFFERS_WITHIN = (
    "differs beyond the noise within a session; spread between engine starts not measured"
)
DIFFERS_NODES = "differs beyond the noise within a session; spread between nodes not measured"
SAME_WITHIN = "no difference beyond the noise within a session"
UNDECIDED = f"undecided: a run has fewer than {MIN_REPEATS} repeats"

BETWEEN: Literal["between runs"] = "between runs"
WITHIN: Literal["within session"] = "within session"
Samples = Sequence[float] | NDArray[np.float64]
Kind = Literal["between runs", "within session"]


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


class Estimate(NamedTuple):
    """A mean of logarithms, its variance and the degrees of freedom of that."""

    mean: float
    variance: float
    df: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Of independent ``values``, two or more."""
        n = len(values)
        mean = math.fsum(values) / n
        squares = math.fsum((value - mean) ** 2 for value in values)
        return cls(mean, squares / (n - 1) / n, n - 1)


@dataclass(frozen=True)
class Side:
    """Runs that are compared with those of several other sides, checked and sorted once.

    ``runs``: of each the sorted, positive samples. ``nodes``: of each what it ran on; None if that
    is not known of all, and then each counts as if it had a node of its own.
    """

    runs: list[NDArray[np.float64]]
    nodes: tuple[str, ...] | None = field(default=None)

    @classmethod
    def of(cls, runs: Sequence[Samples] | Side, nodes: Sequence[str | None] | None = None) -> Side:
        """``nodes``: one per run. Raises ``ValueError`` for a run without samples, a sample that
        is not positive, or another number of nodes."""
        if isinstance(runs, Side):
            return runs
        known = None if nodes is None or None in nodes else tuple(str(node) for node in nodes)
        if known is not None and len(known) != len(runs):
            raise ValueError(f"{len(runs)} runs on {len(known)} nodes")
        return cls([_positive(run) for run in runs], known)

    @cached_property
    def centre(self) -> float:
        """Geometric mean of the run medians, or of what they come to per node.

        Raises ``ValueError`` if there is no run.
        """
        if not self.runs:
            raise ValueError("a comparison needs at least one run per side")
        # Without logarithms for one run: they would change its last digit.
        if len(self.runs) == 1:
            return self.medians[0]
        units = self.log_medians if self.is_one_node else list(self.by_node.values())
        return math.exp(math.fsum(units) / len(units))

    @cached_property
    def medians(self) -> list[float]:
        """Of each run."""
        return [_middle(run) for run in self.runs]

    @cached_property
    def log_medians(self) -> list[float]:
        """Their logarithms."""
        return [math.log(median) for median in self.medians]

    @cached_property
    def places(self) -> frozenset[str]:
        """Nodes of the runs; empty if they are not known."""
        return frozenset(self.nodes or ())

    @property
    def is_one_node(self) -> bool:
        """Whether all runs are known to be one node's."""
        return len(self.places) == 1

    @cached_property
    def logs_at(self) -> dict[str, list[float]]:
        """The runs' ``log_medians`` per node."""
        names = self.nodes or [str(at) for at in range(len(self.runs))]
        found = defaultdict(list)
        for node, log in zip(names, self.log_medians, strict=True):
            found[node].append(log)
        return dict(found)

    @cached_property
    def by_node(self) -> dict[str, float]:
        """Mean of the runs' ``log_medians`` per node."""
        return {node: math.fsum(logs) / len(logs) for node, logs in self.logs_at.items()}

    @cached_property
    def starts(self) -> Estimate | None:
        """Of the runs, as one node's; None if there are fewer than ``MIN_RUNS``."""
        return Estimate.of(self.log_medians) if len(self.runs) >= MIN_RUNS else None

    @cached_property
    def independent(self) -> Estimate | None:
        """Of the nodes; None if there are fewer than ``MIN_RUNS``."""
        if len(self.by_node) == len(self.runs):
            return self.starts
        means = list(self.by_node.values())
        return Estimate.of(means) if len(means) >= MIN_RUNS else None

    @cached_property
    def is_short(self) -> bool:
        """Whether a run has too few samples for an interval."""
        return any(run.size < MIN_REPEATS for run in self.runs)


def median_interval(samples: Samples) -> Interval:
    """Median of ``samples`` with its 95 % percentile-bootstrap interval (seeded: repeatable).

    Fewer than ``MIN_REPEATS`` samples have a value and no interval. Raises ``ValueError`` if there
    is none, or one that is not finite.
    """
    values = _sorted(samples)
    median = _middle(values)
    if values.size < MIN_REPEATS:
        return Interval(median, None, None)
    lo, hi = _percentiles(_bootstrap_medians(values, 0))
    return Interval(median, lo, hi)


def percentile(samples: Samples, p: int) -> float | None:
    """Percentile ``p`` of ``samples``, interpolated; None if fewer than 10 of them lie above it."""
    if len(samples) < least_samples(p):
        return None
    return float(np.percentile(samples, p))


def least_samples(p: int) -> int:
    """Samples that percentile ``p`` needs."""
    return -(-100 * TAIL_SAMPLES // (100 - p))


def median_of_runs(runs: Sequence[Samples] | Side) -> Interval:
    """Geometric mean of the run medians; each run holds the positive samples of one engine start.

    The interval is made as that of ``speedup``: "between runs" from three runs on, of one node or
    of three, else "within session", and none if a run has fewer than ``MIN_REPEATS`` samples.
    Raises ``ValueError`` as ``speedup`` does.
    """
    side = Side.of(runs)
    value = side.centre
    found = side.starts if side.is_one_node else side.independent
    if found is not None:
        spread = math.exp(_half_width(found.variance, found.df))
        return Interval(value, value / spread, value * spread, BETWEEN)
    if side.is_short:
        return Interval(value, None, None)
    lo, hi = _percentiles(_resampled_centre(side.runs, 0))
    return Interval(value, lo, hi)


def speedup(
    baseline_runs: Sequence[Samples] | Side, other_runs: Sequence[Samples] | Side
) -> Speedup:
    """The baseline's time (``Side.centre``) divided by that of the other side, with an interval.

    With enough runs per side the interval is "between runs": Welch's t on the logarithms of the run
    medians. What counts as independent depends on where they ran:

    - All runs of both sides on one node: the runs. What the node does to both cancels.
    - Both sides on the same two nodes: the runs, each less its node's luck (``_blocked``).
    - Both sides on the same three or more nodes: the nodes, in pairs (Student's t of their
      differences).
    - Else: the nodes; runs of one node are averaged.

    With fewer than ``MIN_RUNS`` of these per side it is "within session": the percentile bootstrap
    of the samples of each run and, where a side has several, of the runs.

    Raises ``ValueError`` for a side or run without samples, or a sample that is not a positive
    number.
    """
    before, after = Side.of(baseline_runs), Side.of(other_runs)
    value = before.centre / after.centre  # raises for a side without runs
    found = _difference(before, after)
    if found is not None:
        value = math.exp(found.mean)
        spread = math.exp(_half_width(found.variance, found.df)) if found.variance else 1.0
        lo, hi = value / spread, value * spread
        verdict = NOT_SIGNIFICANT if lo <= 1 <= hi else SIGNIFICANT
        return Speedup(value, lo, hi, BETWEEN, verdict)
    if before.is_short or after.is_short:
        return Speedup(value, None, None, WITHIN, UNDECIDED)
    baseline, other = before.runs, after.runs
    ratios = _resampled_centre(baseline, 0) / _resampled_centre(other, len(baseline))
    lo, hi = _percentiles(ratios)
    if lo <= 1 <= hi:
        return Speedup(value, lo, hi, WITHIN, SAME_WITHIN)
    enough = min(len(baseline), len(other)) >= MIN_RUNS
    return Speedup(value, lo, hi, WITHIN, DIFFERS_NODES if enough else DIFFERS_WITHIN)


class Difference(NamedTuple):
    """As ``Estimate``; Welch's degrees of freedom are no whole number."""

    mean: float
    variance: float
    df: float


def _difference(before: Side, after: Side) -> Difference | None:
    """Of the logarithms of both sides; None if too few are independent. See ``speedup``."""
    if before.places == after.places and before.places:
        if before.is_one_node:
            return _welch(before.starts, after.starts)
        if len(before.places) >= MIN_RUNS:
            other = after.by_node
            return Difference(*Estimate.of([log - other[n] for n, log in before.by_node.items()]))
        return _blocked(before, after)
    return _welch(before.independent, after.independent)


def _blocked(before: Side, after: Side) -> Difference | None:
    """Of both sides on the same nodes, too few to be paired; None for fewer than ``MIN_RUNS`` runs.

    Least squares with one effect per node and one of the side (a randomized block design). A node
    counts for as much as its two means tell of the difference; what it does to one side alone is
    in the residuals.
    """
    if min(len(before.runs), len(after.runs)) < MIN_RUNS:
        return None
    sides = before.logs_at, after.logs_at
    weights, differences, squares = [], [], 0.0
    for node in before.by_node:
        here, there = (side[node] for side in sides)
        weights.append(len(here) * len(there) / (len(here) + len(there)))
        differences.append(before.by_node[node] - after.by_node[node])
        for logs, mean in ((here, before.by_node[node]), (there, after.by_node[node])):
            squares += math.fsum((log - mean) ** 2 for log in logs)
    total = math.fsum(weights)
    mean = math.fsum(w * d for w, d in zip(weights, differences, strict=True)) / total
    squares += math.fsum(w * (d - mean) ** 2 for w, d in zip(weights, differences, strict=True))
    df = len(before.runs) + len(after.runs) - len(weights) - 1
    return Difference(mean, squares / df / total, df)


def _welch(a: Estimate | None, b: Estimate | None) -> Difference | None:
    """``scipy.stats.ttest_ind`` says the same (a test compares the two) and takes hundreds of times
    as long; a large sweep has tens of thousands of comparisons."""
    if a is None or b is None:
        return None
    variance = a.variance + b.variance
    if variance == 0:
        return Difference(a.mean - b.mean, 0.0, a.df + b.df)
    df = variance**2 / (a.variance**2 / a.df + b.variance**2 / b.df)
    return Difference(a.mean - b.mean, variance, df)


def _half_width(variance: float, df: float) -> float:
    """Half the 95 % interval of a mean of that variance: Student's t."""
    return student.quantile(1 - (1 - LEVEL) / 2, df) * math.sqrt(variance)


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
    """Shape (RESAMPLES,): the geometric mean over resampled runs of the resampled median of each.

    Runs are drawn with replacement, too (a two-stage bootstrap): runs that are there and disagree
    must not vanish in the steadiness of each, however few they are.
    """
    draws = [_bootstrap_medians(run, stream + index) for index, run in enumerate(runs)]
    if len(draws) == 1:
        return draws[0]
    logs = np.log(np.stack(draws))
    picked = np.take_along_axis(logs, _drawn_runs(len(runs), stream), axis=0)
    centre: NDArray[np.float64] = np.exp(picked.mean(axis=0))
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
