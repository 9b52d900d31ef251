"""The capture workload on a stand-in engine; what its profiler "leaves" are real captures."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cells import engine, latency_cell, model
from tests.unit.measure.test_build_row import RAN, engine_record
from tpsweep.core import results_paths, row_file
from tpsweep.core.cell import Cell
from tpsweep.engine.repeat import Finished, Repeat
from tpsweep.engine.vllm_api import RequestTimes
from tpsweep.measure import capture
from tpsweep.traces import CaptureError, analyse, sidecar

DATA = Path(__file__).parents[2] / "data" / "captures"
TRACES = sorted(DATA.glob("llama8b-tp2-bs1-h200x2.rank*.gz"))
CONFIG = json.loads((DATA / "llama8b-tp2-bs1-h200x2.json").read_text())["model"]
CELL = latency_cell(
    workload="capture",
    engine=engine(gpu="H200", gpu_card="NVIDIA H200", model=model(name="8b", dtype="bfloat16")),
    batch=1,
    input_len=256,
    output_len=16,
    warmups=2,
    repeats=1,
    extra={"profiler": "torch"},
)


class StandInProfiler:
    """Leaves copies of the given real traces."""

    name = "torch 2.11.0"

    def __init__(self, traces: Sequence[Path]) -> None:
        self.config: dict[str, Any] = {}
        self.traces = traces

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def collect(self, stem: Path) -> list[Path]:
        stem.parent.mkdir(parents=True)
        return [
            Path(shutil.copy(trace, f"{stem}.rank{rank}.pt.trace.json.gz"))
            for rank, trace in enumerate(self.traces)
        ]


class StandInEngine:
    """Answers as asked; remembers which calls ran under the profiler."""

    vocabulary = 1000
    config = CONFIG

    def __init__(self, traces: Sequence[Path] = TRACES, tokens: int | None = None) -> None:
        self.traces, self.tokens = traces, tokens
        self.profiling = False
        self.calls: list[bool] = []

    def static_batch(self, prompts: list[list[int]], output_lens: Sequence[int]) -> Repeat:
        self.calls.append(self.profiling)
        times = RequestTimes(1.0, 1.1, 1.2)
        return Repeat(
            0.2,
            [
                Finished(len(prompt), self.tokens or length, "length", 0, times)
                for prompt, length in zip(prompts, output_lens, strict=True)
            ],
        )

    @contextlib.contextmanager
    def profiled(self) -> Iterator[StandInProfiler]:
        self.profiling = True
        yield StandInProfiler(self.traces)
        self.profiling = False


def run(folder: Path, cell: Cell = CELL, **changes: Any) -> tuple[Any, StandInEngine]:
    stand_in = StandInEngine(**changes)
    return capture.run(cell, stand_in, folder, engine_record()), stand_in  # type: ignore[arg-type]


def kept(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_capture_is_kept_with_what_it_does_not_tell(tmp_path: Path) -> None:
    measured, stand_in = run(tmp_path)
    assert stand_in.calls == [False, False, True]  # warm-ups run without the profiler
    stem = results_paths.capture_stem(CELL.path)
    assert stem.startswith("captures/H200/8b/tp2/b1-in256-out16-")
    assert stem.endswith(CELL.cell_id)
    traces = [f"{stem}.rank{rank}.pt.trace.json.gz" for rank in (0, 1)]
    assert measured.figures == {
        "profiler_ran": "torch 2.11.0",
        "batch_held": False,
        "scheduled_instants_samples": [1],
        "capture_steady_from": 7,
        "capture_files": [*traces, f"{stem}.json"],
    }
    assert kept(tmp_path) == sorted(measured.figures["capture_files"])
    assert measured.refusals == []
    # The analysis finds the sidecar: the model is known, so that counts and bytes are.
    report = analyse([tmp_path / trace for trace in traces])
    assert report.self_check.expected == report.self_check.found
    assert report.phases["decode"].busbw_gb_s is not None
    # Decode figures are of the late steps, and the report says of which.
    assert report.steady_from == 7
    assert (report.phases["early"].steps, report.phases["decode"].steps) == (7, 8)


def test_the_sidecar_says_what_was_asked_and_what_ran(tmp_path: Path) -> None:
    measured, _ = run(tmp_path)
    known = sidecar.find(tmp_path / measured.figures["capture_files"][0])
    assert (known.tp, known.batch, known.input_len, known.output_len) == (2, 1, 256, 16)
    assert (known.pp, known.dcp) == (1, 1)
    ran = engine_record(ran={**RAN, "pp": 4, "dcp": 2})
    assert [capture._sidecar(CELL, ran)[name] for name in ("tp", "pp", "dcp")] == [2, 4, 2]
    assert (known.dtype, known.link, known.link_gb_s) == ("bfloat16", "NV18", 450.0)
    said = json.loads((tmp_path / measured.figures["capture_files"][-1]).read_text())
    assert said["cell_id"] == CELL.cell_id
    assert said["profiler"] == "torch 2.11.0"


def test_no_time_of_a_profiled_run_is_in_the_row(tmp_path: Path) -> None:
    measured, _ = run(tmp_path)
    assert not [name for name in measured.figures if name.endswith("_ms")]


@pytest.mark.parametrize(
    ("cell", "traces", "words"),
    [
        (replace(CELL, repeats=2), TRACES, "the capture holds 15 of 30 decode steps"),
        (CELL, TRACES[:1], "1 of 2 ranks"),
    ],
)
def test_of_a_capture_that_says_too_little_nothing_is_kept(
    tmp_path: Path, cell: Cell, traces: list[Path], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        run(tmp_path, cell, traces=traces)
    assert kept(tmp_path) == []


def test_of_a_refused_run_nothing_is_kept(tmp_path: Path) -> None:
    measured, _ = run(tmp_path, tokens=3)
    assert "another number of tokens" in measured.refusals[0]
    assert kept(tmp_path) == []


def test_the_place_of_the_model_is_not_told(tmp_path: Path) -> None:
    stand_in = StandInEngine()
    stand_in.config = {**CONFIG, "_name_or_path": "/home/somebody/models/8b"}
    measured = capture.run(CELL, stand_in, tmp_path, engine_record())  # type: ignore[arg-type]
    text = (tmp_path / measured.figures["capture_files"][-1]).read_text()
    assert "somebody" not in text


def test_the_row_of_a_capture_stands_for_its_files(tmp_path: Path) -> None:
    measured, _ = run(tmp_path)
    place = tmp_path / CELL.path
    made = {"cell_id": CELL.cell_id, "workload": "capture", "synthetic": True, **measured.figures}
    row_file.write_row(made, place)
    report = analyse([place])
    assert report.ranks == 2
    assert report.self_check.expected == report.self_check.found  # the sidecar was found, too


def test_a_row_without_a_capture_is_none(tmp_path: Path) -> None:
    place = tmp_path / "cells/latency/H200/8b/tp2/x.parquet"
    row_file.write_row({"cell_id": "0" * 12, "workload": "latency", "synthetic": True}, place)
    with pytest.raises(CaptureError, match=r"x\.parquet: names no capture; allowed: "):
        analyse([place])


def test_a_row_whose_capture_is_gone_says_what_mends_it(tmp_path: Path) -> None:
    measured, _ = run(tmp_path)
    place = tmp_path / CELL.path
    row_file.write_row(
        {"cell_id": CELL.cell_id, "workload": "capture", "synthetic": True, **measured.figures},
        place,
    )
    (tmp_path / measured.figures["capture_files"][0]).unlink()
    with pytest.raises(CaptureError, match=r"rank0\.\S+ is gone; delete the row to make"):
        analyse([place])
