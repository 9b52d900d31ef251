"""What fits, by hand and beside what vLLM itself said of its memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.perfmodel.test_quantization import shape
from tests.unit.perfmodel.windows import windowed
from tpsweep.core.layout import Layout
from tpsweep.perfmodel.constants import document
from tpsweep.perfmodel.memory import GIB, Limits, Load, activations, fit, problem, smallest_tp
from tpsweep.perfmodel.model_shape import Shape

ROOT = Path(__file__).parents[3]
SAID: list[dict[str, Any]] = yaml.safe_load(
    (ROOT / "tests" / "data" / "vllm_memory.yaml").read_text("utf-8")
)
ON_GPU = [said for said in SAID if said["memory_gib"]]
H100 = Limits(memory_gib=80, share=0.9, model_len=8192, batched_tokens=8192, sequences=256)


def load(name: str, batch: int = 0, length: int = 0, cache: str = "bfloat16") -> Load:
    return Load(shape(name), "bfloat16", cache, batch, length)


def of(said: dict[str, Any]) -> tuple[Load, Limits]:
    limits = [said[key] for key in ("memory_gib", "share", "model_len")]
    return load(said["model"]), Limits(*limits, said["batched_tokens"], said["sequences"])


@pytest.mark.parametrize("said", SAID, ids=lambda said: f"{said['where']}-tp{said['tp']}")
def test_vllm_counts_as_many_bytes_for_a_token(said: dict[str, Any]) -> None:
    each = shape(said["model"]).kv_bytes_per_token(said["dtype"], said["tp"])
    assert said["cache_gib"] * GIB / each == pytest.approx(said["cache_tokens"], rel=2e-4)


@pytest.mark.parametrize("said", ON_GPU, ids=lambda said: said["where"])
def test_vllm_weighs_as_much_and_has_as_much_left(said: dict[str, Any]) -> None:
    found = fit(*of(said), Layout(tp=said["tp"]))
    assert found.weights / GIB == pytest.approx(said["weights_gib"], rel=0.01)
    assert found.expected_cache_tokens == pytest.approx(said["cache_tokens"], rel=0.005)


def test_the_estimates_are_what_is_missing_in_vllms_words() -> None:
    known = {name: entry["value"] for name, entry in document()["memory"].items()}
    assert all(entry["origin"] for entry in document()["memory"].values())
    for said in ON_GPU[:2]:
        ours, limits = of(said)
        usable = (said["memory_gib"] - known["driver_gib"]) * said["share"]
        buffers = activations(ours.shape, "bfloat16", limits, said["tp"]) / GIB
        missing = usable - said["weights_gib"] - said["cache_gib"] - buffers
        estimate = known["runtime_gib"] + known["runtime_tp_gib"] * (said["tp"] - 1)
        assert missing == pytest.approx(estimate, abs=0.02)
    assert known["graphs_gib"] == max(said["graphs_gib"] for said in ON_GPU)


def test_a_profile_run_by_hand() -> None:
    eight = shape("llama-3.1-8b")
    assert activations(eight, "bfloat16", H100, 2) == 8192 * (2 * 4096 + 3 * 7168) * 2
    # few tokens, many sequences: the logits and their 32-bit copy are more
    many = replace(H100, batched_tokens=1024, sequences=1024)
    assert activations(eight, "bfloat16", many, 1) == 1024 * 128256 * 6
    moe = shape("qwen3-30b-a3b")
    assert activations(moe, "bfloat16", replace(H100, sequences=8), 1) == 8192 * 2 * 2048 * 2


def test_70b_fits_no_80_gb_card_and_not_one_h200() -> None:
    seventy = load("llama-3.1-70b")
    said = problem(seventy, H100, Layout(tp=1), gpu="H100", per_node=8)
    assert said == (
        "weights 141.1 GB / tp 1 = 141.1 GB a GPU > 77.3 GB (80 GiB x 0.9 of H100); "
        "it fits from tp 2"
    )
    # At 0.9 TP=2 leaves 77.3 - 71.5 GB: more than the 1.3 GB of a sequence of 8192 tokens.
    two = fit(seventy, H100, Layout(tp=2))
    assert (two.weights + two.activations) / 1e9 == pytest.approx(70.55 + 0.97, abs=0.05)
    h200 = replace(H100, memory_gib=141)
    assert problem(seventy, h200, Layout(tp=1), gpu="H200", per_node=8) == (
        "weights 141.1 GB / tp 1 = 141.1 GB a GPU > 136.3 GB (141 GiB x 0.9 of H200); "
        "it fits from tp 2"
    )
    most = replace(h200, share=0.95, model_len=2048)
    assert problem(seventy, most, Layout(tp=1), gpu="H200", per_node=8) is None
    assert fit(seventy, most, Layout(tp=1)).is_tight
    eight = load("llama-3.1-8b")
    assert not fit(eight, h200, Layout(tp=1)).is_tight
    assert fit(eight, replace(h200, share=0.995), Layout(tp=1)).is_tight  # no room for CUDA graphs


def test_a_batch_takes_whole_blocks_and_a_sequence_must_find_room() -> None:
    assert load("llama-3.1-8b", 10, 17).tokens(replace(H100, model_len=100)) == 10 * 32
    assert load("llama-3.1-8b", 1, 17).tokens(H100) == 8192
    bounded = windowed(shape("mistral-7b"), 4096)
    assert Load(bounded, "bfloat16", "bfloat16", 1, 17).tokens(H100) == 32
    tall = replace(H100, model_len=131072 * 5)
    assert "KV cache of 655360 tokens 85.9 GB a GPU" in str(
        problem(load("llama-3.1-8b"), tall, Layout(tp=1), gpu="H100", per_node=8)
    )


def test_the_smallest_tp_knows_heads_and_nodes() -> None:
    assert smallest_tp(load("llama-3.1-70b"), H100, Layout(tp=1), 1) is None
    small = replace(H100, memory_gib=24)
    assert smallest_tp(load("llama-3.1-70b"), small, Layout(tp=1), 8) == 8
    said = str(problem(load("llama-3.1-70b"), small, Layout(tp=2), gpu="L4", per_node=4))
    assert said.endswith("no tp fits on a node of 4 L4")
    # 28 heads, 4 KV heads: 3 does not divide, 4 does
    qwen = load("qwen2.5-7b", batch=256, length=8192)
    assert smallest_tp(qwen, replace(H100, memory_gib=48), Layout(tp=1), 4) == 4


def test_an_eight_bit_cache_takes_half() -> None:
    plain, small = load("llama-3.1-8b", 64, 4096), load("llama-3.1-8b", 64, 4096, "fp8")
    assert fit(plain, H100, Layout(tp=1)).cache == 2 * fit(small, H100, Layout(tp=1)).cache


LAYER_70B = 2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672 + 2 * 8192
EMBEDDING_70B = 128256 * 8192


@pytest.mark.parametrize(
    ("layout", "parameters", "layers"),
    [
        (Layout(tp=1, pp=2), 40 * LAYER_70B + EMBEDDING_70B + 8192, 40),
        # Norms are on both ranks: 81 of them, of which half are in the half of all.
        (Layout(tp=2, pp=2), (40 * LAYER_70B + EMBEDDING_70B + 8192 + 81 * 8192) / 2, 40),
        (Layout(tp=1, pp=4), 20 * LAYER_70B + EMBEDDING_70B + 8192, 20),
        # 80 layers on 3 stages are 27, 27, 26: the first has the embedding, too.
        (Layout(tp=1, pp=3), 27 * LAYER_70B + EMBEDDING_70B, 27),
        (
            Layout(tp=2, pp=2, replicas=2),
            (40 * LAYER_70B + EMBEDDING_70B + 8192 + 81 * 8192) / 2,
            40,
        ),
    ],
    ids=lambda value: value.label if isinstance(value, Layout) else "",
)
def test_the_fullest_stage_of_a_pipeline_by_hand(
    layout: Layout, parameters: float, layers: int
) -> None:
    found = fit(load("llama-3.1-70b", batch=1, length=8192), H100, layout)
    assert found.weights == 2 * parameters
    assert found.bytes_per_token == layers * 2 * 8 * 128 * 2 / layout.tp
    assert found.cache == 8192 * found.bytes_per_token


def test_stages_together_weigh_what_the_model_weighs() -> None:
    for name in ("llama-3.1-8b", "llama-3.1-70b"):
        whole = shape(name)
        for pp in (2, 3, 5, 7):
            stages = whole.stages(pp)
            assert sum(stage.layers for stage in stages) == whole.layers
            assert sum(map(weigh, stages)) == weigh(whole)
            assert [m.name for stage in stages for m in stage.modules] == [
                m.name for m in whole.modules
            ]


def test_a_tied_embedding_is_in_the_first_stage_and_the_last() -> None:
    first, last = replace(shape("llama-3.1-8b"), tied_embeddings=True).stages(2)
    assert [stage.modules[0].name for stage in (first, last)] == ["model.embed_tokens"] * 2
    assert [stage.modules[0].read for stage in (first, last)] == [0, 1]


def weigh(of_what: Shape) -> int:
    return of_what.weight_bytes("bfloat16")
