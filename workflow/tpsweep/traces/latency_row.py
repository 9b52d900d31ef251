"""The latency cell that a capture is to be compared with: its decode time without a profiler."""

from __future__ import annotations

import math
from pathlib import Path

from tpsweep.core.errors import CaptureError
from tpsweep.core.row_file import read_row
from tpsweep.core.workloads import LATENCY
from tpsweep.traces.sidecar import DTYPE_BYTES, Sidecar

_SAME = {
    "model": "model_name",
    "tp": "tp",
    "batch": "batch",
    "input_len": "input_len",
    "dtype": "dtype",
    "weights": "weights",
    "variant": "variant",
    "allreduce_backend": "allreduce_backend",
    "gpu_card": "gpu_card",
    "vllm_version": "vllm_version",
}
"""Columns of the row that must equal a field of the sidecar, where both say something. The output
length may differ: the decode time per token hardly depends on it."""


def decode_ms(path: Path, known: Sidecar) -> float:
    """``tpot_ms`` of the row at ``path``, in ms.

    Raises ``CaptureError``, one line, if it is no row of a latency cell, or of a cell with other
    settings than the sidecar ``known`` tells.
    """
    try:
        row = read_row(path)
    except ValueError as error:
        raise CaptureError(str(error)) from error
    workload, tpot = row.get("workload"), row.get("tpot_ms")
    if workload != LATENCY:
        raise CaptureError(f"{path}: workload: {workload!r}; the row of a latency cell is needed")
    if not isinstance(tpot, float) or not 0 < tpot < math.inf:
        raise CaptureError(f"{path}: tpot_ms: {tpot!r}; a decode time above 0 is needed")
    for column, field in _SAME.items():
        theirs, ours = row.get(column), known.facts.get(field)
        if column == "dtype" and theirs not in DTYPE_BYTES:
            continue  # auto: what ran stands in the sidecar
        if theirs is not None and ours is not None and theirs != ours:
            raise CaptureError(
                f"{path}: {column}: {theirs!r}, but the capture's sidecar has {ours!r}; the row of "
                "a cell with the capture's settings is needed"
            )
    return tpot
