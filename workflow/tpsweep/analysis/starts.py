"""What is known of the spread between engine starts where a line has too few of its own.

Lines of one node class, model and layout are kin: how far their starts lie apart is alike, whatever
the batch. Those of them with enough starts lend their spread to the others, by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from tpsweep.core import stats, student

_NAMED = 6
_WORDS = {1: "one start", 2: "two starts"}


@dataclass(frozen=True)
class Spread:
    """Standard deviation of the logarithm of a start's value, with its degrees of freedom.

    ``source``: whose starts, for people.
    """

    sd: float
    df: int
    source: str

    def half_pct(self, starts: int) -> float:
        """Half the 95 % interval of a value of so many starts, in %."""
        return 100 * math.expm1(student.quantile(0.975, self.df) * self.sd / math.sqrt(starts))


@dataclass
class Kin:
    """Lines that lend each other their spread: ``sides`` gives one line's samples and its name."""

    members: list[tuple[str, Callable[[str], stats.Side]]] = field(default_factory=list)

    def spread(self, samples: str) -> Spread | None:
        """Of all members with at least ``MIN_RUNS`` starts, of each node by itself."""
        if samples not in self._known:
            self._known[samples] = self._pooled(samples)
        return self._known[samples]

    @cached_property
    def _known(self) -> dict[str, Spread | None]:
        return {}

    def _pooled(self, samples: str) -> Spread | None:
        squares, df, starts, names = 0.0, 0, 0, []
        for name, side_of in self.members:
            side = side_of(samples)
            if len(side.runs) < stats.MIN_RUNS:
                continue
            found = side.starts if side.is_one_node else side.independent
            if found is None:
                continue
            squares += found.variance * (found.df + 1) * found.df
            df += found.df
            starts += len(side.runs)
            names.append(name)
        if not df:
            return None
        return Spread(math.sqrt(squares / df), df, f"{starts} starts at {_listed(names)}")


def of_value(side: stats.Side, kind: str | None, spread: Spread | None) -> str | None:
    """What stands beside a value without an interval between starts; None beside one with it."""
    if kind == stats.BETWEEN or not side.runs:
        return None
    count = len(side.runs)
    known = f"; ±{_pct(spread.half_pct(count))} by {spread.source}" if spread else ""
    return f"{_count(side)}{known}"


def of_ratio(
    a: stats.Side, b: stats.Side, kind: str | None, spreads: tuple[Spread | None, Spread | None]
) -> str | None:
    """The same of a ratio of two sides."""
    if kind == stats.BETWEEN:
        return None
    if len(a.runs) == len(b.runs):
        words = f"{_count(a)} a side"
    else:
        words = f"{len(a.runs)} and {len(b.runs)} starts"
    if min(len(a.runs), len(b.runs)) >= stats.MIN_RUNS:
        words = f"{words}, too few nodes"
    one, other = spreads
    if one is None or other is None:
        return words
    half = math.hypot(one.half_pct(len(a.runs)), other.half_pct(len(b.runs)))
    sources = " and ".join(dict.fromkeys((one.source, other.source)))
    return f"{words}; ±{_pct(half)} by {sources}"


def few(count: int) -> str | None:
    """So many starts in words, if they are too few to know their spread."""
    return _WORDS.get(count)


def _listed(names: list[str]) -> str:
    """``batch 1, 8, 64``; of many the first and the last."""
    found = list(dict.fromkeys(names))
    if len(found) > _NAMED:
        return f"{found[0]} to {found[-1].removeprefix('batch ')}"
    return ", ".join([found[0], *(name.removeprefix("batch ") for name in found[1:])])


def _count(side: stats.Side) -> str:
    count = len(side.runs)
    words = _WORDS.get(count, f"{count} starts")
    nodes = len(side.places)
    return f"{words} of {nodes} nodes" if count >= stats.MIN_RUNS and nodes > 1 else words


def _pct(value: float) -> str:
    return f"{value:.2g} %"
