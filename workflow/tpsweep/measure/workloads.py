"""The one place where a workload's name meets the code that measures it."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tpsweep.core.atomic import replacing
from tpsweep.core.cell import Cell
from tpsweep.core.method import LEAST_ENERGY_S
from tpsweep.engine.api_server import Server
from tpsweep.engine.load_generator import Sent
from tpsweep.engine.offline import OfflineEngine
from tpsweep.measure import capture, latency, serving, throughput
from tpsweep.measure.build_row import EngineRecord
from tpsweep.measure.measurement import Measurement
from tpsweep.sweep import request_set, sharegpt

Loaded = OfflineEngine | Server
KEPT = "vllm"
"""Folder below the results root for vLLM's own result files. Not in ``cells/``: what lies there
is read as Parquet, all of it."""


@dataclass(frozen=True)
class Files:
    """Where a cell's files are: the results root, and its dataset if it has one."""

    results: Path
    dataset: Path | None


def measure(cell: Cell, engine: Loaded, files: Files, about: EngineRecord) -> Measurement:
    """Measure a cell on the engine of its session; ``about`` is what its start said.

    Raises ``ValueError`` for what cannot be measured as asked, ``EngineDiedError``, and
    ``OSError`` if vLLM's results cannot be kept.
    """
    # Where no energy is counted nothing has to go on for it.
    least_s = LEAST_ENERGY_S if about.gpus else 0.0
    if cell.workload == "latency" and isinstance(engine, OfflineEngine):
        return latency.run(cell, engine.static_batch, engine.vocabulary, least_s)
    if cell.workload == "capture" and isinstance(engine, OfflineEngine):
        return capture.run(cell, engine, files.results, about)
    read = partial(sharegpt.read, tokenizer=engine.tokenizer)
    requests = request_set.of_cell(cell, files.dataset, engine.vocabulary, read)
    if cell.workload == "throughput" and isinstance(engine, OfflineEngine):
        return throughput.run(cell, requests, engine.generate, least_s)
    if cell.workload == "serve" and isinstance(engine, Server):
        send = partial(engine.send, slo=cell.extra.get("slo") or {})
        measurement, runs = serving.run(cell, requests, send, engine.counters)
        kept = _keep(cell, runs, files.results)
        return replace(measurement, figures={**measurement.figures, "vllm_results": kept})
    raise ValueError(f"workload {cell.workload}: not one of a session of mode {cell.engine.mode}")


def _keep(cell: Cell, runs: Sequence[Sent], results: Path) -> list[str]:
    """Write vLLM's result of each seed; returns the paths below the results root."""
    stem = Path(cell.path.replace("cells/", f"{KEPT}/", 1)).with_suffix("")
    paths = []
    for seed, sent in enumerate(runs):
        path = f"{stem}.seed{seed}.json.gz"
        with replacing(results / path) as temporary, gzip.open(temporary, "wt") as file:
            json.dump(_to_us(sent.raw), file)
        paths.append(path)
    return paths


def _to_us(value: Any) -> Any:
    """Seconds to the microsecond: the clock tells no more, and the files are a third in size."""
    if isinstance(value, float) and math.isfinite(value):
        return round(value, 6)
    if isinstance(value, list):
        return [_to_us(item) for item in value]
    if isinstance(value, dict):
        return {key: _to_us(item) for key, item in value.items()}
    return value
