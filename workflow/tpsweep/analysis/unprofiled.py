"""Decode times without a profiler, for captures: those of the latency cells that match them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from tpsweep.analysis.series import Source
from tpsweep.analysis.table import Record
from tpsweep.core import capture_match
from tpsweep.core.layout import Layout
from tpsweep.core.workloads import LATENCY


@dataclass(frozen=True)
class DecodeTime:
    """Median over runs of the time per token (ms), at an output length (tokens).

    ``ms`` is None where there is none; ``note`` then says why. ``starts``: that of each run.
    """

    ms: float | None = None
    output_len: int | None = None
    settings: str | None = None
    synthetic: bool = False
    note: str | None = None
    starts: tuple[float, ...] = ()


class DecodeTimes:
    """Every measured decode time of a results folder, by what was measured."""

    def __init__(self, source: Source) -> None:
        self._found: dict[tuple[Any, ...], dict[int, list[Record]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for cell in source.of(LATENCY):
            if cell["tpot_ms"] is not None:
                self._found[capture_match.key(cell)][cell["output_len"]].append(cell)
        self._sizes = sorted({key[capture_match.COMPARED.index("tp")] for key in self._found})

    def of(self, capture: Record) -> DecodeTime:
        """That of the cell like ``capture``; of several output lengths the one nearest to its."""
        lengths = self._found.get(capture_match.key(capture))
        if not lengths:
            return DecodeTime(note="no latency cell like it is measured")
        asked = capture["output_len"]
        nearest = min(lengths, key=lambda length: (abs(length - asked), length))
        cells = lengths[nearest]
        if len({cell["settings"] for cell in cells}) > 1:
            return DecodeTime(note="latency cells like it differ in their settings: none is taken")
        starts = tuple(float(cell["tpot_ms"]) for cell in cells)
        return DecodeTime(
            median(starts),
            nearest,
            cells[0]["settings"],
            any(cell["synthetic"] for cell in cells),
            starts=starts,
        )

    def smaller(self, capture: Record) -> tuple[int, DecodeTime] | None:
        """The smallest TP below the capture's that has a decode time, and that time."""
        return next(((tp, time) for tp, time in self.sizes(capture) if tp < capture["tp"]), None)

    def sizes(self, capture: Record) -> Iterator[tuple[int, DecodeTime]]:
        """Every TP, rising, at which there is a decode time for a capture like it, and that."""
        for tp in self._sizes:
            time = self.of(at_tp(capture, tp))
            if time.ms is not None:
                yield tp, time


def program_of(capture: Record) -> str:
    """The profiler that made a capture, without its version."""
    return str(capture["profiler_ran"]).split(" ")[0]


def at_tp(cell: Record, tp: int) -> Record:
    """What the same cell is called at another TP: at TP=1 it has no all-reduce."""
    layout = replace(Layout.of(cell), tp=tp)
    backend = layout.backend(cell["allreduce_backend"])
    return {**cell, "tp": tp, "gpus": layout.gpus, "allreduce_backend": backend}
