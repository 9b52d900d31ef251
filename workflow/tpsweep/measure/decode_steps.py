"""Decode step by step: which steps something else disturbed, and the value without them.

A decode time from its two ends hides what happened between them: a host that stops for 40 ms in
one repeat, the first steps after a prefill that threw the clocks down. Here every step's time
stands beside what that step usually takes. Pure; times are milliseconds, arrays have the shape
(repeats, steps).

- **Stall**: one step that takes far longer than the same step of the other repeats, because the
  host (or anything but the model) held it up. Steps that follow it faster than usual are part of
  it: a queued step catches up.
- **Recovery**: first steps that are slower than the later ones in most repeats.
- **Drift**: later repeats are faster or slower than earlier ones.

The undisturbed value of a repeat is the mean of its steps, each disturbed one replaced by what it
would have taken: of a stall the usual time of that step, of the recovery the line through the late
steps. Without a disturbance it is the plain value itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tpsweep.engine.repeat import Repeat

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

STALL_SHARE = 0.25
"""A stall takes at least this much longer than usual: less is scatter, and moves 100 steps by a
quarter of a percent."""
STALL_SIGMAS = 8.0
"""And this many standard deviations of the scatter of all steps."""
CATCH_UP = 0.5
"""Steps under this share of the usual time, right after a stall, belong to it."""
STALLED_SHARE = 0.01
"""A repeat is disturbed if stalls took more than this share of its decode. Not their number: on a
host with a stall in every hundredth step, every repeat of 127 has one, and they cost 0.3 %."""
MANY_DISTURBED = 0.25
"""Share of the repeats so disturbed above which a cell is unsteady."""
RECOVERY_SHARE, RECOVERY_SIGMAS = 0.01, 4.0
"""First steps are slow if they are above the line of the late ones by more than both."""
LEAST_STEPS = 16
"""With fewer steps nothing is said of a recovery."""
DRIFT, LEAST_DRIFT_REPEATS, RANK_CORRELATION = 0.01, 5, 0.7
"""A cell drifts if its repeats rise or fall by more than this share, and in this order."""
NEIGHBOURS = 4
"""With under three repeats, a step's usual time is the median of this many steps on each side."""
NAMED = 5
"""Most stalls that are named one by one."""


@dataclass(frozen=True)
class Stall:
    """Repeat and step count from 1; ``excess_ms`` is what it took above ``usual_ms``."""

    repeat: int
    step: int
    usual_ms: float
    excess_ms: float


@dataclass(frozen=True)
class DecodeSteps:
    """Decode of one cell. ``undisturbed_ms``: per output token, one value per repeat.

    ``recovery`` is the number of slow first steps, None where that cannot be told; ``drift`` is
    the change from the first to the last repeat as a share, None for under 5 repeats.
    """

    undisturbed_ms: list[float]
    stalls: list[Stall]
    recovery: int | None
    drift: float | None
    notes: list[str]
    unsteady: bool

    def stalls_in(self, repeat: int) -> int:
        """Stalls in one repeat, counted from 1."""
        return sum(stall.repeat == repeat for stall in self.stalls)


def durations(repeat: Repeat, output_len: int) -> list[float] | None:
    """Milliseconds of each of the ``output_len - 1`` decode steps of a repeat, in order.

    From the last first token to the last token of the batch. None where the engine's outputs do
    not come to one per step: then only the two ends are known.
    """
    times = [request.times for request in repeat.requests]
    begin, end = max(t.first_token for t in times), max(t.last_token for t in times)
    inside = np.array([at for at in repeat.outputs_at if begin <= at <= end])
    if len(inside) != output_len:
        return None
    steps: list[float] = (1e3 * np.diff(inside)).tolist()
    return steps


def judge(steps: Floats, plain_ms: Sequence[float]) -> DecodeSteps:
    """What disturbed a cell's steps, and the cell's values without those disturbances.

    ``steps`` has the shape (repeats, steps), ``plain_ms`` is each repeat's time per output token.
    """
    usual = _usual(steps)
    stalled, caught_up = _stalls(steps, usual)
    level = _levels(steps, usual, stalled | caught_up)
    expected = level[:, None] * usual
    recovery, line = _recovery(usual)
    replaced = np.where(stalled | caught_up, expected, steps)
    if recovery:
        replaced[:, :recovery] = level[:, None] * line[:recovery]
    undisturbed = np.array(plain_ms) + (replaced - steps).mean(axis=1)
    stalls = [
        Stall(r + 1, k + 1, float(expected[r, k]), float(steps[r, k] - expected[r, k]))
        for r, k in np.argwhere(stalled).tolist()
    ]
    drift = _drift(undisturbed)
    many = int(_disturbed(stalls, steps).sum()) > MANY_DISTURBED * len(steps)
    drifts = drift is not None and abs(drift) > DRIFT and _in_order(undisturbed)
    slow = recovery is None and len(usual) >= LEAST_STEPS
    return DecodeSteps(
        undisturbed_ms=undisturbed.tolist(),
        stalls=stalls,
        recovery=recovery,
        drift=drift,
        notes=_notes(stalls, recovery, drift if drifts else None, steps.shape, slow),
        unsteady=many or drifts or slow,
    )


