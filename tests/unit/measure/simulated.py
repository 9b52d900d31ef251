"""Servers whose capacity is known, simulated: a seed gives the same run each time.

``times(arrivals, seed)`` gives TTFT and TPOT of each request in ms. ``Fixed`` is a queue with
``servers`` places and a constant time of service (M/D/c under Poisson arrivals). ``Batching`` is
like an LLM server: one step at a time makes a token for every sequence that runs, prompts are
prefilled in between, ``places`` sequences run at most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Server = Callable[[Array, int], tuple[Array, Array]]


@dataclass(frozen=True)
class Fixed:
    """TTFT is the wait and half of the service, TPOT a sixteenth of it."""

    service_ms: float
    servers: int

    def __call__(self, arrivals: Array, seed: int) -> tuple[Array, Array]:
        service = self.service_ms / 1e3
        start = np.empty_like(arrivals)
        for lane in range(self.servers):  # constant service: each c-th request, in turn
            mine = arrivals[lane :: self.servers]
            steps = service * np.arange(mine.size)
            start[lane :: self.servers] = np.maximum.accumulate(mine - steps) + steps
        ttft = 1e3 * (start - arrivals) + self.service_ms / 2
        return ttft, np.full(arrivals.size, self.service_ms / 16)


@dataclass(frozen=True)
class Batching:
    """``step_ms`` and ``each_ms`` per sequence make a decode step, ``prefill_ms`` a prompt."""

    step_ms: float = 8.0
    each_ms: float = 0.4
    prefill_ms: float = 3.0
    tokens: int = 24
    places: int = 64

    def __call__(self, arrivals: Array, seed: int) -> tuple[Array, Array]:
        due = (1e3 * arrivals).tolist()
        count = len(due)
        first, last = [0.0] * count, [0.0] * count
        ends: dict[int, list[int]] = {}  # by the step in which their last token comes
        now, step, next_up, running = 0.0, 0, 0, 0
        while next_up < count or running:
            if not running and due[next_up] > now:
                now = due[next_up]
            new = next_up
            while next_up < count and due[next_up] <= now and running < self.places:
                next_up, running = next_up + 1, running + 1
            now += self.step_ms + self.each_ms * running + self.prefill_ms * (next_up - new)
            if next_up > new:
                first[new:next_up] = [now] * (next_up - new)
                ends.setdefault(step + self.tokens - 1, []).extend(range(new, next_up))
            for place in ends.pop(step, ()):
                last[place] = now
                running -= 1
            step += 1
        ttft = np.asarray(first) - np.asarray(due)
        return ttft, (np.asarray(last) - np.asarray(first)) / (self.tokens - 1)


def arrivals_at(rate: float, count: int, seed: int) -> Array:
    """Poisson arrivals of exactly this mean rate, in seconds."""
    gaps = np.random.default_rng([seed, 7]).exponential(size=count)
    return np.cumsum(gaps * count / gaps.sum()) / rate


def capacity(
    server: Server, kept: Callable[[Array, Array], bool], low: float, high: float, count: int
) -> float:
    """The highest rate at which ``kept`` of a long run holds, to 0.3 %."""
    while high / low > 1.003:
        middle = (low * high) ** 0.5
        ttft, tpot = server(arrivals_at(middle, count, 1234), 1234)
        warm = count // 10
        low, high = (middle, high) if kept(ttft[warm:], tpot[warm:]) else (low, middle)
    return (low * high) ** 0.5
