"""Every nanosecond of a step to one term: compute, transfer, wait, all-gather or gap.

A collective's kernel spins until its last peer arrives: what all ranks pay is the shortest
duration of the k-th collective over the ranks (the transfer), the rest of a rank's own duration
is its wait. Ranks are matched by order within the step, so that their clocks need not agree. The
minimum leans low: the more ranks, the shorter the shortest of their noisy durations.

Stages of a pipeline are never in step, and one waits for the other while it computes what came
next: what a stage passes on costs it the time in which nothing else runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tpsweep.traces.collectives import Collectives, is_of
from tpsweep.traces.events import Bools, Floats, Ints, RankEvents
from tpsweep.traces.kernels import EXPERTS
from tpsweep.traces.steps import Steps


@dataclass(frozen=True)
class Matched:
    """The k-th collective of all ranks as one; shape (collectives,), times in ns.

    ``transfer`` is the minimum over the ranks that it joins; ``by_clock`` max(end) - max(start),
    which needs a shared clock and one kernel per rank (-1: does not apply). ``duration`` is
    (ranks, n).
    ``shared_clock``: the ranks' times may be compared.
    """

    row: Ints
    kind: Ints
    step: Ints
    duration: Ints
    transfer: Ints
    by_clock: Ints
    shared_clock: bool


@dataclass(frozen=True)
class Terms:
    """Per rank and step, shape (ranks, steps), in ns; see the head of this file.

    ``all_gather``, ``transfer``, ``experts`` (dispatch and combine) and ``pipeline`` (from and to
    other stages, the wait for them included, where nothing else runs) are the same for every rank;
    waits for any of them are in ``wait``. ``overlap``, part of no sum, is compute under another
    collective: it counts as the collective. ``error`` is |sum - step| / step.
    """

    step: Floats
    compute: Floats
    transfer: Floats
    wait: Floats
    all_gather: Floats
    experts: Floats
    pipeline: Floats
    gap: Floats
    overlap: Floats

    @property
    def total(self) -> Floats:
        """Sum of all terms but ``step`` and ``overlap``."""
        moved = self.transfer + self.all_gather + self.experts + self.pipeline
        return self.compute + moved + self.wait + self.gap

    @property
    def error(self) -> Floats:
        """How far the sum is from the step, as a share of the step."""
        missed: Floats = np.abs(self.total - self.step)
        share: Floats = missed / np.maximum(self.step, 1)
        return share


class Covered:
    """Time that a set of intervals covers, overlaps counted once."""

    def __init__(self, start: Ints, end: Ints) -> None:
        """``start`` sorted, ``end`` of equal shape, ns; ``begin`` and ``end`` are the union's."""
        reach = np.maximum.accumulate(end) if len(end) else end
        fresh = np.ones(len(start), dtype=np.bool_)
        fresh[1:] = start[1:] > reach[:-1]
        self.begin = start[fresh]
        self.end = (
            reach[np.append(np.flatnonzero(fresh)[1:] - 1, len(reach) - 1)] if len(end) else end
        )
        self._before = np.concatenate([[0], np.cumsum(self.end - self.begin)])

    def until(self, times: Ints) -> Ints:
        """Covered ns before each of ``times``."""
        place = np.searchsorted(self.begin, times, side="right")
        if not len(self.begin):
            return np.zeros(times.shape, dtype=np.int64)
        last = np.maximum(place - 1, 0)
        rest = np.maximum(self.end[last] - times, 0)
        return np.where(place > 0, self._before[place] - rest, 0)

    def within(self, start: Ints, end: Ints) -> Ints:
        """Covered ns in each of the intervals ``start`` to ``end``."""
        return self.until(end) - self.until(start)


def match(found: Sequence[Collectives], steps: Steps) -> Matched | None:
    """Collectives of all ranks side by side; None if the ranks differ in kind, number or step."""
    count = steps.end.shape[1]
    step = [steps.of(one.first, rank) for rank, one in enumerate(found)]
    whole: list[Bools] = [numbers < count for numbers in step]
    keys = [
        np.stack([one.row, one.kind, s])[:, w] for one, s, w in zip(found, step, whole, strict=True)
    ]
    if any(not np.array_equal(keys[0], key) for key in keys[1:]):
        return None
    first, last, busy, kernels, least = (
        np.stack([getattr(one, name)[w] for one, w in zip(found, whole, strict=True)])
        for name in ("first", "last", "busy", "kernels", "least")
    )
    clock = np.where((kernels == 1).all(axis=0), last.max(axis=0) - first.max(axis=0), -1)
    transfer = busy.min(axis=0)
    wider = (least >= 0).all(axis=0)
    transfer = np.where(wider, np.minimum(transfer, least.min(axis=0)), transfer)
    shared = shares_clock(last, transfer)
    return Matched(
        row=keys[0][0],
        kind=keys[0][1],
        step=keys[0][2],
        duration=busy,
        transfer=transfer,
        by_clock=clock if shared else np.full(len(clock), -1),
        shared_clock=shared,
    )


def shares_clock(last: Ints, transfer: Ints) -> bool:
    """Whether the ranks' times are of one clock: the ends of a collective lie closer together
    than it takes. ``last``: (ranks, n), ``transfer``: (n,)."""
    if last.shape[0] < 2 or not len(transfer):
        return False
    return bool(np.median(last.max(axis=0) - last.min(axis=0)) < np.median(transfer))


def attribute(
    ranks: Sequence[RankEvents], found: Sequence[Collectives], steps: Steps, matched: Matched
) -> Terms:
    """The terms of every step on every rank."""
    shape = steps.end.shape
    gathers = is_of(matched.kind, "all_gather")
    experts = is_of(matched.kind, *EXPERTS)
    inside = ~is_of(matched.kind, "send_recv")
    transfer, gather, moved = (
        _per_step(matched.transfer, matched.step, mask, shape[1])
        for mask in (inside & ~(gathers | experts), gathers, experts)
    )
    busy, compute, wait, passed, overlap = (np.zeros(shape) for _ in range(5))
    for index, (rank, one) in enumerate(zip(ranks, found, strict=True)):
        window = steps.start[index], steps.end[index]
        passes = one.member & np.isin(rank.name, np.unique(one.name[one.of("send_recv")]))
        member = one.member & ~passes
        all_time = Covered(rank.start, rank.end).within(*window)
        at_work = Covered(rank.start[~passes], rank.end[~passes]).within(*window)
        ours = Covered(rank.start[member], rank.end[member]).within(*window)
        rest = ~(member | passes)
        others = Covered(rank.start[rest], rank.end[rest]).within(*window)
        own = _per_step(matched.duration[index], matched.step, inside, shape[1])
        busy[index], compute[index], passed[index] = all_time, at_work - ours, all_time - at_work
        if not rank.operators:  # an operator that encloses a collective is not overlap
            overlap[index] = ours + others - at_work
        wait[index] = own - transfer - gather - moved
    pipeline = passed.min(axis=0)
    wait += passed - pipeline
    step = (steps.end - steps.start).astype(np.float64)
    return Terms(
        step=step,
        compute=compute,
        transfer=np.broadcast_to(transfer, shape),
        wait=wait,
        all_gather=np.broadcast_to(gather, shape),
        experts=np.broadcast_to(moved, shape),
        pipeline=np.broadcast_to(pipeline, shape),
        gap=step - busy,
        overlap=overlap,
    )


def _per_step(values: Ints, step: Ints, mask: Bools, count: int) -> Floats:
    weights = values[mask].astype(np.float64)
    return np.bincount(step[mask], weights=weights, minlength=count)[:count].astype(np.float64)
