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
from tpsweep.perfmodel.constants import serving_constants
from tpsweep.perfmodel.engine_steps import EngineSteps
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


def test_a_prefill_of_experts_is_expected_where_the_gpu_decides() -> None:
    long, short = (expected_of(static_cell(batch, tp=2), QWEN) for batch in (64, 8))
    assert short.prefill_ms is None and short.tpot_ms is not None and short.note is None
    small = static_cell(64, tp=2, args={**PINS, "max_num_batched_tokens": 4096})
    assert expected_of(small, QWEN).prefill_ms is None  # each of eight steps is the host's
    run = Batch(2, 64, 512, 64, cache_dtype="bfloat16", prompts=(32.0, 32.0))
    assert long.prefill_ms == pytest.approx(prefill(QWEN, "bfloat16", H200, run).ms)
    # Two steps, and not one of twice the tokens: weights are read twice, tiles filled up twice.
    once = prefill(QWEN, "bfloat16", H200, replace(run, prompts=())).ms
    assert long.prefill_ms is not None and long.prefill_ms > 1.01 * once


def test_a_search_starts_from_what_an_engine_serves_at_most() -> None:
    one = saturation_request_s(capacity_cell(), EIGHT)
    assert one is not None
    # Fewer than the engine alone would do: its HTTP server is the limit, also of two replicas.
    served = replace(capacity_cell(), workload="serve", request_rate=None, repeats=1)
    many = replace(served, num_prompts=100_000)
    seconds = expected_of(many, EIGHT).seconds
    assert seconds is not None and 0.6 < one * seconds / 100_000 < 0.9
    assert one == pytest.approx(serving_constants().server_tok_s / 190)
    assert saturation_request_s(capacity_cell(replicas=2), EIGHT) == one
    assert saturation_request_s(capacity_cell(), None) is None
    lengths = replace(capacity_cell(), dataset="lengths", input_len=None, output_len=None)
    assert saturation_request_s(lengths, EIGHT) is None


def seconds_of(**extra: Any) -> float:
    found = expected_of(capacity_cell(**extra), EIGHT).seconds
    assert found is not None
    return found


def test_a_search_takes_its_probes_time() -> None:
    usual = seconds_of()
    assert usual == pytest.approx(10 * 1.4 * 30, rel=0.05)  # ten probes of 30 s and their ends
    two = seconds_of(slos={**P90, "bulk": {"ttft_p50_ms": 500.0}})
    assert two == pytest.approx(1.4 * usual, rel=0.05)
    # At 2 requests/s the 2,000 requests of a p99 take 1,000 s.
    slow = seconds_of(slos=P99, max_request_rate=2.0)
    assert slow == pytest.approx(10 * 1.4 * 1000, rel=0.05)
    assert seconds_of(slos=P99, max_request_rate=2.0, probe_requests=4000) == pytest.approx(
        2 * slow, rel=0.05
    )
