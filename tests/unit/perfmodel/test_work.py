"""What an engine's arguments make of a model: right floors, fit and expectation, or none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.perfmodel.test_floors import CELL, H200, LLAMA
from tests.unit.perfmodel.test_quantization import shape
from tpsweep.core.cell import Cell
from tpsweep.core.layout import Layout
from tpsweep.perfmodel.cell_time import expected_of, saturation_request_s
from tpsweep.perfmodel.floors import decode_floor_ms, floors_of
from tpsweep.perfmodel.memory import GIB, Limits, Load, fit, problem
from tpsweep.perfmodel.work import NoWorkError, Work, work_under

EIGHT = LLAMA["8b"]
PINS = {"max_model_len": 8192, "max_num_seqs": 256, "max_num_batched_tokens": 8192}
LIMITS = Limits(memory_gib=80, share=0.9, model_len=8192, batched_tokens=8192, sequences=256)


def cell(precision: str = "bf16", **args: Any) -> Cell:
    return replace(CELL, engine=replace(CELL.engine, precision=precision, args={**PINS, **args}))


def work(precision: str = "bf16", **args: Any) -> Work:
    return work_under(args, "bfloat16", precision, EIGHT)


def load(one: Work) -> Load:
    return Load(one.shape, one.dtype, one.cache_dtype, 4, 640, one.offloaded)


LINEAR = 32 * (4096 * 10240 + 3 * 4096 * 14336)
HEAD = 128256 * 4096
NORMS = 65 * 4096


def test_fp8_halves_the_linear_layers_and_with_kv_the_cache() -> None:
    for precision, cache in (("fp8", 2), ("fp8-kv", 1)):
        found = work(precision)
        assert found.shape.weight_bytes("bfloat16") == LINEAR + 2 * (2 * HEAD + NORMS)
        assert found.shape.bytes_read_per_step("bfloat16") == LINEAR + 2 * (HEAD + NORMS)
        eight = fit(load(found), LIMITS, Layout(tp=1))
        assert eight.cache == 2 * 32 * 8 * 128 * cache * 8192
    assert work("bf16").shape is EIGHT
    assert work("fp8").shape is work("fp8").shape  # made once: a plan asks for each cell
    # 70B in FP8: one H200 holds it with its cache, of which one H100 has no room for a sequence.
    seventy = load(work_under({}, "bfloat16", "fp8", LLAMA["70b"]))
    h200 = replace(LIMITS, memory_gib=141)
    assert problem(seventy, h200, Layout(tp=1), gpu="H200", per_node=8) is None
    said = problem(seventy, replace(LIMITS, model_len=32768), Layout(tp=1), gpu="H100", per_node=8)
    assert "weights 72.7 GB / tp 1 = 72.7 GB + activations" in str(said)
    assert "it fits from tp 2" in str(said)


def test_fp8_has_floors_and_an_expectation() -> None:
    plain, eight, cached = (floors_of(cell(p), EIGHT) for p in ("bf16", "fp8", "fp8-kv"))
    reads = (LINEAR + 2 * (HEAD + NORMS)) / 2 / 4.8e12 * 1e3
    assert eight.decode_ms == cached.decode_ms == pytest.approx(reads)
    kv = 4 * 576 * 65536 / 4.8e12 * 1e3
    assert eight.decode_kv_ms == pytest.approx(reads + kv)
    assert cached.decode_kv_ms == pytest.approx(reads + kv / 2)
    assert plain.prefill_ms is not None and eight.prefill_ms is not None
    assert plain.prefill_ms == pytest.approx(2 * eight.prefill_ms, rel=1e-3)
    slow, fast, faster = (expected_of(cell(p), EIGHT).tpot_ms for p in ("bf16", "fp8", "fp8-kv"))
    assert slow is not None and fast is not None and faster is not None
    assert slow > fast > faster
    # What is saved: half of the linear layers' bytes, at the share that the constants have.
    assert slow - fast == pytest.approx(LINEAR / 2 / (0.896 * 4.8e12) * 1e3, rel=1e-3)


def test_a_variant_goes_before_the_checkpoint_and_the_precision() -> None:
    assert work("fp8-kv", kv_cache_dtype="bfloat16").cache_dtype == "bfloat16"
    assert work("bf16", kv_cache_dtype="fp8").cache_dtype == "fp8"
    assert work("bf16", kv_cache_dtype="auto").cache_dtype == "bfloat16"
    scheme = {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": KV}
    asks = EIGHT.overridden({"quantization_config": scheme})
    assert work_under({}, "bfloat16", "bf16", asks).cache_dtype == "fp8"


KV = {"num_bits": 8, "type": "float", "dynamic": False}


def test_draft_tokens_divide_the_floor_and_leave_no_expectation() -> None:
    drafts = {"method": "eagle", "model": "some/draft", "num_speculative_tokens": 3}
    floors, plain = floors_of(cell(speculative_config=drafts), EIGHT), floors_of(cell(), EIGHT)
    assert floors.decode_ms is not None and plain.decode_ms is not None
    # A step gives a sequence up to four tokens: each may take a quarter of it.
    assert floors.decode_ms == pytest.approx(plain.decode_ms / 4)
    assert floors.prefill_ms == plain.prefill_ms
    expected = expected_of(cell(speculative_config=drafts), EIGHT)
    assert expected.tpot_ms is expected.seconds is None
    assert "speculative_config: how many" in str(expected.note)
    assert "draft model" in str(work(speculative_config=drafts).no_fit)
    ngram = {"method": "ngram", "num_speculative_tokens": 2}
    assert work(speculative_config=ngram).no_fit is None
    silent = floors_of(cell(speculative_config={"method": "ngram"}), EIGHT)
    assert silent.decode_ms is None and "does not say" in str(silent.note)
    assert floors_of(cell(speculative_config=None), EIGHT) == plain


def test_weights_on_the_host_are_neither_held_nor_read_from_the_gpu() -> None:
    offload = work(cpu_offload_gb=4)
    found, plain = (fit(load(one), LIMITS, Layout(tp=2)) for one in (offload, work()))
    assert found.weights == plain.weights - 4 * GIB
    floors = floors_of(cell(cpu_offload_gb=4), EIGHT)
    whole = decode_floor_ms(EIGHT, "bfloat16", 2, H200)
    assert floors.decode_ms == pytest.approx(whole - 4 * GIB / 4.8e12 * 1e3)
    assert floors_of(cell(cpu_offload_gb=100), EIGHT).decode_ms == 0
    assert "weights on the host" in str(expected_of(cell(cpu_offload_gb=4), EIGHT).note)
    tight = replace(LIMITS, memory_gib=16)
    said = problem(load(work(cpu_offload_gb=1)), tight, Layout(tp=1), gpu="T4", per_node=1)
    assert "16.1 GB / tp 1 - 1.1 GB on the host = 15.0 GB + activations" in str(said)
    assert work(cpu_offload_gb=0) == work()


def test_overrides_of_the_config_make_another_shape() -> None:
    half = work(hf_overrides={"num_hidden_layers": 16})
    assert half.shape.layers == 16
    floors = floors_of(cell(hf_overrides={"num_hidden_layers": 16}), EIGHT)
    assert floors.decode_ms == pytest.approx(decode_floor_ms(half.shape, "bfloat16", 2, H200))
    longer = work(hf_overrides={"rope_scaling": {"rope_type": "linear", "factor": 2.0}})
    assert longer.shape.max_position == 2 * 131072
    for overrides in ({"model_type": "gpt2"}, {"num_hidden_layers": 0}, ["a"]):
        with pytest.raises(NoWorkError, match="hf_overrides"):
            work(hf_overrides=overrides)
        floors = floors_of(cell(hf_overrides=overrides), EIGHT)
        assert floors.decode_ms is floors.prefill_ms is None
        assert "hf_overrides" in str(floors.note)
        assert "hf_overrides" in str(expected_of(cell(hf_overrides=overrides), EIGHT).note)


def test_ranks_that_share_a_sequences_cache() -> None:
    args = {**PINS, "gpu_memory_utilization": 0.9}
    wide = replace(CELL, engine=replace(CELL.engine, tp=16, args=args))
    shared = replace(wide, engine=replace(wide.engine, dcp=2))
    floors, whole = floors_of(shared, EIGHT), floors_of(wide, EIGHT)
    assert floors.decode_ms == whole.decode_ms and floors.decode_ms is not None
    assert floors.decode_kv_ms is not None and whole.decode_kv_ms is not None
    assert floors.decode_kv_ms - floors.decode_ms == pytest.approx(
        (whole.decode_kv_ms - floors.decode_ms) / 2
    )
    found = expected_of(shared, EIGHT)
    assert found.tpot_ms is found.seconds is None
    assert found.note == "no constants for decode context parallelism"
    served = replace(CELL, engine=replace(CELL.engine, tp=2, args=args))
    assert saturation_request_s(served, EIGHT)
    assert not saturation_request_s(replace(served, engine=replace(served.engine, dcp=2)), EIGHT)


def test_whole_experts_need_no_part_of_a_block() -> None:
    config = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    moe = shape("qwen3-30b-a3b").overridden({"quantization_config": config})
    work = work_under({}, "bfloat16", "bf16", moe)
    assert 4 not in work.tps()
    assert 4 in work.tps(ep=True)


def test_without_images_there_is_no_vision_tower() -> None:
    gemma = shape("gemma-3-4b")
    text = work_under({"language_model_only": True}, "bfloat16", "bf16", gemma)
    assert gemma.parameters - text.shape.parameters == 419_816_304


@pytest.mark.parametrize("name", ["offload_group_size", "hf_config_path"])
def test_what_nothing_is_known_of_gets_no_number(name: str) -> None:
    floors = floors_of(cell(**{name: "8"}), EIGHT)
    assert floors.decode_ms is floors.decode_kv_ms is floors.prefill_ms is None
    assert name in str(floors.note)
    assert name in str(expected_of(cell(**{name: "8"}), EIGHT).note)
