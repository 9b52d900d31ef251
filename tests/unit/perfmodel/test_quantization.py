"""Five published models of five families: parameters and bytes worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tpsweep.perfmodel.model_folder import read_config
from tpsweep.perfmodel.model_shape import Shape

ROOT = Path(__file__).parents[3]
FOLDERS = (ROOT / "workflow" / "models", ROOT / "tests" / "data" / "models")


def shape(name: str) -> Shape:
    path = next(path for folder in FOLDERS if (path := folder / f"{name}.json").exists())
    return Shape.from_config(read_config(path))


# Per layer: query + key + value, output, three matrices of the MLP, biases, two norms; then the
# embedding, the head and the last norm. The sums are those that the models' pages give.
LLAMA_8B = 32 * (4096 * 6144 + 4096 * 4096 + 3 * 4096 * 14336 + 2 * 4096)
QWEN_7B = 28 * (3584 * 4608 + 3584 * 3584 + 3 * 3584 * 18944 + 4608 + 2 * 3584)
MISTRAL_7B = 32 * (4096 * 6144 + 4096 * 4096 + 3 * 4096 * 14336 + 2 * 4096)
# Heads of 128 in a hidden size of 2048: queries are 4096 wide; norms of q and k; a router.
A3B_LAYER = 2048 * 5120 + 4096 * 2048 + 2 * 128 + 2048 * 128 + 2 * 2048
A3B_EXPERT = 3 * 2048 * 768


@pytest.mark.parametrize(
    ("name", "by_hand", "published"),
    [
        ("llama-3.1-8b", LLAMA_8B + 2 * 128256 * 4096 + 4096, 8_030_261_248),
        ("qwen2.5-7b", QWEN_7B + 2 * 152064 * 3584 + 3584, 7_615_616_512),
        ("mistral-7b", MISTRAL_7B + 2 * 32768 * 4096 + 4096, 7_248_023_552),
        (
            "qwen3-30b-a3b",
            48 * (A3B_LAYER + 128 * A3B_EXPERT) + 2 * 151936 * 2048 + 2048,
            30_532_122_624,
        ),
        ("llama-3.1-8b-awq", LLAMA_8B + 2 * 128256 * 4096 + 4096, 8_030_261_248),
    ],
)
def test_parameters(name: str, by_hand: int, published: int) -> None:
    assert shape(name).parameters == by_hand == published


def test_a_mixture_has_few_active_parameters() -> None:
    moe = shape("qwen3-30b-a3b")
    assert moe.parameters_per_token == 48 * (A3B_LAYER + 8 * A3B_EXPERT) + 2048
    active = moe.parameters_per_token + 2 * 151936 * 2048
    assert active == pytest.approx(3.35e9, rel=1e-2)  # "3.3B activated", embeddings included
    # What one sequence's step reads: no embedding, but the head.
    head = 151936 * 2048
    assert moe.bytes_read_per_step("bfloat16") == 2 * (moe.parameters_per_token + head)


@pytest.mark.parametrize(
    ("name", "tp", "by_hand"),
    [
        # key and value x layers x KV heads of a rank x head size x 2 bytes
        ("llama-3.1-8b", 1, 2 * 32 * 8 * 128 * 2),
        ("llama-3.1-8b", 16, 2 * 32 * 1 * 128 * 2),
        ("qwen2.5-7b", 2, 2 * 28 * 2 * 128 * 2),
        ("qwen2.5-7b", 4, 2 * 28 * 1 * 128 * 2),
        ("mistral-7b", 4, 2 * 32 * 2 * 128 * 2),
        ("qwen3-30b-a3b", 8, 2 * 48 * 1 * 128 * 2),  # four KV heads on eight ranks: each twice
        ("llama-3.1-8b-awq", 2, 2 * 32 * 4 * 128 * 2),  # the cache is not quantized
    ],
)
def test_kv_bytes_of_a_token_on_a_rank(name: str, tp: int, by_hand: int) -> None:
    assert shape(name).kv_bytes_per_token("bfloat16", tp) == by_hand


def test_four_bit_weights_by_hand() -> None:
    awq, linear = shape("llama-3.1-8b-awq"), 32 * (4096 * 10240 + 3 * 4096 * 14336)
    # Per group of 128: 128 x 4 bits, a scale of 16, a zero point of 4.
    packed = linear // 128 * (128 * 4 + 16 + 4) // 8
    plain = 2 * (2 * 128256 * 4096 + 65 * 4096)
    assert awq.weight_bytes("float16") == packed + plain
    assert (packed + plain) / 1e9 == pytest.approx(5.73, abs=0.005)  # the published files
    assert awq.bytes_read_per_step("float16") == packed + plain - 2 * 128256 * 4096
