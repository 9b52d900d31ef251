"""The prefill of routed experts, worked out by hand for Qwen3-30B-A3B's shape."""

from __future__ import annotations

import math

import pytest

from tools.fit_expectation import DTYPE, shape_named
from tpsweep.perfmodel.constants import constants
from tpsweep.perfmodel.gpu_specs import cards
from tpsweep.perfmodel.mixture import (
    Routed,
    around_ms,
    is_known,
    launch_ms,
    routed_ms,
    tile_rows,
)
from tpsweep.perfmodel.modules import Experts
from tpsweep.perfmodel.pipeline import at_once
from tpsweep.perfmodel.step_time import Batch, prefill

QWEN = shape_named("qwen3-30b-a3b")
MLP = QWEN.decoder[0].mlp
H200 = cards()["NVIDIA H200"]
KNOWN = constants()
BYTES_MS = 4.8e12 * KNOWN.weight_bandwidth_share / 1e3
FLOPS_MS = 989.5e12 * KNOWN.expert_flops_share / 1e3


def routed(tokens: float, **more: int) -> Routed:
    assert isinstance(MLP, Experts)
    return Routed(MLP, QWEN.hidden, 128, tokens, **more)


def test_rows_of_a_tile() -> None:
    assert [tile_rows(tokens) for tokens in (1, 64, 512, 513)] == [16, 32, 64, 128]


def test_rows_are_filled_up_to_whole_tiles() -> None:
    # 256 of each expert's rows, and half a tile of 128 more.
    assert routed(4096, split=2).rows == 128 * (256 + 64)
    # 32 of each: one tile of 64.
    assert routed(512, split=2).rows == 128 * 64
    # Whole experts: half of the pairs on average, 0.5895 (Blom) of a deviation more.
    pairs = 4096 * 8 / 2
    fullest = pairs + 0.5895 * math.sqrt(pairs / 2)
    assert routed(4096, spread=2).rows == pytest.approx(fullest + 64 * 64, rel=1e-5)


def test_long_prefills_are_arithmetic_short_ones_read_weights() -> None:
    many, few = (routed(tokens, split=2).products_ms(2, H200, KNOWN) for tokens in (4096, 512))
    assert many == pytest.approx(2 * 40960 * 3 * 2048 * 384 / FLOPS_MS)
    # As the capture has it, of which the constant is.
    assert many == pytest.approx(0.414, rel=0.01)
    weights, moved = 128 * 3 * 2048 * 384, 4096 * (2 * 2048 + 3 * 384)
    assert few == pytest.approx(2 * (weights + moved) / BYTES_MS)


def test_what_lies_between_passes_through_memory() -> None:
    # Both halves of the first product read, the activation written, all results summed up.
    split = 32768 * (3 * 384 + 2048) + 4096 * 2048
    assert routed(4096, split=2).between_ms(2, H200, KNOWN) == pytest.approx(2 * split / BYTES_MS)
    # Of whole experts, rows of other ranks' pairs too, in full width.
    whole = 32768 * (3 * 768 + 2048) + 4096 * 2048
    assert routed(4096, spread=2).between_ms(2, H200, KNOWN) == pytest.approx(2 * whole / BYTES_MS)


def test_all_layers_together() -> None:
    one = routed(4096, split=2)
    each = one.products_ms(2, H200, KNOWN) + one.between_ms(2, H200, KNOWN)
    assert routed_ms(QWEN, DTYPE, 4096, 2, False, H200, KNOWN) == pytest.approx(48 * each)
    around = 48 * 4096 * (8 * 2048 + 4 * (32 + 2 * 4) * 128 / 2) * 2
    assert around_ms(QWEN, DTYPE, 4096, 2, H200, KNOWN) == pytest.approx(around / BYTES_MS)
    eight = shape_named("llama-3.1-8b")
    assert around_ms(eight, DTYPE, 4096, 2, H200, KNOWN) == 0


def test_the_host_launches_every_kernel_of_a_layer_with_experts() -> None:
    assert launch_ms(QWEN, False, KNOWN) == pytest.approx(48 * 20 * KNOWN.launch_us / 1e3)
    assert launch_ms(QWEN, True, KNOWN) == pytest.approx(48 * 22 * KNOWN.launch_us / 1e3)
    assert launch_ms(shape_named("llama-3.1-8b"), True, KNOWN) == 0


@pytest.mark.parametrize(
    ("ep", "batch", "measured", "decides"),
    [
        (False, 1, 16.87, "graph"),  # 512 tokens, CUDA graphs
        (True, 1, 19.7, "graph"),
        (False, 8, 80.06, "launch"),  # 4,096 tokens: launched kernel by kernel
        (True, 8, 109.1, "launch"),
        (False, 64, 314.1, "gpu"),  # two steps of 16,384
        (True, 64, 334.0, "gpu"),
    ],
)
def test_prefill_of_experts_on_two_h200s(
    ep: bool, batch: int, measured: float, decides: str
) -> None:
    steps = at_once(batch, 512, 16384)
    run = Batch(2, batch, 512, 128, ep=ep, prompts=steps.prompts)
    found = prefill(QWEN, DTYPE, H200, run, KNOWN)
    assert found.ms == pytest.approx(measured, rel=0.2)
    host = {"graph": 48 * KNOWN.graph_layer_us / 1e3, "launch": launch_ms(QWEN, ep, KNOWN)}
    assert found.ms == pytest.approx(host.get(decides, found.gpu))


def test_nothing_is_known_of_quantized_experts() -> None:
    assert is_known(QWEN)
    assert not is_known(QWEN.online_fp8)
    assert is_known(shape_named("llama-3.1-8b").online_fp8)
