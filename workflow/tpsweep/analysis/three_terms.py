"""The model T(TP) = scaling / TP + fixed + communication(TP), solved or fitted. Pure; times in ms.

Two TPs give two unknowns and no test. How far the solution can be trusted is how far the decode
times scatter between engine starts, which the subtraction magnifies. A third TP makes it a fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tpsweep.core import stats

ASSUMED_SPREAD = 0.01
"""By so much may a decode time be off with under three engine starts. Four starts of 8B at TP=1 and
batch 1 on H200 differed by 1.0 % (results/published)."""


@dataclass(frozen=True)
class Timed:
    """A time that may be off by the share ``spread``, about two standard deviations."""

    ms: float
    spread: float = ASSUMED_SPREAD

    @property
    def off(self) -> float:
        """By so much may it be off, ms."""
        return self.ms * self.spread


@dataclass(frozen=True)
class Terms:
    """The parts of a decode step, ms: ``scaling`` is the whole of what TP divides.

    ``fixed`` may be off by ``fixed_off``, by the spread of the two times.
    """

    scaling: float
    fixed: float
    fixed_off: float = 0.0


@dataclass(frozen=True)
class Point:
    """One TP: its decode time, and how much of it is communication."""

    tp: int
    time: Timed
    communication: float = 0.0


@dataclass(frozen=True)
class Fit:
    """Terms by least squares over at least three TPs.

    ``residuals``: measured - fitted, ms, in the order of the points. ``p``: the chance of
    residuals as large, if the model holds and the spreads are right.
    """

    terms: Terms
    residuals: tuple[float, ...]
    p: float


def spread_of(starts: Sequence[float]) -> float:
    """By what share the median of some engine starts may be off: measured from three starts on."""
    found = stats.median_of_runs([[value] for value in starts])
    if found.kind != "between runs" or found.lo is None or found.hi is None:
        return ASSUMED_SPREAD
    return max(found.hi / found.value - 1, 1 - found.lo / found.value)


def solve(base: Point, other: Point) -> Terms:
    """Through two points of unequal TP, without their communication."""
    at_base, at_other = (point.time.ms - point.communication for point in (base, other))
    scaling = (at_base - at_other) / (1 / base.tp - 1 / other.tp)
    off = math.hypot(other.tp * other.time.off, base.tp * base.time.off) / (other.tp - base.tp)
    return Terms(scaling, at_base - scaling / base.tp, off)


def fit(points: Sequence[Point]) -> Fit:
    """By least squares, weighted by the spread. Raises ``ValueError`` for under three points."""
    if len(points) < 3:
        raise ValueError("a fit needs three TPs: two are solved")
    from scipy.special import chdtrc  # 0.2 s, which a sweep of two TPs need not wait for

    sigma = np.array([point.time.off / 2 for point in points])
    model = np.array([[1 / point.tp, 1.0] for point in points])
    values = np.array([point.time.ms - point.communication for point in points])
    weighted = model / sigma[:, None]
    (scaling, fixed), *_ = np.linalg.lstsq(weighted, values / sigma, rcond=None)
    residuals = values - model @ np.array([scaling, fixed])
    covariance = np.linalg.inv(weighted.T @ weighted)
    chi2 = float(np.sum((residuals / sigma) ** 2))
    return Fit(
        Terms(float(scaling), float(fixed), 2 * math.sqrt(float(covariance[1, 1]))),
        tuple(float(value) for value in residuals),
        float(chdtrc(len(points) - 2, chi2)),
    )
