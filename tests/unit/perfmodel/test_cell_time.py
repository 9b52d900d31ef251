"""What a search for a capacity should start from, and how long it should take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.perfmodel.test_floors import H200
from tests.unit.perfmodel.test_work import EIGHT, PINS, cell
from tools.fit_expectation import shape_named
from tpsweep.core.cell import Cell
from tpsweep.perfmodel.cell_time import expected_of, saturation_request_s
from tpsweep.perfmodel.constants import constants, serving_constants
from tpsweep.perfmodel.engine_steps import EngineSteps
from tpsweep.perfmodel.mixture import launch_ms
from tpsweep.perfmodel.serving import Serving
from tpsweep.perfmodel.step_time import Batch, decode, prefill

QWEN = shape_named("qwen3-30b-a3b")

P90, P99 = {"chat": {"ttft_p90_ms": 500.0}}, {"chat": {"ttft_p99_ms": 500.0}}


def capacity_cell(replicas: int = 1, **extra: Any) -> Cell:
    plain = cell(gpu_memory_utilization=0.9)
    settings = {
        "slos": P90,
        "probe_s": 30.0,
        "probe_requests": 400,
        "max_request_rate": 1000.0,
        "max_probes": 40,
        **extra,
    }
    return replace(
        plain,
        workload="capacity",
        batch=None,
        num_prompts=1000,
        input_len=220,
        output_len=190,
        engine=replace(plain.engine, mode="server", replicas=replicas),
        extra=settings,
    )


def static_cell(batch: int, **layout: Any) -> Cell:
    plain = cell(max_num_batched_tokens=16384)
    engine = replace(plain.engine, **layout)
    return replace(plain, batch=batch, input_len=512, output_len=64, engine=engine)


def test_a_batch_comes_to_the_stages_of_a_pipeline_as_vllm_takes_it() -> None:
    """64 prompts in steps of at most 32: the first alone, 7 behind it, 32 and 24."""
    found = expected_of(static_cell(64, tp=1, pp=2), EIGHT)
    run = Batch(1, 64, 512, 64, pp=2, cache_dtype="bfloat16")
    parts = prefill(EIGHT, "bfloat16", H200, replace(run, prompts=(1.0, 7.0, 32.0, 24.0)))
    assert found.prefill_ms == pytest.approx(parts.ms)
    # The 33 of the first and the third step decode together.
    assert found.tpot_ms == pytest.approx(
        decode(EIGHT, "bfloat16", H200, replace(run, group=33)).ms
    )
    # Of requests that come and go, half are in each stage.
    served = replace(capacity_cell(), workload="serve", request_rate=None, repeats=1)
    served = replace(served, num_prompts=64, max_concurrency=64)
    piped = replace(served, engine=replace(served.engine, tp=1, pp=2))
    half = Batch(1, 64, 220, 190, pp=2, cache_dtype="bfloat16", group=32)
    steps = EngineSteps.of(piped.engine, EIGHT)
    assert steps.decode(steps.served(64, 220, 190)) == pytest.approx(
        decode(EIGHT, "bfloat16", H200, half).ms
    )


def test_a_prefill_of_experts_is_that_of_its_steps() -> None:
    long, short = (expected_of(static_cell(batch, tp=2), QWEN) for batch in (64, 8))
    small = static_cell(64, tp=2, args={**PINS, "max_num_batched_tokens": 4096})
    each = short.prefill_ms
    assert each == pytest.approx(launch_ms(QWEN, False, constants()))  # the host's
    assert each and expected_of(small, QWEN).prefill_ms == pytest.approx(8 * each)
    quantized = expected_of(static_cell(64, tp=2), QWEN.online_fp8)
    assert quantized.prefill_ms is None and quantized.tpot_ms is not None
    run = Batch(2, 64, 512, 64, cache_dtype="bfloat16", prompts=(32.0, 32.0))
    assert long.prefill_ms == pytest.approx(prefill(QWEN, "bfloat16", H200, run).ms)
    # Two steps, and not one of twice the tokens: weights are read twice, tiles filled up twice.
    once = prefill(QWEN, "bfloat16", H200, replace(run, prompts=())).ms
    assert long.prefill_ms is not None and long.prefill_ms > 1.01 * once


def test_a_search_starts_from_what_an_engine_serves_before_it_stalls() -> None:
    cell = capacity_cell()
    one = saturation_request_s(cell, EIGHT)
    assert one == Serving(EngineSteps.of(cell.engine, EIGHT), 220, 190).calm
    # Two replicas do twice as much, until their HTTP server is the limit.
    most = serving_constants().server_tok_s / 190
    assert saturation_request_s(capacity_cell(replicas=2), EIGHT) == min(2 * one, most) == most
    assert saturation_request_s(capacity_cell(), None) is None
    lengths = replace(capacity_cell(), dataset="lengths", input_len=None, output_len=None)
    assert saturation_request_s(lengths, EIGHT) is None


def test_a_set_that_comes_all_at_once() -> None:
    """Over HTTP no faster than a server was ever seen to send, offline as the engine does."""
    sets = {"num_prompts": 100_000, "repeats": 1, "warmups": 0}
    rates = {}
    for workload in ("throughput", "serve"):
        seconds = expected_of(replace(capacity_cell(), workload=workload, **sets), EIGHT).seconds
        assert seconds is not None
        rates[workload] = 100_000 / seconds
    most = serving_constants().server_tok_s / 190
    assert rates["serve"] == pytest.approx(most, rel=1e-3)
    assert rates["throughput"] > 1.1 * most


def served_cell(**changed: Any) -> Cell:
    return replace(capacity_cell(), workload="serve", repeats=3, extra={}, **changed)


def test_a_served_cell_is_what_the_queue_says() -> None:
    """One model: `tpsweep plan`, the tables and `tpsweep recommend` say the same."""
    cell = served_cell(request_rate=32.0, num_prompts=480)
    found, serving = expected_of(cell, EIGHT), Serving(EngineSteps.of(cell.engine, EIGHT), 220, 190)
    load = serving.at(32.0)
    assert load is not None and found.tpot_ms == load.tpot_ms
    assert found.seconds == pytest.approx(3 * serving.seconds_of(480, 32.0) + 0.3)
    beyond = expected_of(served_cell(request_rate=500.0), EIGHT)
    assert beyond.tpot_ms == serving.most_tpot_ms(480) > load.tpot_ms
    # Twenty requests never are more than twenty at a time, at whatever rate they come.
    few = expected_of(served_cell(request_rate=500.0, num_prompts=20), EIGHT).tpot_ms
    at_once = expected_of(served_cell(request_rate=None, num_prompts=20), EIGHT).tpot_ms
    assert few == serving.most_tpot_ms(20) == pytest.approx(at_once, rel=0.1)
    near = expected_of(served_cell(request_rate=0.97 * serving.capacity, num_prompts=20), EIGHT)
    assert near.tpot_ms == few
    # Another run of the same is the same, another model is not.
    again = replace(cell, engine=replace(cell.engine, run=7))
    assert expected_of(again, EIGHT) == found
    longer = replace(cell, engine=replace(cell.engine, tp=1))
    assert expected_of(longer, EIGHT) != found
    assert expected_of(replace(cell, output_len=1), EIGHT).tpot_ms is None


def seconds_of(**extra: Any) -> float:
    found = expected_of(capacity_cell(**extra), EIGHT).seconds
    assert found is not None
    return found


def test_a_search_takes_its_probes_time() -> None:
    usual = seconds_of()
    assert usual == pytest.approx(10 * 1.4 * 30, rel=0.05)  # ten probes of 30 s and their ends
    two = seconds_of(slos={**P90, "bulk": {"ttft_p50_ms": 500.0}})
    assert two == pytest.approx(1.4 * usual, rel=0.05)
    # At 2 requests/s the 2,000 requests of a p99 take 1,000 s. The highest rate holds, as does one
    # below it, and it is confirmed.
    probes = 2 + capacity_cell().repeats
    slow = seconds_of(slos=P99, max_request_rate=2.0)
    assert slow == pytest.approx(probes * 1.4 * 1000, rel=0.05)
    assert seconds_of(max_probes=5) == pytest.approx(usual / 2, rel=0.05)
    assert seconds_of(slos=P99, max_request_rate=2.0, probe_requests=4000) == pytest.approx(
        2 * slow, rel=0.05
    )
