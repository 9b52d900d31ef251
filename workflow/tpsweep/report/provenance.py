"""Section "what ran on what": node classes, software, models, dates, from the rows themselves."""

from __future__ import annotations

from typing import Any

import pandas as pd

from tpsweep.analysis.table import digits
from tpsweep.report.boxes import Box, Part, joined
from tpsweep.results.load import Results

EMPTY = "No cell has a row yet: nothing is known of what ran."
_CLASS_HEADINGS = [
    *("GPU class", "GPUs", "Cards", "Link", "Power limit (W)", "Driver", "CUDA", "NCCL", "vLLM"),
    *("torch", "All-reduce that ran", "Nodes", "Engine starts", "Cells", "Measured (UTC)"),
]
_MODEL_HEADINGS = ["Model", "Revision", "Dtype", "Weights", "Cells measured", "Cells planned"]


def make_provenance(results: Results, limit: int) -> Part:
    """One line per node class and number of GPUs, and one per model."""
    boxes = []
    if len(results.rows):
        groups = results.rows.groupby(["gpu", "gpus"], sort=True)
        lines = [_class_line(rows) for _, rows in groups]
        boxes.append(Box("Where it ran", _CLASS_HEADINGS, lines[:limit]))
    planned = results.manifest[results.manifest["status"] == "planned"]
    if len(planned):
        lines = [_model_line(key, cells) for key, cells in _by_model(planned)]
        boxes.append(Box("Models", _MODEL_HEADINGS, lines[:limit]))
    return Part(boxes, EMPTY)


def dates(rows: pd.DataFrame) -> str:
    """First and last day on which one of ``rows`` was measured, UTC; empty if none says so."""
    days = [str(time)[:10] for name in ("started_at", "ended_at") for time in rows[name].dropna()]
    if not days:
        return ""
    return min(days) if min(days) == max(days) else f"{min(days)} to {max(days)}"


def _class_line(rows: pd.DataFrame) -> list[str]:
    limits = [digits(float(w)) for ws in rows["gpu_power_limit_w"].dropna() for w in ws]
    cards = joined(rows["gpu_names"]) or joined(rows["gpu_card"])
    cpus = joined(rows["cpu_model"]) if not joined(rows["gpu_names"]) else ""
    return [
        joined(rows["gpu"]),
        joined(rows["gpus"]),
        ", ".join(word for word in (cards, cpus) if word),
        joined(rows["gpu_link"]) or "none",
        joined(limits) or "n/a",
        joined(rows["driver_version"]) or "n/a",
        joined(rows["cuda_version"]) or "n/a",
        joined(rows["nccl_version"]) or "n/a",
        joined(rows["vllm_version_ran"]) or "n/a",
        joined(rows["torch_version"]) or "n/a",
        joined(rows["allreduce_backend_ran"]) or "n/a",
        joined(sorted(rows["hostname"].dropna())) or "n/a",
        str(rows["engine_id"].nunique()),
        str(len(rows)),
        dates(rows) or "n/a",
    ]


def _by_model(cells: pd.DataFrame) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    names = ["model", "model_revision", "dtype", "weights"]
    return [(key, group) for key, group in cells.groupby(names, dropna=False, sort=True)]


def _model_line(key: tuple[Any, ...], cells: pd.DataFrame) -> list[str]:
    measured = int((cells["state"] == "measured").sum())
    return [
        *("none" if pd.isna(part) else str(part) for part in key),
        str(measured),
        str(len(cells)),
    ]