def _disturbed(stalls: Sequence[Stall], steps: Floats) -> Bools:
    """Of which repeats stalls took more than their share, shape (repeats,)."""
    took = np.zeros(len(steps))
    for stall in stalls:
        took[stall.repeat - 1] += stall.excess_ms
    disturbed: Bools = took > STALLED_SHARE * steps.sum(axis=1)
    return disturbed


def _usual(steps: Floats) -> Floats:
    """What each step takes, shape (steps,): the median of the repeats, if they are at least 3."""
    if len(steps) >= 3:
        usual: Floats = np.median(steps, axis=0)
        return usual
    count = steps.shape[1]
    near = [slice(max(0, k - NEIGHBOURS), k + NEIGHBOURS + 1) for k in range(count)]
    return np.array([np.median(steps[:, part]) for part in near])


def _stalls(steps: Floats, usual: Floats) -> tuple[Bools, Bools]:
    """Stalled steps, and those that catch up right after one."""
    above = steps - usual
    sigma = 1.4826 * float(np.median(np.abs(above)))
    stalled = above > np.maximum(STALL_SHARE * usual, STALL_SIGMAS * sigma)
    fast = steps < CATCH_UP * usual
    caught_up = np.zeros_like(stalled)
    for k in range(1, steps.shape[1]):
        caught_up[:, k] = fast[:, k] & (stalled[:, k - 1] | caught_up[:, k - 1])
    return stalled, caught_up


def _levels(steps: Floats, usual: Floats, disturbed: Bools) -> Floats:
    """How much slower than usual each repeat is as a whole, shape (repeats,)."""
    ratios = np.where(disturbed, np.nan, steps / usual)
    return np.array([1.0 if np.isnan(row).all() else np.nanmedian(row) for row in ratios])


def _recovery(usual: Floats) -> tuple[int | None, Floats]:
    """Number of slow first steps, and the line through the late ones; None if they do not end."""
    count = len(usual)
    if count < LEAST_STEPS:
        return None, usual
    places = np.arange(count)
    late = places[count // 2 :]
    # Never falling: as the KV cache grows a step gets no faster, and one that does recovers still.
    slope = max(0.0, _slope(late, usual[late]))
    line = np.median(usual[late] - slope * late) + slope * places
    off = usual - line
    sigma = 1.4826 * float(np.median(np.abs(off[late])))
    slow = off > np.maximum(RECOVERY_SHARE * line, RECOVERY_SIGMAS * sigma)
    # Two steps in a row at the line end it: one alone may be scatter.
    ends = np.flatnonzero(~slow[:-1] & ~slow[1:])
    first = int(ends[0]) if len(ends) else count
    return (first, line) if first <= count // 2 else (None, usual)


def _slope(x: NDArray[np.int64], y: Floats) -> float:
    """Theil and Sen: the median of the slopes between all pairs."""
    first, second = np.triu_indices(len(x), 1)
    return float(np.median((y[second] - y[first]) / (x[second] - x[first])))


def _drift(values: Floats) -> float | None:
    count = len(values)
    if count < LEAST_DRIFT_REPEATS:
        return None
    return _slope(np.arange(count), values) * (count - 1) / float(np.median(values))


def _in_order(values: Floats) -> bool:
    """Whether the values mostly rise, or mostly fall (Kendall's rank correlation)."""
    signs = [np.sign(b - a) for a, b in itertools.combinations(values.tolist(), 2)]
    return abs(float(np.mean(signs))) >= RANK_CORRELATION


def _notes(
    stalls: Sequence[Stall],
    recovery: int | None,
    drift: float | None,
    shape: tuple[int, ...],
    slow: bool,
) -> list[str]:
    notes = []
    if stalls:
        count = f"{len(stalls)} stall{'s' if len(stalls) > 1 else ''}"
        named = [
            f"repeat {one.repeat} step {one.step} +{one.excess_ms:.1f} ms"
            for one in sorted(stalls, key=lambda one: -one.excess_ms)[:NAMED]
        ]
        more = f" and {len(stalls) - NAMED} more" if len(stalls) > NAMED else ""
        notes.append(f"{count}: {', '.join(named)}{more}")
    if recovery:
        first = f"first {recovery} of {shape[1]} steps are" if recovery > 1 else "first step is"
        notes.append(f"the {first} slow")
    if slow:
        notes.append(f"more than half of {shape[1]} steps are slower than the last ones")
    if drift is not None:
        notes.append(f"drift of {100 * drift:+.1f} % over {shape[0]} repeats")
    return notes
