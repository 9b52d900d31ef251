"""What every workload hands over once a cell is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Times:
    """time.monotonic() seconds: first warm-up, first kept repeat, end of the repeats.

    GPU state and energy are those between the last two. ``phases``: begin and end of each prefill
    and each decode, by these names; empty where they are not told apart.
    """

    began: float
    measured: float
    kept_until: float
    phases: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Measurement:
    """A measured cell before anything of the engine or the GPUs is added.

    ``figures``: the workload's columns of ``core.schema``, samples included. ``refusals``: why it
    must not become a row; empty if it may. ``output_tokens``: of all repeats that the energy is of.
    ``scratch``: files that are of no use once the cell has its row, or is refused.
    """

    times: Times
    figures: dict[str, Any] = field(repr=False)
    refusals: list[str]
    output_tokens: int
    scratch: Sequence[Path] = ()
