"""Two results folders cell by cell: ``tpsweep compare A B``.

Cells pair if their whole identity but the run agrees, and their ``settings`` (engine limits,
data set file, SLOs, ...): all but warm-ups, repeats and proxy variables, which are named beside
the values. The runs of a cell are pooled as in the tables of TPs. ``--across`` leaves columns out
of the identity, so that two vLLM versions or sites can be compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tpsweep.analysis.compare_values import FIGURES, Change, changes
from tpsweep.analysis.series import Line, Source, unlike
from tpsweep.analysis.settings_diff import differences, same_rows
from tpsweep.analysis.table import Record
from tpsweep.core import schema
from tpsweep.core.layout import Layout
from tpsweep.core.stats import NOT_SIGNIFICANT, SIGNIFICANT
from tpsweep.results.hosts import label_hosts
from tpsweep.results.load import Results, ResultsError, load

PAIRED_ON = (*(n for n in schema.IDENTITY_NAMES if n not in ("cell_id", "run")), "settings")
"""What two cells that are compared have in common, if nothing is left out."""
ACROSS = tuple(name for name in PAIRED_ON if name != "workload")
"""What may be left out: cells of two workloads have no figure in common."""
COUNTS = ("compared", "judged", "significant")
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Pair:
    """A cell that both sides have measured. ``cell``: what identifies it, nulls left out.

    ``unlike``: the software and the settings in which the two sides differ. ``hosts_a``,
    ``hosts_b``: what they ran on; equal labels are one host. No ``changes``: the cell has no
    figures that can be compared (a capture). ``same``: both sides hold the same rows.
    """

    cell: Record
    runs_a: int
    runs_b: int
    changes: list[Change]
    unlike: list[str]
    hosts_a: list[str]
    hosts_b: list[str]
    synthetic: bool
    same: bool = False


@dataclass(frozen=True)
class Alone:
    """A cell that only one side has measured; ``other`` says what the other side has of it."""

    cell: Record
    runs: int
    other: str


@dataclass(frozen=True)
class Comparison:
    """``neither``: cells that both sides, or the only side that plans them, have not measured."""

    a: str
    b: str
    across: list[str]
    pairs: list[Pair]
    only_a: list[Alone]
    only_b: list[Alone]
    neither: int

    @property
    def compared(self) -> int:
        """Figures that both sides have."""
        return sum(len(pair.changes) for pair in self.pairs)

    @property
    def judged(self) -> int:
        """Of them, those with enough engine starts per side to be judged significant or not."""
        return self._count(SIGNIFICANT, NOT_SIGNIFICANT)

    @property
    def significant(self) -> int:
        """Of them, those that differ significantly (measuring rule 8)."""
        return self._count(SIGNIFICANT)

    def _count(self, *verdicts: str) -> int:
        found = chain.from_iterable(pair.changes for pair in self.pairs)
        return sum(change.verdict in verdicts for change in found)


def compare(a: Path, b: Path, across: Iterable[str] = ()) -> Comparison:
    """Compare the results folders ``a`` and ``b``; ``across``: columns in which they may differ.

    Raises ``ResultsError``, one line, if a folder or its manifest is missing or unusable, for
    an unknown column, or if one folder holds a cell with two values of a column of ``across``.
    """
    left_out = list(dict.fromkeys(across))
    for name in left_out:
        if name not in ACROSS:
            raise ResultsError(f"--across: {name!r}; allowed: {', '.join(ACROSS)}")
    for folder in (a, b):
        if not folder.is_dir():
            raise ResultsError(f"{folder}: no such folder; give two results folders")
    names = [name for name in PAIRED_ON if name not in left_out]
    one, other = (list(_cells(load(folder))) for folder in (a, b))
    # Together: the same GPU in both folders is the same host, the same name need not be.
    labels = label_hosts([*one, *other])
    cells = [{**cell, "host": host} for cell, host in zip([*one, *other], labels, strict=True)]
    sides = (
        _lines(cells[: len(one)], names, left_out, a),
        _lines(cells[len(one) :], names, left_out, b),
    )
    return Comparison(str(a), str(b), left_out, *_paired(names, *sides))


def _paired(
    names: list[str], a: dict[Key, Line], b: dict[Key, Line]
) -> tuple[list[Pair], list[Alone], list[Alone], int]:
    pairs: list[Pair] = []
    only_a: list[Alone] = []
    only_b: list[Alone] = []
    neither = 0
    side_a, side_b = _Side(names, a), _Side(names, b)
    done: set[Key] = set()
    for key in sorted(dict.fromkeys((*a, *b)), key=_order):
        if key in done:
            continue
        cell = {name: value for name, value in zip(names, key, strict=True) if value is not None}
        one, other = side_a.measured(key), side_b.measured(key)
        if one and not other and (near := side_b.differing_in_flags(key, one, side_a)):
            done.add(near)
            other = b[near]
        elif other and not one and (near := side_a.differing_in_flags(key, other, side_b)):
            done.add(near)
            one = a[near]
        if one and other:
            pairs.append(_pair(cell, one, other))
        elif one:
            only_a.append(Alone(cell, len(one.measured), side_b.says_of(key, one)))
        elif other:
            only_b.append(Alone(cell, len(other.measured), side_a.says_of(key, other)))
        else:
            neither += 1
    return pairs, only_a, only_b, neither


def _pair(cell: Record, a: Line, b: Line) -> Pair:
    return Pair(
        cell=cell,
        runs_a=len(a.measured),
        runs_b=len(b.measured),
        changes=list(changes(cell["workload"], a, b)),
        unlike=[*unlike(a, b), *map(str, differences(a, b))],
        hosts_a=a.hosts,
        hosts_b=b.hosts,
        synthetic=a.is_synthetic or b.is_synthetic,
        same=same_rows(a, b),
    )


class _Side:
    """One folder's lines, found by their whole key or by all of it but the settings."""

    def __init__(self, names: list[str], lines: dict[Key, Line]) -> None:
        self._lines = lines
        self._at = names.index("settings") if "settings" in names else len(names)
        self._by_plain: dict[Key, list[Key]] = defaultdict(list)
        for key in lines:
            self._by_plain[self._without_settings(key)].append(key)

    def measured(self, key: Key) -> Line | None:
        """The line of this key, if it has a row."""
        line = self._lines.get(key)
        return line if line is not None and line.measured else None

    def differing_in_flags(self, key: Key, line: Line, other: _Side) -> Key | None:
        """The key of this side's line that differs from ``line``, of the other side, in settings
        that change no value; None if there is no such line, or more than one could be meant."""
        near = self._near(key)
        if len(near) != 1 or len(other._near(key)) != 1 or near[0] in other._lines:
            return None
        found = differences(line, self._lines[near[0]])
        return near[0] if found and not any(one.blocks for one in found) else None

    def says_of(self, key: Key, line: Line) -> str:
        """What this side has of the cell of ``line``, which it has not measured."""
        if key in self._lines:
            return self._lines[key].state
        near = self._near(key)
        if not near:
            planned = self._by_plain.get(self._without_settings(key))
            return "other settings, not measured" if planned else "not in its matrix"
        found = differences(line, self._lines[near[0]])
        return f"other settings: {', '.join(map(str, found)) or 'not recorded in the rows'}"

    def _near(self, key: Key) -> list[Key]:
        """Measured lines that agree in all but the settings."""
        keys = self._by_plain.get(self._without_settings(key), [])
        return [one for one in keys if self.measured(one)]

    def _without_settings(self, key: Key) -> Key:
        return (*key[: self._at], *key[self._at + 1 :])


def _lines(
    found: list[Record], names: list[str], left_out: list[str], folder: Path
) -> dict[Key, Line]:
    groups: dict[Key, list[Record]] = defaultdict(list)
    for cell in found:
        groups[tuple(cell[name] for name in names)].append(cell)
    for cells in groups.values():
        for name in left_out:
            values = sorted({str(cell[name]) for cell in cells})
            if len(values) > 1:
                said = ", ".join(values)
                raise ResultsError(f"--across {name}: {folder} holds the same cell with {said}")
    return {key: Line(Layout.of(cells[0]), cells) for key, cells in groups.items()}


def _cells(results: Results) -> Iterator[Record]:
    source = Source(results)
    for workload in dict.fromkeys((*FIGURES, *results.manifest["workload"])):
        yield from source.of(workload)


def _order(key: Key) -> tuple[tuple[bool, Any], ...]:
    return tuple((value is None, value) for value in key)
