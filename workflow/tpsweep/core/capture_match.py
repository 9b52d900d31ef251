"""Which latency cell says how long a capture's decode step takes without a profiler.

The one rule: all of the identity agrees but the workload, the run and the output length, which a
decode time per token hardly depends on. The capture's own settings cannot agree: they hold its
profiler and its repeats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tpsweep.core import schema

_FREE = ("cell_id", "workload", "output_len", "run")
COMPARED = tuple(name for name in schema.IDENTITY_NAMES if name not in _FREE)
"""The columns of the identity that must agree."""


def key(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    """The values of ``COMPARED``: equal for a capture and the latency cells that match it."""
    return tuple(cell[name] for name in COMPARED)


def mismatch(capture: Mapping[str, Any], latency: Mapping[str, Any]) -> str | None:
    """The first column of ``COMPARED`` in which the two differ; None if they match.

    For a capture from elsewhere, of which little is known: what one of the two does not say
    agrees with anything.
    """
    for name in COMPARED:
        values = capture.get(name), latency.get(name)
        if None not in values and values[0] != values[1]:
            return name
    return None
