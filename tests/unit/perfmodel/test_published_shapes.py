"""Parameter counts that the models' pages give, of 40 models: each exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.perfmodel.test_quantization import shape
from tpsweep.perfmodel.model_shape import Shape

ROOT = Path(__file__).parents[3]
PUBLISHED: dict[str, dict[str, Any]] = json.loads(
    (ROOT / "tests" / "data" / "published_shapes.json").read_text("utf-8")
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_dense_and_sparse_models(name: str) -> None:
    entry = PUBLISHED[name]
    assert Shape.from_config(entry["config"]).parameters == entry["parameters"]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt-oss-20b", 20_914_757_184),
        ("gpt-oss-120b", 116_829_156_672),
        ("deepseek-v3", 671_026_419_200),
        ("deepseek-v2-lite", 15_706_484_224),
        ("gemma-3-1b", 999_885_952),
        ("gemma-3-4b", 4_300_079_472),
        ("gemma-3-27b", 27_432_406_640),
        ("llama-4-scout", 108_641_793_536),
        ("llama-4-maverick", 401_583_781_376),
        ("qwen3-next-80b-a3b", 79_674_391_296),
    ],
)
def test_other_architectures_with_their_vision_towers(name: str, parameters: int) -> None:
    assert shape(name).parameters == parameters


def test_gpt_oss_is_as_large_as_its_file_and_caches_a_window_in_half_of_the_layers() -> None:
    oss = shape("gpt-oss-20b")
    # Experts: 24 layers x 32 x (3 x 2880 x 2880) at 4 bits and 8 of a scale per 32.
    experts = 24 * 32 * 3 * 2880 * 2880
    rest = 20_914_757_184 - experts
    assert oss.weight_bytes("bfloat16") == experts * 17 // 32 + 2 * rest
    assert oss.weight_bytes("bfloat16") / 1e9 == pytest.approx(13.76, abs=0.01)
    a_layer = 2 * 8 * 64 * 2
    assert oss.kv_bytes_per_token("bfloat16", 1) == 24 * a_layer
    assert oss.kv_bytes_read("bfloat16", 1, 1000) == 12 * a_layer * (1000 + 128)
    assert oss.kv_bytes_held("bfloat16", 2, 1000) == 12 * a_layer // 2 * (1000 + 128)
    # Sliced into whole scales, padded by vLLM: any TP that the heads allow.
    assert oss.tps[:5] == [1, 2, 4, 8, 16]


def test_deepseek_keeps_one_latent_for_all_heads_on_every_rank() -> None:
    deepseek = shape("deepseek-v3")
    for tp in (1, 8):
        assert deepseek.kv_bytes_per_token("bfloat16", tp) == 61 * (512 + 64) * 2
        assert deepseek.kv_bytes_per_token("fp8", tp) == 61 * (512 + 64)
    # 37 billion active: all attention, 3 dense layers, 8 + 1 experts of 58, the head.
    latent = 7168 * (1536 + 576) + 1536 * 128 * 192 + 512 * 128 * 256 + 128 * 128 * 7168
    linear = 61 * latent + 3 * 3 * 7168 * 18432 + 58 * 9 * 3 * 7168 * 2048
    assert linear + 129280 * 7168 == pytest.approx(37e9, rel=0.02)
    plain = 58 * (7168 * 256 + 256) + 61 * (2 * 7168 + 1536 + 512) + 7168 + 129280 * 7168
    # One 32-bit scale in each block of 128 x 128; 576 outputs are 4.5 blocks, stored as 5.
    scales = linear // 128**2 + 61 * (5 - 4.5) * 7168 // 128
    assert deepseek.bytes_read_per_step("bfloat16") == linear + 4 * scales + 2 * plain
    # 18432 / 32 = 576 is no multiple of the block, nor is 2048 / 32
    assert deepseek.tps == [1, 2, 4, 8, 16]
    assert "576 outputs of model.layers.0.mlp.gate_proj" in str(deepseek.tp_problem(32))


def test_gemma_slides_in_five_of_six_layers_and_has_what_its_config_leaves_out() -> None:
    gemma = shape("gemma-3-4b")
    a_layer = 2 * 4 * 256 * 2
    assert gemma.kv_bytes_read("bfloat16", 1, 5000) == a_layer * (5 * 5000 + 29 * 1024)
    assert (gemma.vocabulary, gemma.max_position) == (262208, 131072)
    # A step reads the decoder and the embedding, which is its head, not the vision tower.
    assert gemma.bytes_read_per_step("bfloat16") == 2 * (4_300_079_472 - 419_816_304)


def test_llama_4_mixes_chunks_with_whole_attention_and_dense_with_sparse_layers() -> None:
    scout, maverick = shape("llama-4-scout"), shape("llama-4-maverick")
    assert (scout.sparse_layers, maverick.sparse_layers) == (48, 24)
    assert (scout.experts, maverick.experts) == (16, 128)
    a_layer = 2 * 8 * 128 * 2
    assert scout.kv_bytes_read("bfloat16", 1, 8000) == 48 * a_layer * 8000
    # Beyond a chunk 36 layers have begun anew: how long ago is not known.
    assert scout.kv_bytes_read("bfloat16", 1, 9000) == 12 * a_layer * 9000
    assert scout.kv_bytes_held("bfloat16", 1, 9000) == a_layer * (12 * 9000 + 36 * 8192)


def test_qwen3_next_keeps_a_state_per_sequence_in_three_of_four_layers() -> None:
    hybrid = shape("qwen3-next-80b-a3b")
    assert hybrid.kv_bytes_per_token("bfloat16", 1) == 12 * 2 * 2 * 256 * 2
    # 32 value heads of 128 x 128, and 3 columns of a convolution over 8192 channels
    state = 32 * 128 * 128 + 3 * (2 * 16 * 128 + 32 * 128)
    assert hybrid.state_bytes("bfloat16", 1) == 36 * state * 2
    assert hybrid.state_bytes("bfloat16", 4) == 36 * state * 2 // 4
    assert not hybrid.attends_by_groups
