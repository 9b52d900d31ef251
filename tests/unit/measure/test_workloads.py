"""What a session's engine is asked to do for a cell, whatever the kind of its workload."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.cells import latency_cell
from tests.unit.engine.test_nvml import sample
from tests.unit.measure.simulated import Fixed
from tests.unit.measure.test_build_row import engine_record
from tests.unit.measure.test_capacity import SET, Client, capacity_cell
from tpsweep.core import results_paths
from tpsweep.core.workloads import CAPACITY, LATENCY, THROUGHPUT
from tpsweep.engine.nvml import GpuGroup, window
from tpsweep.measure import workloads
from tpsweep.measure.workloads import MEASURE, Files


@pytest.mark.parametrize("workload", [LATENCY, THROUGHPUT])
def test_repeats_take_as_long_as_an_energy_needs(
    workload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On GPUs at least as long as NVML's window gives an energy for; else not longer than asked."""
    asked = []
    for module in (workloads.latency, workloads.throughput):
        monkeypatch.setattr(module, "run", lambda *arguments: asked.append(arguments[-1]))
    monkeypatch.setattr(workloads, "_requests", lambda *_: None)
    engine: Any = SimpleNamespace(static_batch=None, generate=None, vocabulary=1000)
    files = Files(Path(), None)
    for record in (engine_record(), engine_record(gpus=GpuGroup())):
        MEASURE[workload](latency_cell(), engine, files, record)
    least_s, without_gpus = asked
    assert (least_s, without_gpus) == (5.0, 0.0)
    samples = [sample(t / 10) for t in range(80)]
    found = window(samples, "GPU-a", begin=0.5, measured=1.0, end=1.0 + least_s)
    assert found is not None and found.energy_j is not None


def test_a_search_leaves_its_probes_beside_the_results_until_the_row_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, cell = Client(Fixed(100.0, 4)), capacity_cell(max_probes=2)
    monkeypatch.setattr(workloads, "_requests", lambda *_: SET)
    monkeypatch.setattr(workloads, "saturation_request_s", lambda *_: 40.0)

    def send(*asked: Any, slo: Any, **stop: Any) -> Any:
        assert slo == {}
        return client(*asked, **stop)

    engine: Any = SimpleNamespace(send=send, counters=client.counters)
    measure, files = MEASURE[CAPACITY], Files(tmp_path, None)
    found = measure(cell, engine, files, engine_record())
    log = tmp_path / results_paths.probes(cell.path)
    assert found.refusals == [] and list(found.scratch) == [log]
    assert client.rates[0] == 24.0
    assert len(log.read_text().splitlines()) == 1 + 2
    # The same machine goes on; another one, or another vLLM, begins again.
    for record, further in (
        (engine_record(), 0),
        (engine_record(host=replace(engine_record().host, cpu_model="another")), 2),
    ):
        before = len(client.rates)
        measure(cell, engine, files, record)
        assert len(client.rates) - before == further
