"""What a GPU holds of a layout, worked out by hand, and what vLLM refuses of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.perfmodel.test_quantization import shape
from tpsweep.core.layout import Layout
from tpsweep.perfmodel.layout_problem import layout_problem
from tpsweep.perfmodel.memory import Limits, Load, fit, problem
from tpsweep.perfmodel.model_shape import Shape

PUBLISHED = json.loads(
    (Path(__file__).parents[2] / "data" / "published_shapes.json").read_text("utf-8")
)
LIMITS = Limits(memory_gib=80, share=0.9, model_len=8192, batched_tokens=8192, sequences=256)

# Parameters. 8B: 32 layers of 218,112,000 = 4096 x (6144 + 4096) + 3 x 4096 x 14336 + 2 x 4096;
#   embedding and head of 525,336,576 = 128256 x 4096 each; in all 8,030,261,248 with the last norm.
# 70B: 80 layers of 855,654,400 = 8192 x (10240 + 8192) + 3 x 8192 x 28672 + 2 x 8192; embedding and
#   head of 1,050,673,152 = 128256 x 8192 each.
# Mixtral: 32 layers of 8 experts of 176,160,768 = 3 x 4096 x 14336 and 41,984,000 beside them
#   (attention as 8B's, 8 x 4096 of the router, 2 x 4096); embedding and head of 131,072,000 each.
#   Experts 45,097,156,608, all else 1,605,636,096 = 32 x 41,984,000 + 2 x 131,072,000 + 4096.
# Qwen3: 48 layers of 128 experts of 4,718,592 = 3 x 2048 x 768, and 19,140,864 beside; embedding
#   and head of 311,164,928 = 151936 x 2048 each. Experts 28,991,029,248, all else 1,541,093,376.
# Every rank has what is not split, in numbers: norms of 8B 65 x 4096 = 266,240, of 70B 2 x 8192 a
#   layer; norms and router of Mixtral 10 x 4096 a layer, 1,314,816 with the last norm, of Qwen3
#   262,144 + 2 x 2048 + 2 x 128 = 266,496 a layer, 12,793,856 with the last norm. More ranks than
#   KV heads: each has a whole one.
# Bytes of a token: 2 (key, value) x heads of a GPU x 128 x 2 bytes x layers of the stage.
BY_HAND = [
    # 8,030,261,248 / 2 parameters, half of the norms; 4 of 8 KV heads in 32 layers
    ("llama-3.1-8b", Layout(tp=2), 8_030_261_248 + 266_240, 65_536),
    # 8,030,261,248 / 16, 15 / 16 of the norms, and of 32 layers half of a head's 2 x 128 x 4096;
    # 1 KV head, on two GPUs: each keeps half of the tokens
    ("llama-3.1-8b", Layout(tp=16, dcp=2), 1_003_782_656 + 499_200 + 33_554_432, 8_192),
    # Last stage: 40 x 855,654,400 + 1,050,673,152 + 8192; 8 heads in 40 layers
    ("llama-3.1-70b", Layout(tp=1, pp=2), 70_553_714_688, 163_840),
    # 27, 27 and 26 layers. First: (27 x 855,654,400 + 1,050,673,152) / 2; 4 heads in 27 layers
    ("llama-3.1-70b", Layout(tp=2, pp=3), 24_153_341_952 + 27 * 2 * 8192, 55_296),
    # (1,605,636,096 + 45,097,156,608) / 8: one expert a GPU; 1 head in 32 layers
    ("mixtral-8x7b", Layout(tp=8, ep=True), 11_675_698_176 + 1_314_816 * 7 // 4, 16_384),
    # 1,605,636,096 + 45,097,156,608 / 2: the attention is on both; all 8 heads
    ("mixtral-8x7b", Layout(tp=1, dp=2), 48_308_428_800, 131_072),
    # 8 experts on 3 GPUs, 3 on the fullest: 1,605,636,096 + 32 x 3 x 176,160,768
    ("mixtral-8x7b", Layout(tp=1, dp=3, ep=True), 37_034_139_648, 131_072),
    # 11, 11 and 10 layers. First: (11 x (8 x 176,160,768 + 41,984,000) + 131,072,000) / 2
    ("mixtral-8x7b", Layout(tp=2, pp=3), 16_095_043_584 + 11 * 10 * 4096, 22_528),
    # 32 of 128 experts: (1,541,093,376 + 28,991,029,248) / 4; 1 of 4 heads in 48 layers
    ("qwen3-30b-a3b", Layout(tp=4, ep=True), 15_266_061_312 + 12_793_856 * 3 // 2, 24_576),
    # 1,541,093,376 / 2 + 28,991,029,248 / 4; 2 heads in 48 layers
    ("qwen3-30b-a3b", Layout(tp=2, dp=2), 16_036_608_000 + 12_793_856, 49_152),
    # 16 of 128 experts: 1,541,093,376 / 2 + 28,991,029,248 / 8
    ("qwen3-30b-a3b", Layout(tp=2, dp=4, ep=True), 8_788_850_688 + 12_793_856, 49_152),
    # (1,541,093,376 + 28,991,029,248) / 8, and of 48 layers half of a head's 2 x 128 x 2048;
    # 1 head, on two GPUs
    ("qwen3-30b-a3b", Layout(tp=8, dcp=2), 7_633_030_656 + 22_389_248 + 25_165_824, 12_288),
]


def named(name: str) -> Shape:
    return Shape.from_config(PUBLISHED[name]["config"]) if name in PUBLISHED else shape(name)


@pytest.mark.parametrize(
    ("name", "layout", "weights", "each"),
    BY_HAND,
    ids=[f"{name} {layout.label}" for name, layout, *_ in BY_HAND],
)
def test_memory_of_a_gpu_by_hand(name: str, layout: Layout, weights: int, each: int) -> None:
    model = named(name)
    assert layout_problem(layout, model) is None
    found = fit(Load(model, "bfloat16", "bfloat16", batch=4, length=4096), LIMITS, layout)
    assert found.weights == weights
    assert found.bytes_per_token == each
    assert found.cache == 4 * 4096 * each


def test_joined_experts_fit_where_one_engine_does_not() -> None:
    mixtral = Load(named("mixtral-8x7b"), "bfloat16", "bfloat16")
    alone, joined = Layout(tp=1), Layout(tp=1, dp=2)
    said = problem(mixtral, LIMITS, alone, gpu="H100", per_node=2)
    assert "weights 93.4 GB / tp 1 = 93.4 GB a GPU > 77.3 GB" in str(said)
    assert problem(mixtral, LIMITS, joined, gpu="H100", per_node=2) is None
    small = Limits(48, 0.9, 8192, 8192, 256)
    # 3.2 GB beside the experts, on both GPUs; 90.2 GB of experts, half on each
    assert problem(mixtral, small, joined, gpu="L40S", per_node=4) == (
        "weights 3.2 GB / tp 1 + experts 90.2 GB / (tp 1 x dp 2) = 48.3 GB a GPU > 46.4 GB"
        " (48 GiB x 0.9 of L40S); it fits from tp 2"
    )


@pytest.mark.parametrize(
    ("name", "layout", "said"),
    [
        ("llama-3.1-8b", Layout(tp=1, pp=33), "pp 33: the model has 32 layers"),
        ("llama-3.1-8b", Layout(tp=2, ep=True), "ep true: the model has no experts"),
        ("mixtral-8x7b", Layout(tp=1, ep=True), "one GPU has all experts; allowed: with tp or dp"),
        ("mixtral-8x7b", Layout(tp=4, dp=4, ep=True), "ep true: 8 experts a layer on 16 GPUs"),
        ("mixtral-8x7b", Layout(tp=1, replicas=2), "vLLM joins the experts of data-parallel engi"),
        ("llama-3.1-8b", Layout(tp=1, dp=2), "dp 2: the model has no experts to join; allowed: re"),
        (
            "mixtral-8x7b",
            Layout(tp=1, dp=2, replicas=2),
            "others; allowed: dp 4 alone",
        ),
        ("llama-3.1-8b", Layout(tp=1, dp=2, replicas=3), "for others; allowed: replicas 6 alone"),
        # An inner width of 768 over 4 x 5 GPUs
        ("qwen3-30b-a3b", Layout(tp=4, dp=5), "tp 4 x dp 5 = 20: it does not divide the 768 out"),
        ("llama-3.1-8b", Layout(tp=16, dcp=3), "dcp 3: it does not divide tp 16"),
        ("llama-3.1-8b", Layout(tp=8, dcp=2), "ranks with the same of the model's 8 KV heads; al"),
        ("qwen3-30b-a3b", Layout(tp=8, dcp=4), "dcp 4: it needs 4 ranks with the same of the mod"),
        # 28 query heads of 4 KV heads: 7 of each
        ("qwen2.5-7b", Layout(tp=28, dcp=7), None),
        ("qwen2.5-7b", Layout(tp=28, dcp=2), "dcp 2: it does not divide the 7 query heads of a K"),
        ("deepseek-v3", Layout(tp=8, dcp=8), None),
    ],
)
def test_what_vllm_refuses_is_refused_before(name: str, layout: Layout, said: str | None) -> None:
    found = layout_problem(layout, named(name))
    assert (found is None) if said is None else said in str(found)
