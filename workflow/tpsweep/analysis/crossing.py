"""Where the better of two TPs changes with the batch (measuring rule 10). Pure.

Only significant signs make a crossover, and there is none across a batch that is not measured.
Beside it stands what the values show, in words that claim no test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

Sign = Literal[-1, 0, 1]
"""1: the larger TP is significantly better, -1: the smaller one, 0: not significant."""
LEVEL = 0.02
"""Two layouts are level within this share: starts of one layout differ by up to 1 % (published
rows, batch 1), so that two of them may do so by twice that."""


@dataclass(frozen=True)
class Point:
    """One batch (sequences). ``sign`` is None where a side is not measured: ``hole`` says why.

    ``ratio``: how many times better the larger TP is, by the values alone.
    """

    batch: int
    sign: Sign | None
    hole: str = ""
    ratio: float | None = None


@dataclass(frozen=True)
class Bracket:
    """A change in (``after``, ``upto``], both ends significant; ``to`` is the sign at ``upto``."""

    after: int
    upto: int
    to: Sign


@dataclass(frozen=True)
class Crossing:
    """``verdict``: ``at_most``, ``brackets``, ``none in range`` or ``undecided``.

    ``at_most``: the larger TP is better from ``smallest`` on. ``brackets`` holds every change
    that is established. ``smallest`` and ``largest``: the batches between which both sides are
    measured, None if there is none. ``why``: what leaves it undecided, or what limits it.
    """

    verdict: Literal["at_most", "brackets", "none in range", "undecided"]
    smallest: int | None
    largest: int | None
    brackets: tuple[Bracket, ...] = ()
    why: tuple[str, ...] = ()


def find_crossing(points: Sequence[Point]) -> Crossing:
    """The crossing of points that rise in their batch.

    The larger TP ahead at every measured batch: at most the smallest. The smaller ahead at every
    one, without a hole between them: none in range. A change of significant sign is a bracket; what
    lies in it may be not significant, but not unmeasured.
    """
    known = [point.batch for point in points if point.sign is not None]
    holes = [f"batch {point.batch} {point.hole}" for point in points if point.sign is None]
    if not known:
        return Crossing("undecided", None, None, why=("no batch is measured on both sides", *holes))
    smallest, largest = known[0], known[-1]
    inner = any(p.sign is None for p in points if smallest < p.batch < largest)
    brackets, across = _changes(points)
    equal = [point.batch for point in points if point.sign == 0]
    why = [*holes, *across]
    if equal:
        why.append(f"not significant at batch {', '.join(map(str, equal))}")
    signs = {point.sign for point in points if point.sign is not None}
    if brackets:
        return Crossing("brackets", smallest, largest, tuple(brackets), tuple(why))
    if signs == {1}:
        return Crossing("at_most", smallest, largest, why=tuple(why))
    if signs == {-1} and not inner:
        return Crossing("none in range", smallest, largest, why=tuple(why))
    return Crossing("undecided", smallest, largest, why=tuple(why))


def _changes(points: Sequence[Point]) -> tuple[list[Bracket], list[str]]:
    """Brackets, and in words the changes that have a hole in them and are none."""
    brackets, across = [], []
    last: Point | None = None
    hole = False
    for point in points:
        if point.sign is None:
            hole = True
        elif point.sign != 0:
            if last is not None and last.sign != point.sign:
                if hole:
                    across.append(f"no bracket across the hole in ({last.batch}, {point.batch}]")
                else:
                    brackets.append(Bracket(last.batch, point.batch, point.sign))
            last, hole = point, False
    return brackets, across


def observe(points: Sequence[Point], name: str) -> str | None:
    """Where ``name``, the larger TP, is ahead, level or behind by the values; None without any.

    ``points`` rise in their batch. A batch that is not measured is named and belongs to no range.
    """
    known = [point for point in points if point.ratio is not None]
    if not known:
        return None
    parts = [(word, [p.batch for p in part]) for word, part in groupby(known, key=_standing)]
    told = []
    for at, (word, batches) in enumerate(parts):
        first, last = batches[0], batches[-1]
        if first == last:
            where = f"at {last}"
        elif at == 0 and len(parts) > 1:
            where = f"up to {last}"
        elif at == len(parts) - 1 and at > 0:
            where = f"from {first} on"
        else:
            where = f"from {first} to {last}"
        told.append(f"{word} {where}")
    holes = [str(point.batch) for point in points if point.ratio is None]
    missing = f" (not known at {', '.join(holes)})" if holes else ""
    return f"{name} {', '.join(told)}{missing}"


def _standing(point: Point) -> str:
    ratio = point.ratio or 0.0
    if abs(ratio - 1) <= LEVEL:
        return f"level (within {100 * LEVEL:.0f} %)"
    return "ahead" if ratio > 1 else "behind"
