"""In which settings two lines of cells differ, by name, from what their rows recorded.

``settings`` in the manifest is a digest: it says that cells differ, not in what.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tpsweep.analysis.series import Line
from tpsweep.analysis.table import Record
from tpsweep.core.method import FIRST

_COUNTS = {"warmups": "warm-ups", "repeats": "repeats"}
_PROXY = re.compile(r"(?i)(http|https|ftp|all|no)_proxy")
_NESTED = {"engine_args": "", "engine_env": "environment ", "slo": "slo "}
"""Columns of a JSON object, and what a message says before one of its keys."""
_PLACES = ("model", "tokenizer")
"""Engine arguments that are paths: a model made from a shape lies in each results folder."""
_WHOLE = {
    "model_digest": "model files",
    "request_set_digest": "request set",
    "profiler_ran": "profiler",
    "vllm_version_ran": "vLLM that ran",
}


@dataclass(frozen=True)
class Difference:
    """One setting; the values as a message shows them. ``blocks``: it can change a number."""

    name: str
    a: str
    b: str
    blocks: bool

    def __str__(self) -> str:
        if not self.a and not self.b:
            return self.name
        return f"{self.name} {self.a or 'unset'} and {self.b or 'unset'}"


def differences(a: Line, b: Line) -> list[Difference]:
    """What the measured rows of ``a`` and ``b`` do not have in common. Empty if nothing is seen:
    the rows do not record it."""
    return [
        *_counts(a, b),
        *_method(a, b),
        *(found for column in _NESTED for found in _nested(column, a, b)),
        *(
            Difference(name, "", "", blocks=True)
            for column, name in _WHOLE.items()
            if _values(column, a) != _values(column, b)
        ),
    ]


def _counts(a: Line, b: Line) -> Iterator[Difference]:
    """More warm-ups or repeats make an interval narrower; they do not change the value."""
    for column, name in _COUNTS.items():
        one, other = _values(column, a), _values(column, b)
        if one != other:
            yield Difference(name, _words(one), _words(other), blocks=False)


def _method(a: Line, b: Line) -> Iterator[Difference]:
    one, other = ({cell["method"] or FIRST for cell in line.measured} for line in (a, b))
    if one != other:
        yield Difference("method", _words(one), _words(other), blocks=True)


def _nested(column: str, a: Line, b: Line) -> Iterator[Difference]:
    one, other = (_objects(column, line) for line in (a, b))
    is_digested = all(None not in _values("model_digest", line) for line in (a, b))
    for key in sorted({*one, *other}):
        if is_digested and column == "engine_args" and key in _PLACES:
            continue  # what lies there is compared by its digest
        values = one.get(key, ""), other.get(key, "")
        if values[0] != values[1]:
            blocks = not (column == "engine_env" and _PROXY.fullmatch(key))
            yield Difference(f"{_NESTED[column]}{key}", *values, blocks=blocks)


def _objects(column: str, line: Line) -> dict[str, str]:
    found: dict[str, str] = {}
    for cell in line.measured:
        found |= {key: _plain(value) for key, value in json.loads(cell[column] or "{}").items()}
    return found


def _values(column: str, line: Line) -> set[Any]:
    return {cell[column] for cell in line.measured}


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _words(values: set[Any]) -> str:
    return "/".join(str(value) for value in sorted(values, key=str))


def same_rows(a: Line, b: Line) -> bool:
    """Whether both lines hold the same measurements: one is a copy of the other."""
    mine, theirs = _identities(a.measured), _identities(b.measured)
    return mine == theirs and not any(None in row for row in mine)


def _identities(rows: list[Record]) -> set[tuple[Any, ...]]:
    return {(row["cell_id"], row["engine_id"], row["started_at"]) for row in rows}
