"""What every workload hands over once a cell is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Times:
    """time.monotonic() seconds: first warm-up, first kept repeat, end of the kept repeats.

    GPU state and energy are those between the last two.
    """

    began: float
    measured: float
    kept_until: float


@dataclass(frozen=True)
class Measurement:
    """A measured cell before anything of the engine or the GPUs is added.

    ``figures``: the workload's columns of ``core.schema``, samples included. ``refusals``: why it
    must not become a row; empty if it may. ``output_tokens``: of all kept repeats.
    """

    times: Times
    figures: dict[str, Any] = field(repr=False)
    refusals: list[str]
    output_tokens: int
