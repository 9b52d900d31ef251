"""How work grows with its size: a ratio of CPU times, whatever else the machine is doing."""

from __future__ import annotations

import time
from collections.abc import Callable

TRIES = 3
TIMES = 4
"""The larger size in terms of the smaller: linear work takes 4 times as long, quadratic 16."""
MOST = 9.0
"""What is still no more than n log n, constant parts and disturbances included."""


def growth(prepare: Callable[[int], Callable[[], object]], size: int) -> float:
    """CPU time of ``TIMES * size`` over that of ``size``, each the best of a few tries.

    ``prepare`` makes the work of a size; only what it returns is timed.
    """
    small, large = prepare(size), prepare(TIMES * size)
    return min(_seconds(large) for _ in range(TRIES)) / min(_seconds(small) for _ in range(TRIES))


def _seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began
