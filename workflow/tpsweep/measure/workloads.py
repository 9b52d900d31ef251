"""The one place where a workload's name meets the code that measures it."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tpsweep.core import results_paths
from tpsweep.core.atomic import replacing
from tpsweep.core.cell import Cell
from tpsweep.core.method import LEAST_ENERGY_S, METHOD
from tpsweep.core.workloads import (
    CAPACITY,
    CAPTURE,
    KINDS,
    LATENCY,
    SERVE,
    SERVER,
    THROUGHPUT,
)
from tpsweep.engine.api_server import Server
from tpsweep.engine.host import EngineHost
from tpsweep.engine.load_generator import Sent
from tpsweep.engine.offline import OfflineEngine
from tpsweep.measure import capacity, capture, latency, serving, throughput
from tpsweep.measure.build_row import EngineRecord
from tpsweep.measure.measurement import Measurement
from tpsweep.measure.probe_log import ProbeLog
from tpsweep.perfmodel.cell_time import saturation_request_s
from tpsweep.sweep import request_set, sharegpt
from tpsweep.sweep.request_set import RequestSet

Offline = OfflineEngine | EngineHost
Served = Server | EngineHost
Loaded = Offline | Server


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
    wanted = Served if KINDS[cell.workload].mode == SERVER else Offline
    if not isinstance(engine, wanted):
        said = f"workload {cell.workload}: not one of a session of mode {cell.engine.mode}"
        raise ValueError(said)
    if not about.arguments.get("speculative_config"):
        return MEASURE[cell.workload](cell, engine, files, about)
    before = engine.drafts()
    measured = MEASURE[cell.workload](cell, engine, files, about)
    length = engine.drafts().length_since(before)
    return replace(measured, figures={**measured.figures, "acceptance_length": length})


def _latency(cell: Cell, engine: Offline, _: Files, about: EngineRecord) -> Measurement:
    return latency.run(cell, engine.static_batch, engine.vocabulary, _least_s(about))


def _capture(cell: Cell, engine: Offline, files: Files, about: EngineRecord) -> Measurement:
    return capture.run(cell, engine, files.results, about)


def _throughput(cell: Cell, engine: Offline, files: Files, about: EngineRecord) -> Measurement:
    return throughput.run(cell, _requests(cell, engine, files), engine.generate, _least_s(about))


def _serve(cell: Cell, engine: Served, files: Files, _: EngineRecord) -> Measurement:
    send = partial(engine.send, slo=cell.extra.get("slo") or {})
    requests = _requests(cell, engine, files)
    measurement, runs = serving.run(cell, requests, send, engine.counters)
    kept = _keep(cell, runs, files.results)
    return replace(measurement, figures={**measurement.figures, "vllm_results": kept})


def _capacity(cell: Cell, engine: Served, files: Files, about: EngineRecord) -> Measurement:
    send = partial(engine.send, slo={})
    requests = _requests(cell, engine, files)
    log = ProbeLog(files.results / results_paths.probes(cell.path), _whose(cell, requests, about))
    expected = saturation_request_s(cell, about.shape)
    measured = capacity.run(cell, requests, send, engine.counters, log, expected, about.engine_id)
    return replace(measured, scratch=[log.path])


def _whose(cell: Cell, requests: RequestSet, about: EngineRecord) -> dict[str, Any]:
    """What must agree for the probes of a killed search to count: another machine, vLLM or method
    gives other numbers."""
    return {
        "cell_id": cell.cell_id,
        "method": METHOD[cell.workload],
        "requests": requests.digest,
        "software": asdict(about.software),
        "cpu": about.host.cpu_model,
        "gpus": sorted(info.name for info in about.gpus.infos),
    }


MEASURE: Mapping[str, Callable[[Cell, Any, Files, EngineRecord], Measurement]] = {
    LATENCY: _latency,
    THROUGHPUT: _throughput,
    SERVE: _serve,
    CAPACITY: _capacity,
    CAPTURE: _capture,
}
"""Kind of workload -> what measures it, on an engine of the kind's mode."""


def _least_s(about: EngineRecord) -> float:
    """How long repeats go on for their energy; where none is counted, not at all."""
    return LEAST_ENERGY_S if about.gpus.infos and about.nodes.nodes == 1 else 0.0


def _requests(cell: Cell, engine: Loaded, files: Files) -> RequestSet:
    read = partial(sharegpt.read, tokenizer=engine.tokenizer)
    return request_set.of_cell(cell, files.dataset, engine.vocabulary, read)


def _keep(cell: Cell, runs: Sequence[Sent], results: Path) -> list[str]:
    """Write vLLM's result of each seed; returns the paths below the results root."""
    stem = results_paths.vllm_stem(cell.path)
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
