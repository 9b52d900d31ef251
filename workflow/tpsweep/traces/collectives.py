"""Kernels grouped into collectives: a copy-reduce-copy or a two-shot with its norm is one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tpsweep.traces.events import Bools, Ints, RankEvents
from tpsweep.traces.kernels import COLLECTIVES, NameClasses, table


@dataclass(frozen=True)
class Collectives:
    """The collectives of one rank in order of their start; columns of shape (n,), times in ns.

    ``busy`` is the sum of the kernels' durations (pauses between them are nobody's transfer),
    ``first`` and ``last`` the ends of the group, ``kernels`` how many it has, ``row`` its place
    in the kernel table, ``kind`` that of its kind in ``COLLECTIVES`` (the table's, unless its
    place among the others says more), ``name`` its kernel's name as an index into the rank's
    names. ``least`` is the shortest of the same collective on all ranks that it joins, -1 if
    these are the group's own. ``member`` marks the rank's events that belong to any collective.
    """

    row: Ints
    kind: Ints
    name: Ints
    first: Ints
    last: Ints
    busy: Ints
    kernels: Ints
    least: Ints
    member: Bools

    def of(self, *kinds: str) -> Bools:
        """Mask of the collectives of these kinds."""
        return is_of(self.kind, *kinds)


def is_of(kind: Ints, *kinds: str) -> Bools:
    """Which of ``kind`` (places in ``COLLECTIVES``) are one of ``kinds``."""
    found: Bools = np.isin(kind, [COLLECTIVES.index(one) for one in kinds])
    return found


def find(events: RankEvents, classes: NameClasses) -> Collectives:
    """All collectives of a rank. Neighbours count on the same stream only."""
    rows = table().rows
    takes_before = np.array([row.copies in ("before", "around") for row in rows] + [False])
    takes_after = np.array([row.copies == "around" for row in rows] + [False])
    is_tail = np.array([row.collective == "norm_half" for row in rows] + [False])
    order = np.lexsort((events.start, events.stream))
    row, copy = classes.row[events.name][order], classes.copy[events.name][order]
    stream = events.stream[order]
    n = len(order)
    # group[i]: position of the kernel that event i belongs to, -1 for none. A copy between two
    # collectives goes to the one before it, whose result it takes out.
    main = (row >= 0) & ~is_tail[row]
    group = np.where(main, np.arange(n), -1)
    if n > 1:
        follows = stream[1:] == stream[:-1]
        tail = follows & main[:-1] & is_tail[row[1:]]
        after = follows & main[:-1] & takes_after[row[:-1]] & copy[1:]
        group[1:] = np.where(tail | after, np.arange(n - 1), group[1:])
        before = follows & main[1:] & takes_before[row[1:]] & copy[:-1] & (group[:-1] < 0)
        group[:-1] = np.where(before, np.arange(1, n), group[:-1])
    # A norm half without its first half is a collective of its own: it waits for peers, too.
    group = np.where((row >= 0) & (group < 0), np.arange(n), group)
    return _gather(events, order, row, group)


def _gather(events: RankEvents, order: Ints, row: Ints, group: Ints) -> Collectives:
    kinds = np.array([COLLECTIVES.index(one.collective) for one in table().rows])
    members = np.flatnonzero(group >= 0)
    mains, index = np.unique(group[members], return_inverse=True)
    start, end = events.start[order][members], events.end[order][members]
    first = np.full(len(mains), np.iinfo(np.int64).max)
    last = np.zeros(len(mains), dtype=np.int64)
    busy = np.zeros(len(mains), dtype=np.int64)
    np.minimum.at(first, index, start)
    np.maximum.at(last, index, end)
    np.add.at(busy, index, end - start)
    member = np.zeros(len(order), dtype=np.bool_)
    member[order[members]] = True
    by_time = np.argsort(first, kind="stable")
    return Collectives(
        row=row[mains][by_time],
        kind=kinds[row[mains][by_time]],
        name=events.name[order][mains][by_time],
        first=first[by_time],
        last=last[by_time],
        busy=busy[by_time],
        kernels=np.bincount(index, minlength=len(mains))[by_time],
        least=np.full(len(mains), -1, dtype=np.int64),
        member=member,
    )
