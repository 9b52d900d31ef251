"""The latency cell to compare a capture with: its decode time without a profiler."""

from __future__ import annotations

import math
from pathlib import Path

from tpsweep.core import capture_match
from tpsweep.core.errors import CaptureError
from tpsweep.core.row_file import read_row
from tpsweep.core.workloads import LATENCY
from tpsweep.traces.sidecar import DTYPE_BYTES, Sidecar


def decode_ms(path: Path, known: Sidecar) -> float:
    """``tpot_ms`` of the row at ``path``, in ms.

    Raises ``CaptureError``, one line, if it is not the row of a latency cell, or of one with other
    settings than the sidecar ``known`` tells.
    """
    try:
        row = read_row(path)
    except ValueError as error:
        raise CaptureError(str(error)) from error
    workload, tpot = row.get("workload"), row.get("tpot_ms")
    if workload != LATENCY:
        raise CaptureError(f"{path}: workload: {workload!r}; allowed: the row of a latency cell")
    if not isinstance(tpot, float) or not 0 < tpot < math.inf:
        raise CaptureError(f"{path}: tpot_ms: {tpot!r}; allowed: a decode time above 0")
    # A row's dtype ``auto`` matches any: the sidecar says what ran.
    asked = {**row, "dtype": row["dtype"] if row.get("dtype") in DTYPE_BYTES else None}
    column = capture_match.mismatch(known.identity, asked)
    if column is not None:
        raise CaptureError(
            f"{path}: {column}: {row[column]!r}, but the capture's sidecar has"
            f" {known.identity[column]!r}; the row of a cell with the capture's settings is needed"
        )
    return tpot
