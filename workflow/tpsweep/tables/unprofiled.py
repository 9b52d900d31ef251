"""Decode times without a profiler, for captures: those of the latency cells that match them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

from tpsweep import row
from tpsweep.results import Results, records
from tpsweep.tables.table import Record

_FREE = ("cell_id", "workload", "output_len", "run")
SAME = tuple(name for name in row.IDENTITY_NAMES if name not in _FREE)
"""What a latency cell and a capture must agree in."""


@dataclass(frozen=True)
class DecodeTime:
    """Median over runs of the time per token (ms), at an output length (tokens)."""

    ms: float
    output_len: int
    runs: int


class DecodeTimes:
    """Every measured decode time of a results folder, by what was measured."""

    def __init__(self, results: Results) -> None:
        rows = results.rows[results.rows["workload"] == "latency"]
        self._found: dict[tuple[Any, ...], dict[int, list[float]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for line in records(rows, (*SAME, "output_len", "tpot_ms")):
            if line["tpot_ms"] is not None:
                self._found[_key(line, SAME)][line["output_len"]].append(line["tpot_ms"])

    def of(self, capture: Record) -> DecodeTime | None:
        """That of the cell like ``capture``; of several output lengths the one nearest to its."""
        lengths = self._found.get(_key(capture, SAME))
        if not lengths:
            return None
        asked = capture["output_len"]
        nearest = min(lengths, key=lambda length: (abs(length - asked), length))
        return DecodeTime(median(lengths[nearest]), nearest, len(lengths[nearest]))


def _key(line: Record, names: Iterable[str]) -> tuple[Any, ...]:
    return tuple(line[name] for name in names)
