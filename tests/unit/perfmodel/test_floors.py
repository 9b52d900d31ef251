"""Floors against figures worked out by hand, and the table of cards against itself."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.perfmodel.windows import windowed
from tpsweep.core.cell import Cell, Engine, Model
from tpsweep.perfmodel.floors import decode_floor_ms, floors_of, kv_floor_ms, prefill_floor_ms
from tpsweep.perfmodel.gpu_specs import card_by_name, cards
from tpsweep.perfmodel.model_folder import read_config
from tpsweep.perfmodel.model_shape import Shape

MODELS = Path(__file__).parents[3] / "workflow" / "models"
H200 = cards()["NVIDIA H200"]
LLAMA = {
    size: Shape.from_config(read_config(MODELS / f"llama-3.1-{size}.json"))
    for size in ("8b", "70b")
}
CELL = Cell(
    workload="latency",
    engine=Engine(
        site="s",
        gpu="H200",
        gpu_card="NVIDIA H200",
        model=Model("llama", "p", None, "bfloat16", "dummy", False, "d"),
        tp=2,
        replicas=1,
        variant="default",
        allreduce_backend="auto",
        vllm_version="0.32.0",
        args={},
        mode="offline",
        run=0,
    ),
    dataset="random",
    input_len=512,
    output_len=128,
    warmups=1,
    repeats=3,
    batch=4,
)


@pytest.mark.parametrize(("size", "tp", "ms"), [("8b", 1, 3.13), ("8b", 2, 1.56), ("70b", 2, 14.5)])
def test_decode_floor_is_the_published_one(size: str, tp: int, ms: float) -> None:
    assert decode_floor_ms(LLAMA[size], "bfloat16", tp, H200) == pytest.approx(ms, rel=3e-3)


def test_kv_floor_by_hand() -> None:
    # 4 sequences x 576 tokens x (2 x 32 layers x 4 heads x 128 x 2 bytes) / 4.8 TB/s
    by_hand = 4 * 576 * 65536 / 4.8e12 * 1e3
    assert kv_floor_ms(LLAMA["8b"], "bfloat16", 2, H200, batch=4, context=576) == pytest.approx(
        by_hand
    )


def test_a_sliding_window_bounds_the_cache_that_is_read() -> None:
    bounded = windowed(LLAMA["8b"], 100)
    long = kv_floor_ms(bounded, "bfloat16", 1, H200, batch=1, context=5000)
    assert long == kv_floor_ms(LLAMA["8b"], "bfloat16", 1, H200, batch=1, context=100)


def test_prefill_floor_by_hand() -> None:
    # 8.03e9 parameters less embedding and head (0.525e9 each), 2048 tokens; the head once
    products = (8_030_261_248 - 2 * 128256 * 4096) * 2048 + 128256 * 4096
    by_hand = 2 * products / 2 / 989.5e12 * 1e3
    assert prefill_floor_ms(LLAMA["8b"], 2, H200, 4, 512) == pytest.approx(
        by_hand, rel=1e-3
    )  # 4 sequences have 4 heads: a thousandth more


def test_a_cell_gets_all_three() -> None:
    floors = floors_of(CELL, LLAMA["8b"])
    assert floors.note is None
    assert floors.decode_ms == pytest.approx(1.56, rel=3e-3)
    assert floors.decode_kv_ms is not None
    assert floors.decode_ms is not None
    assert floors.decode_kv_ms - floors.decode_ms == pytest.approx(4 * 576 * 65536 / 4.8e9)


def test_an_fp8_cache_is_half_as_much() -> None:
    eight = replace(CELL, engine=replace(CELL.engine, args={"kv_cache_dtype": "fp8"}))
    both = [floors_of(cell, LLAMA["8b"]) for cell in (CELL, eight)]
    kv = [f.decode_kv_ms - f.decode_ms for f in both if f.decode_kv_ms and f.decode_ms]
    assert kv[0] == pytest.approx(2 * kv[1])


@pytest.mark.parametrize(
    ("card", "shape", "word"),
    [("CPU", LLAMA["8b"], "CPU"), ("Riva 128", LLAMA["8b"], "Riva"), (None, None, "architecture")],
)
def test_no_floor_without_a_reason(card: str | None, shape: Shape | None, word: str) -> None:
    engine = replace(CELL.engine, gpu_card=card) if card else CELL.engine
    floors = floors_of(replace(CELL, engine=engine), shape)
    assert (floors.decode_ms, floors.decode_kv_ms, floors.prefill_ms) == (None, None, None)
    assert floors.note is not None
    assert word in floors.note


def test_the_table_has_the_cards_of_the_sites() -> None:
    for name in (
        "NVIDIA H100 80GB HBM3",
        "NVIDIA H100 PCIe",
        "NVIDIA H100 NVL",
        "NVIDIA H200",
        "NVIDIA A100-SXM4-40GB",
        "NVIDIA A100-SXM4-80GB",
        "NVIDIA A100-PCIE-40GB",
        "NVIDIA A100 80GB PCIe",
        "NVIDIA L40S",
    ):
        card = card_by_name(name)
        assert card is not None
        assert card.source
    assert card_by_name("CPU") is None
