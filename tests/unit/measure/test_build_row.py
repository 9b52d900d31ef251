"""From a measured cell to its row. What "was measured" here is made up, with round figures."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cells import engine, latency_cell, model
from tpsweep.core import row_file, schema
from tpsweep.core.cell import Cell
from tpsweep.core.method import METHOD, method_of
from tpsweep.core.request import Request
from tpsweep.engine.nvml import GpuGroup, GpuInfo, GpuWindow, PhaseState
from tpsweep.engine.provenance import Host, Software
from tpsweep.engine.repeat import Finished, Repeat
from tpsweep.engine.start_phases import StartPhases
from tpsweep.engine.vllm_api import LogFacts, RequestTimes
from tpsweep.measure import latency
from tpsweep.measure.build_row import Context, EngineRecord, make_row, refusals
from tpsweep.measure.latency import Measured
from tpsweep.measure.measurement import Measurement, Times
from tpsweep.perfmodel.model_folder import read_config
from tpsweep.perfmodel.model_shape import Shape

SHAPE = Shape.from_config(
    read_config(Path(__file__).parents[3] / "workflow" / "models" / "llama-3.1-8b.json")
)
CARD = "NVIDIA H200"
UUIDS = ("GPU-a", "GPU-b")
SHARE_B = SHAPE.weight_bytes("bfloat16") / 2
INPUT_LEN, OUTPUT_LEN, BATCH, REPEATS = 512, 5, 2, 3
CELL = latency_cell(
    engine=engine(
        gpu="H200", gpu_card=CARD, model=model(dtype="bfloat16"), allreduce_backend="nccl"
    ),
    input_len=INPUT_LEN,
    batch=BATCH,
    repeats=REPEATS,
)


def repeat(prefill_s: float, tpot_s: float, output_len: int) -> Repeat:
    first = 1.0 + prefill_s
    times = RequestTimes(1.0, first, first + tpot_s * (output_len - 1))
    request = Finished(INPUT_LEN, output_len, "length", 0, times)
    return Repeat(prefill_s + tpot_s * (output_len - 1), [request] * BATCH)


def measured(prefill_s: float = 0.1, tpot_s: float = 0.01) -> Measured:
    return Measured(
        repeats=[repeat(prefill_s, tpot_s, OUTPUT_LEN)] * REPEATS,
        repeats_out1=[repeat(prefill_s, tpot_s, 1)] * REPEATS,
        times=Times(began=100.0, measured=101.0, kept_until=102.0),
    )


def measurement(found: Measured | None = None) -> Measurement:
    found = found or measured()
    figures, reasons = latency.figures(CELL, found), latency.refusals(CELL, found)
    return Measurement(found.times, figures, reasons, BATCH * OUTPUT_LEN * REPEATS)


GPUS = GpuGroup(
    [GpuInfo(uuid, CARD, 700.0, "570.1") for uuid in UUIDS], [*UUIDS, "GPU-of-others"], "NV18"
)


RAN = {"tp": 2, "pp": 1, "ep": False, "dcp": 1, "dp": 1}


def engine_record(**changes: Any) -> EngineRecord:
    fields: dict[str, Any] = {
        "engine_id": "e1",
        "start_s": 90.0,
        "log_facts": LogFacts("nccl", "2.27.3", "none", kv_cache_tokens=834_128),
        "arguments": {"model": "/models/8b", "seed": 0},
        "environment": {"A": "1"},
        "software": Software("0.32.0", "2.9.0", None, "0.1.0"),
        "host": Host("node1", None, None),
        "gpus": GPUS,
        "shape": SHAPE,
        "ran": RAN,
        "phases": StartPhases(9.0, 20.0, 11.0, 30.0, 10.0, 9.0, 1.0),
    }
    return EngineRecord(**{**fields, **changes})


def gpu_window(uuid: str = "GPU-a", **changes: Any) -> GpuWindow:
    fields: dict[str, Any] = {
        "uuid": uuid,
        "samples": 10,
        "utilisation_pct": 99.0,
        "memory_used_b": 120e9,
        "power_w": 500.0,
        "energy_j": 60.0,
        "sm_clock_mhz": 1980.0,
        "sm_clock_min_mhz": 1900.0,
        "mem_clock_mhz": 3201.0,
        "temperature_c": 60.0,
    }
    return GpuWindow(**{**fields, **changes})


WINDOWS = [gpu_window(uuid) for uuid in UUIDS]
CONTEXT = Context(
    request=Request(CELL.to_json(), "/results/x.parquet", "s1", "s1.log"),
    order=4,
    last_end=98.5,
    ended=102.5,
    utc_at_zero=datetime(2026, 1, 1, tzinfo=UTC),
)


def refused(
    cell: Cell = CELL,
    record: EngineRecord | None = None,
    found: Measured | None = None,
    windows: list[GpuWindow | None] | None = None,
) -> list[str]:
    record, made = record or engine_record(), measurement(found)
    seen = [*WINDOWS] if windows is None else windows
    judged = refusals(cell, record, seen, make_row(cell, record, made, seen, CONTEXT))
    return made.refusals + judged


def test_a_row_has_what_the_log_says_of_the_cache() -> None:
    made = make_row(CELL, engine_record(), measurement(), [*WINDOWS], CONTEXT)
    assert made["kv_cache_tokens"] == 834_128


def test_a_sound_measurement_is_not_refused() -> None:
    assert refused() == []


@pytest.mark.parametrize(
    ("axis", "asked", "ran"),
    [("tp", 2, 1), ("pp", 1, 2), ("ep", False, True), ("dcp", 1, 2), ("dp", 1, 2)],
)
def test_another_layout_is_refused(axis: str, asked: object, ran: object) -> None:
    record = engine_record(ran={**RAN, axis: ran})
    assert refused(record=record) == [f"{axis}={asked} was requested, {ran} ran"]
    # A server's log does not say whether experts are whole.
    assert refused(record=engine_record(ran={**RAN, axis: None})) == []
    made = make_row(CELL, record, measurement(), [*WINDOWS], CONTEXT)
    assert made[f"{axis}_ran"] == ran


def with_backend(asked: str) -> Cell:
    return dataclasses.replace(
        CELL, engine=dataclasses.replace(CELL.engine, allreduce_backend=asked)
    )


@pytest.mark.parametrize("ran", ["custom", None])
def test_another_all_reduce_is_refused(ran: str | None) -> None:
    record = engine_record(log_facts=LogFacts(ran, None, None))
    assert refused(record=record) == [f"all-reduce nccl was requested, vLLM's log says {ran}"]


@pytest.mark.parametrize("asked", ["auto", "none"])
def test_an_all_reduce_that_was_not_asked_for_is_not_judged(asked: str) -> None:
    assert refused(with_backend(asked), engine_record(log_facts=LogFacts("x", None, None))) == []


def test_an_idle_gpu_is_refused() -> None:
    windows: list[GpuWindow | None] = [WINDOWS[0], gpu_window("GPU-b", utilisation_pct=0.0)]
    assert refused(windows=windows) == ["GPU-b was idle during the cell"]


def test_a_gpu_without_samples_is_refused() -> None:
    assert refused(windows=[None, WINDOWS[1]]) == ["NVML gave no samples of GPU-a"]


def test_a_gpu_that_does_not_hold_its_share_is_refused() -> None:
    """Llama-3.1-8B in BF16 is 16.06 GB: 8.0 GB a GPU at TP=2, of which 80 % must be there."""
    windows: list[GpuWindow | None] = [WINDOWS[0], gpu_window("GPU-b", memory_used_b=6.3e9)]
    assert refused(windows=windows) == [
        "GPU-b held 6.3 GB, less than its share of the weights (8.0 GB)"
    ]
    windows[1] = gpu_window("GPU-b", memory_used_b=6.5e9)
    assert refused(windows=windows) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "fp8"},  # 9.1 GB: 4.5 a GPU
        {"args": {"cpu_offload_gb": 2}},  # 8.0 GB less 2.1 on the host
        {"args": {"hf_config_path": "elsewhere"}},  # not known
    ],
)
def test_its_share_is_what_the_engine_makes_of_the_model(changes: dict[str, Any]) -> None:
    windows: list[GpuWindow | None] = [WINDOWS[0], gpu_window("GPU-b", memory_used_b=5e9)]
    cell = replace(CELL, engine=replace(CELL.engine, **changes))
    assert refused(cell, windows=windows) == []
    assert len(refused(CELL, windows=windows)) == 1


def test_a_step_faster_than_the_memory_is_refused() -> None:
    """15.01 GB read per step, by two GPUs of 4.8 TB/s each: 1.564 ms at best."""
    (reason,) = refused(found=measured(tpot_s=0.0015))
    assert reason.startswith("tpot_ms=1.500 is faster than the hardware's floor")
    assert "decode_floor_ratio=0.96" in reason
    assert refused(found=measured(tpot_s=0.0016)) == []


def test_a_prefill_faster_than_the_arithmetic_is_refused() -> None:
    """2 x 6.98e9 parameters x 1024 tokens over two GPUs of 989.5 TFLOP/s: 7.2 ms at best."""
    (reason,) = refused(found=measured(prefill_s=0.007))
    assert reason.startswith("prefill_ms=7.000 is faster than the hardware's floor")
    assert refused(found=measured(prefill_s=0.0075)) == []


@pytest.mark.parametrize("part", ["repeats", "repeats_out1"])
def test_wrong_lengths_are_refused_in_both_parts(part: str) -> None:
    wrong: dict[str, Any] = {part: [repeat(0.1, 0.01, 4)] * REPEATS}
    found = dataclasses.replace(measured(), **wrong)
    (reason,) = refused(found=found)
    assert "6 of 6 requests gave another number of tokens" in reason


def test_every_reason_is_given() -> None:
    idle: list[GpuWindow | None] = [gpu_window(uuid, utilisation_pct=0.0) for uuid in UUIDS]
    assert len(refused(record=engine_record(ran={**RAN, "tp": 1}), windows=idle)) == 3


def test_a_row_goes_through_its_file_unchanged(tmp_path: Path) -> None:
    made = make_row(CELL, engine_record(), measurement(), WINDOWS, CONTEXT)
    row_file.write_row(made, tmp_path / "x.parquet")  # refuses a column that the schema lacks
    read = row_file.read_row(tmp_path / "x.parquet")
    assert {name: read[name] for name in made} == made
    assert not [name for name in schema.IDENTITY_NAMES if name not in made]
    left_out = {column.name for column in (*schema.GPU_STATE, *schema.PROVENANCE)} - set(made)
    assert left_out == {"gpu_note",
                        "request_set_digest", "slo", "slos", "vllm_results",
                        "profiler_ran", "capture_files", "capture_steady_from", "gpu_phase_note",
                        "imported",
                        "gpu_sm_clock_prefill_mhz", "gpu_sm_clock_decode_mhz",
                        "gpu_power_prefill_w", "gpu_power_decode_w"}  # fmt: skip


def test_figures_times_and_energy_of_a_row() -> None:
    made = make_row(CELL, engine_record(), measurement(), WINDOWS, CONTEXT)
    assert made["prefill_ms"] == pytest.approx(100.0)
    assert made["tpot_ms"] == pytest.approx(10.0)
    assert made["output_tok_s"] == pytest.approx(BATCH * OUTPUT_LEN / 0.14)
    assert made["decode_floor_ratio"] == pytest.approx(10 / 1.5635, rel=1e-3)
    assert made["energy_j"] == 120.0
    assert made["energy_j_per_tok"] == 120.0 / (BATCH * OUTPUT_LEN * REPEATS)
    assert made["gpu_nvlink_tx_gb_s"] is made["nvlink_share"] is None  # these did not count
    assert made["gpu_uuids"] == list(UUIDS)
    assert made["gpu_memory_used_gb"] == [120.0, 120.0]
    assert (made["gap_s"], made["session_order"]) == (1.5, 4)
    assert made["started_at"] == "2026-01-01T00:01:40.000+00:00"
    assert made["measured_at"] == "2026-01-01T00:01:41.000+00:00"
    assert made["ended_at"] == "2026-01-01T00:01:42.500+00:00"
    assert json.loads(made["engine_args"]) == {"model": "/models/8b", "seed": 0}
    assert (made["cell_id"], made["synthetic"]) == (CELL.cell_id, False)


def test_a_cell_without_gpus_says_why_and_has_no_floor(tmp_path: Path) -> None:
    cell = latency_cell(input_len=INPUT_LEN, batch=BATCH, repeats=REPEATS)
    record = engine_record(gpus=GpuGroup(note="no GPU: the node class is CPU"))
    made = make_row(
        cell, record, measurement(measured(tpot_s=1e-6)), [], replace(CONTEXT, last_end=None)
    )
    row_file.write_row(made, tmp_path / "x.parquet")
    assert made["gpu_note"] == "no GPU: the node class is CPU"
    assert made["floor_note"] and made["decode_floor_ratio"] is None
    assert made["gap_s"] is None
    assert refusals(cell, record, [], made) == []


def test_nvlink_traffic_beside_the_peak_of_the_link() -> None:
    windows: list[GpuWindow | None] = [
        gpu_window(uuid, nvlink_sent_gb_s=sent, nvlink_received_gb_s=sent + 1)
        for uuid, sent in zip(UUIDS, (4.5, 8.0), strict=True)
    ]
    made = make_row(CELL, engine_record(), measurement(), windows, CONTEXT)
    assert made["gpu_nvlink_tx_gb_s"] == [4.5, 8.0]
    assert made["gpu_nvlink_rx_gb_s"] == [5.5, 9.0]
    assert made["nvlink_share"] == 9.0 / 450
    made = make_row(
        CELL,
        engine_record(gpus=dataclasses.replace(GPUS, link="PIX")),
        measurement(),
        windows,
        CONTEXT,
    )
    assert made["nvlink_share"] is None


def test_energy_that_one_gpu_lacks_is_no_sum() -> None:
    windows: list[GpuWindow | None] = [gpu_window("GPU-a"), gpu_window("GPU-b", energy_j=None)]
    made = make_row(CELL, engine_record(), measurement(), windows, CONTEXT)
    assert made["energy_j"] is made["energy_j_per_tok"] is None


def test_clocks_and_power_stand_by_phase() -> None:
    phases = {"prefill": PhaseState(3), "decode": PhaseState(20, 1755.0, 610.0)}
    seen = [gpu_window(uuid, phases=phases) for uuid in UUIDS]
    row = make_row(CELL, engine_record(), measurement(), seen, CONTEXT)
    assert row["gpu_sm_clock_decode_mhz"] == [1755.0, 1755.0]
    assert row["gpu_power_decode_w"] == [610.0, 610.0]
    assert row["gpu_sm_clock_prefill_mhz"] is row["gpu_power_prefill_w"] is None
    assert row["gpu_phase_note"] == "prefill: 3 NVML samples, at least 5 needed"


def test_a_row_says_by_which_method_it_was_measured() -> None:
    row = make_row(CELL, engine_record(), measurement(), WINDOWS, CONTEXT)
    assert row["method"] == METHOD["latency"] == 3
    assert row["session_shuffled"] is True
    assert (method_of(None), method_of(2)) == (1, 2)
