"""Cells and engines for tests, with plain values."""

from __future__ import annotations

from typing import Any

from tpsweep.core.cell import Cell, Engine, Model


def model(**changes: Any) -> Model:
    fields: dict[str, Any] = {
        "name": "tiny",
        "path": "results/models/tiny",
        "revision": None,
        "dtype": "float32",
        "weights": "dummy",
        "is_hub": False,
        "digest": "d1",
    }
    return Model(**{**fields, **changes})


def engine(**changes: Any) -> Engine:
    fields: dict[str, Any] = {
        "site": "local",
        "gpu": "here",
        "gpu_card": "CPU",
        "model": model(),
        "tp": 2,
        "replicas": 1,
        "variant": "default",
        "allreduce_backend": "auto",
        "vllm_version": "0.32.0",
        "args": {"max_model_len": 512, "max_num_batched_tokens": 256},
        "mode": "offline",
        "run": 0,
    }
    return Engine(**{**fields, **changes})


def latency_cell(**changes: Any) -> Cell:
    fields: dict[str, Any] = {
        "workload": "latency",
        "engine": engine(),
        "dataset": "random",
        "input_len": 64,
        "output_len": 5,
        "warmups": 1,
        "repeats": 3,
        "batch": 2,
    }
    return Cell(**{**fields, **changes})
