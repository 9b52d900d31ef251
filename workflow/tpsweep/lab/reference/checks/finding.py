"""What a check says, and the arithmetic that the checks share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from tpsweep.lab.reference.figure import Figure

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Finding:
    """Figures that do not hold together. ``says``: one sentence with the numbers."""

    check: str
    says: str
    figures: tuple[Figure, ...]


def grouped(figures: Iterable[Figure], key: Callable[[Figure], Key]) -> dict[Key, list[Figure]]:
    """Figures by ``key``, in their order."""
    groups: dict[Key, list[Figure]] = defaultdict(list)
    for figure in figures:
        groups[key(figure)].append(figure)
    return groups


def by_metric(figures: Iterable[Figure]) -> dict[str, Figure]:
    """The first figure of each metric."""
    found: dict[str, Figure] = {}
    for figure in figures:
        found.setdefault(figure.metric, figure)
    return found


def span(values: Iterable[float], form: str = ".3g") -> str:
    """``low to high``, or the one value that all are printed as."""
    ordered = [format(value, form) for value in sorted(values)]
    return ordered[0] if ordered[0] == ordered[-1] else f"{ordered[0]} to {ordered[-1]}"


def where(figure: Figure) -> str:
    """Model, node class and machine, worded to fit into a sentence."""
    machine = f"{figure.gpu}, {figure.node} node" if figure.node else figure.gpu
    return f"{figure.model} on {machine}"
