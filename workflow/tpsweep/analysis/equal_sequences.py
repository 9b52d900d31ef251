"""Smaller engines on the same GPUs, each with its share of the sequences (measuring rule 9).

One engine of TP=2 at batch B and two of TP=1 at B/2 hold the same GPUs and serve the same
sequences. The smaller ones are computed: their own line at that share of the batch, times their
number, as if they did not disturb each other. Engines of a mixture of experts would: vLLM joins
their experts, and nothing is computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tpsweep.analysis.series import Line, Series
from tpsweep.core.layout import Layout


class Shares:
    """The lines of all batches of a workload, by what they are and at which batch."""

    def __init__(self, series: Iterable[Series]) -> None:
        self._lines = {
            _place(one, one.batch, line.layout): line for one in series for line in one.lines
        }

    def at(self, series: Series, small: Layout, engines: int) -> Line | None:
        """The line of ``small`` at the ``engines``-th part of the batch of ``series``.

        None if the batch does not divide, the matrix has no such cell, or the engines would share
        their experts.
        """
        share, rest = divmod(series.batch or 0, engines)
        return None if rest or series.has_experts else self._lines.get(_place(series, share, small))


def engines_on(gpus: int, small: Layout) -> int | None:
    """How many engines of ``small`` fill ``gpus``; None if not two or more, with none left over."""
    count, rest = divmod(gpus, small.gpus)
    return count if count > 1 and rest == 0 else None


def _place(series: Series, batch: int | None, layout: Layout) -> tuple[Any, ...]:
    # TP=1 has no all-reduce: its line stands for that of every backend.
    key = series.place(batch)
    return (*(key if layout.has_allreduce else key[:-1]), layout)
