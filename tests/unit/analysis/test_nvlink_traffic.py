"""NVLink traffic of latency rows: by hand, and beside what NVML counted on two H200s."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.unit.made_up import Record, Sweep, report
from tpsweep.analysis.nvlink_traffic import decode_part, traffic
from tpsweep.perfmodel.model_shape import Shape

ROOT = Path(__file__).parents[3]
PUBLISHED = ROOT / "results" / "published" / "h200x2"
CONFIG = json.loads((ROOT / "workflow/models/llama-3.1-8b.json").read_text())
SHAPE = Shape.from_config(CONFIG)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def test_what_the_ranks_exchange() -> None:
    # A token: 65 all-reduces of 4096 values; a step: logits of 128256 values, half as far.
    token, logits = 2 * 65 * 4096 * 2, 128256 * 2
    decode = 127 * (token + logits)
    prefill = 512 * token + logits
    assert decode_part(SHAPE, "bfloat16", 512, 128) == pytest.approx(decode / (decode + prefill))


def row(**columns: object) -> Record:
    return {
        "tp": 2,
        "model": "llama",
        "dtype": "bfloat16",
        "input_len": 512,
        "output_len": 128,
        "gpu_nvlink_tx_gb_s": [9.0, 11.0],
        "nvlink_share": 11 / 450,
        "gpu_link": "NV18",
        "gpu_card": "NVIDIA H200",
        "tpot_ms": 4.0,
        "e2e_ms": 708.0,
        **columns,
    }


def test_the_counters_are_shared_out() -> None:
    found = traffic([row()], {"llama": SHAPE})
    # 10 GB/s over 708 ms, of which the decode's part in its 508 ms.
    decode = 10 * 708 / 508 * decode_part(SHAPE, "bfloat16", 512, 128)
    assert (found.gb_s, found.share) == (10.0, 11 / 450)
    assert found.decode_gb_s == pytest.approx(decode)
    assert found.decode_share == pytest.approx(decode / 450)


@pytest.mark.parametrize(
    ("columns", "shapes"),
    [({}, {}), ({"tpot_ms": None}, {"llama": SHAPE}), ({"dtype": "fp8"}, {"llama": SHAPE})],
)
def test_what_is_not_known_is_not_guessed(columns: Record, shapes: dict[str, Shape]) -> None:
    found = traffic([row(**columns)], shapes)
    assert found.gb_s == 10.0 and found.decode_gb_s is found.decode_share is None


def test_rows_that_do_not_count_say_nothing() -> None:
    rows = [row(tp=1), row(gpu_nvlink_tx_gb_s=None), row(gpu_nvlink_tx_gb_s=[])]
    assert traffic(rows, {"llama": SHAPE}).gb_s is None
    assert traffic([row(gpu_link="PIX")], {"llama": SHAPE}).decode_share is None


def test_the_model_is_known_from_its_capture(sweep: Sweep) -> None:
    sweep.add(2, tpot=4.0, measured={"gpu_nvlink_tx_gb_s": [10.0, 10.0], "e2e_ms": 708.0})
    sweep.capture(2, report(2, compute=3.0))
    (line,) = sweep.built()["tp_comparison"].records
    assert (line["nvlink_gb_s"], line["nvlink_decode_gb_s"]) == (10.0, None)
    sweep.capture(2, report(2, compute=3.0), config=CONFIG, run=2)
    (line,) = sweep.built()["tp_comparison"].records
    expected = 10 * 708 / 508 * decode_part(SHAPE, "bfloat16", 512, 128)
    assert line["nvlink_decode_gb_s"] == pytest.approx(expected)


def test_the_counters_count_what_the_ranks_exchange() -> None:
    """From batch 16 on: at small ones the flags of 65 all-reduces are in the counters, too."""
    ratios = []
    for path in (PUBLISHED / "cells/latency/H200/llama-3.1-8b/tp2").glob("*custom*.parquet"):
        (found,) = pq.ParquetFile(path).read().to_pylist()
        if found["batch"] >= 16:
            per_sequence = 639 * 65 * 4096 * 2 + 128 * 128256
            expected = found["batch"] * per_sequence / found["e2e_ms"] / 1e6
            ratios.append(sum(found["gpu_nvlink_tx_gb_s"]) / 2 / expected)
    assert len(ratios) == 5
    assert ratios == [pytest.approx(1.0, abs=0.02)] * 5
