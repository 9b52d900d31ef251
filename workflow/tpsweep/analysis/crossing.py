"""Where the better of two TPs changes with the batch (measuring rule 10). Pure.

Only significant signs speak, and nothing is said across a batch that is not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Sign = Literal[-1, 0, 1]
"""1: the larger TP is significantly better, -1: the smaller one, 0: not significant."""


@dataclass(frozen=True)
class Point:
    """One batch (sequences). ``sign`` is None where a side is not measured: ``hole`` says why."""

    batch: int
    sign: Sign | None
    hole: str = ""


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
