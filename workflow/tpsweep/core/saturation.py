"""Whether a served load is more than the server can do: does the time of a request keep growing?

By Little's law the requests in flight are rate x time of a request. If more arrives than is served,
the time of each later request is longer, by (arrived / served - 1) seconds per second of arrivals:
0.05 at 1.05 of capacity. That growth is measured with an interval, which allows for the wander of a
queue, and a load is called saturated, or not saturated, only if the whole interval says so. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpsweep.core import student

YES, NO, NOT_SHOWN = "yes", "no", "not shown"
SMALL = 0.025
"""Seconds per second: half of what an overload of 5 % makes the time of a request grow."""
LARGE = 0.2
"""Seconds of wait per second since the first arrival, for the last block of every seed."""
WARM_SHARE = 0.3
WARM_LATENCIES = 1.5
"""Left out at the beginning: this share of a seed's arrivals, and this many of the usual latency.
An empty server fills up, which is no overload, and until it is full it shows none."""
BLOCKS = 4
"""Parts of the rest, whose means are compared. More would see more of the noise within them."""
LEAST_IN_BLOCK = 4
CONFIDENCE = 0.995
"""Of one end of an interval."""
WANDER = 1.5
"""A random walk from block to block: variance of its growth over what its block means show."""

Array = NDArray[np.float64]
Points = tuple[Array, Array]


@dataclass(frozen=True)
class Seed:
    """One run of a request set, in the order of the arrivals, in seconds.

    ``arrival``: when each request came. ``ttft``: until its first token, a wait in the client
    included. ``latency``: until its last one, for an answer of the usual length.
    """

    arrival: Array
    ttft: Array
    latency: Array


@dataclass(frozen=True)
class Growth:
    """Seconds per second of arrivals, with both ends of its interval."""

    value: float
    lo: float
    hi: float


@dataclass(frozen=True)
class Load:
    """``verdict``: yes, no or not shown. ``growth``: what it rests on; None if too few arrived."""

    verdict: str
    growth: Growth | None


def judge(seeds: Sequence[Seed]) -> Load:
    """The verdict of all seeds of a load together.

    no: the latency grows by less than ``SMALL``, even by the upper bound. yes: the wait for the
    first token grows by more than that, even by the lower bound; or in every seed the last arrivals
    wait for so long (``LARGE``) that no server which keeps up lets it come to that. The second sees
    a heavy overload through the waves in which slots become free.
    """
    latency = _steps(map(_settled, seeds))
    if latency is not None and (found := _interval(latency)).hi < SMALL:
        return Load(NO, found)
    late = [_late(seed) for seed in seeds]
    wait = _steps(late)
    if wait is None:
        return Load(NOT_SHOWN, None)
    found = _interval(wait)
    if found.lo > SMALL or all(_waited(seed) > LARGE for seed in seeds):
        return Load(YES, found)
    return Load(NOT_SHOWN, found if latency is None else _interval(latency))


def all_at_once(concurrency: int | None) -> str | None:
    """The verdict of an infinite rate: requests that all come at once are more than can be
    served; a closed loop (None) offers no rate."""
    return YES if concurrency is None else None


def is_endless(rate: float | None) -> bool:
    """Whether all requests come at once."""
    return rate is None or math.isinf(rate)


def judge_row(row: Mapping[str, Any]) -> str | None:
    """The verdict of a ``serve`` row: its own, or of an older one's samples.

    Older rows do not hold the arrivals. vLLM scales them so that the last comes at count / rate:
    evenly spaced ones stand for them. What waited in the client is not in their samples.
    """
    if row["saturated"] is not None:
        return str(row["saturated"])
    rate, concurrency = row["request_rate"], row["max_concurrency"]
    if is_endless(rate):
        return all_at_once(concurrency)
    ttft, count, seeds = row["ttft_ms_samples"], row["num_prompts"], row["repeats"]
    if concurrency is not None or ttft is None or not seeds or len(ttft) != count * seeds:
        return NOT_SHOWN
    shape = (seeds, count)
    waits = np.asarray(ttft, dtype=np.float64).reshape(shape) / 1e3
    whole = np.asarray(row["e2e_ms_samples"], dtype=np.float64).reshape(shape) / 1e3
    latency = whole
    tpot = row["tpot_ms_samples"]
    if tpot is not None and len(tpot) == len(ttft):
        times = np.asarray(tpot, dtype=np.float64).reshape(shape) / 1e3
        # An answer that came in one piece has no time per token, and tells no length.
        known = times > 0
        tokens = np.divide(whole - waits, times, out=np.zeros(shape), where=known)
        if known.any():
            latency = waits + times * float(tokens[known].mean())
    arrival = np.arange(count) / float(rate)
    return judge([Seed(arrival, *one) for one in zip(waits, latency, strict=True)]).verdict


def _late(seed: Seed) -> Points:
    """Arrivals after the first ones, and their TTFT: it depends on earlier arrivals only."""
    first = math.ceil(WARM_SHARE * seed.arrival.size)
    return seed.arrival[first:], seed.ttft[first:]


def _settled(seed: Seed) -> Points:
    """Those of them that ended while others came, and their latency: later ones have it easier."""
    if seed.arrival.size == 0:
        return seed.arrival, seed.latency
    full = seed.arrival[0] + WARM_LATENCIES * float(np.median(seed.latency))
    first = max(math.ceil(WARM_SHARE * seed.arrival.size), int(np.searchsorted(seed.arrival, full)))
    ended = int(np.count_nonzero(seed.arrival + seed.latency <= seed.arrival[-1]))
    return seed.arrival[first:ended], seed.latency[first:ended]


def _waited(seed: Seed) -> float:
    """Mean wait of the last block of ``_late`` over the time since the first arrival."""
    last = math.ceil((1 - WARM_SHARE) / BLOCKS * seed.arrival.size)
    elapsed = float(seed.arrival[-last:].mean() - seed.arrival[0])
    return float(seed.ttft[-last:].mean() - seed.ttft.min()) / elapsed if elapsed > 0 else 0.0


def _steps(seeds: Iterable[Points]) -> Array | None:
    """Growth from block to block, shape (seeds, BLOCKS - 1); None if a seed has too few points."""
    found: list[Array] = []
    for arrival, values in seeds:
        if arrival.size < BLOCKS * LEAST_IN_BLOCK:
            return None
        ends = np.linspace(0, arrival.size, BLOCKS + 1).astype(int)
        middle, mean = (np.add.reduceat(x, ends[:-1]) / np.diff(ends) for x in (arrival, values))
        found.append(np.diff(mean) / np.diff(middle))
    return np.array(found)


def _interval(steps: Array) -> Growth:
    value = float(steps.mean())
    error = math.sqrt(WANDER * float(steps.var(ddof=1)) / steps.size)
    half = student.quantile(CONFIDENCE, steps.size - 1) * error
    return Growth(value, value - half, value + half)
