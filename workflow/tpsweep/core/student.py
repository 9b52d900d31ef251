"""Quantiles of Student's t."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache


def quantile(p: float, df: float) -> float:
    """The ``p`` quantile of Student's t with ``df`` degrees of freedom."""
    return float(_scipy()(df, p))


@lru_cache(maxsize=1)
def _scipy() -> Callable[[float, float], float]:
    from scipy.special import stdtrit  # 0.2 s, which a sweep of single runs need not wait for

    found: Callable[[float, float], float] = stdtrit
    return found
