"""Percentiles of served requests over the runs of a line."""

from __future__ import annotations

import numpy as np

from tpsweep.analysis.series import Line
from tpsweep.core import stats

POOLED = ("ttft", "tpot", "e2e")
"""Metrics whose rows keep the value of every request."""


def over_runs(line: Line, metric: str, p: int) -> float | None:
    """Median over the runs of percentile ``p``; of all their requests together if no single run has
    enough of them; None if all together have too few."""
    found = line.median(f"{metric}_p{p}_ms")
    if found is not None or metric not in POOLED or len(line.measured) < 2:
        return found
    samples = [cell[f"{metric}_ms_samples"] for cell in line.measured]
    known = [values for values in samples if values is not None and len(values)]
    return stats.percentile(np.concatenate(known), p) if known else None
