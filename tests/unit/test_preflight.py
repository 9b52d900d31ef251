"""The preflight's judgements, and what a results folder says of a class that failed it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tpsweep import preflight
from tpsweep.manifest import write_manifest
from tpsweep.preflight import Check, Record, Request, cards_of, count_of
from tpsweep.results import load
from tpsweep.sweep import Sweep, load_sweep

ROOT = Path(__file__).resolve().parents[2]
SITE = """
name: testbed
cluster: slurm
slurm: {partition: p}
max_minutes: 60
gpus:
  one: {card: CPU, per_node: 2}
  two: {card: CPU, per_node: 2}
"""


def request(**changes: object) -> Request:
    asked = Request("H100", 2, "NVIDIA H100", False, "0.32.0", [], [])
    return dataclasses.replace(asked, **changes)  # type: ignore[arg-type]


def test_count_and_card() -> None:
    two = ["NVIDIA H100"] * 2
    assert count_of(request(), two).ok
    assert count_of(request(), two[:1]) == Check("GPUs", False, "1 visible, 2 asked")
    assert cards_of(request(), two).ok
    mixed = cards_of(request(), ["NVIDIA H100", "NVIDIA A100"])
    assert mixed == Check("card", False, "NVIDIA A100; the site file says NVIDIA H100")


def test_a_class_that_fails_leaves_a_record_and_no_marker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models/m"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    marker = str(folder / "config.json")
    ok = Check("vLLM", True, "as asked")
    monkeypatch.setattr(preflight, "_vllm", lambda _: ok)  # importing it is tests/slurm's part
    output = tmp_path / preflight.marker("onex1")
    asked = request(gpu="one", gpus=1, is_cpu=True, card="CPU", markers=[marker])

    assert preflight.run(asked, tmp_path, output) == 0
    assert output.exists()
    record = Record.read(tmp_path / "preflight/onex1.json")
    assert record.ok and record.reason == ""
    assert [check.name for check in record.checks] == [
        "processors",
        "vLLM",
        "weights",
        "results",
        "scratch",
    ]

    output.unlink()
    broken = dataclasses.replace(asked, real_weights=[marker])
    assert preflight.run(broken, tmp_path, output) == 65
    assert not output.exists()
    record = Record.read(tmp_path / "preflight/onex1.json")
    assert record.reason == f"weights: {folder}: no weights (*.safetensors, *.bin)"
    assert "FAILED weights" in capsys.readouterr().err


def test_gpus_that_nobody_sees_are_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_vllm", lambda _: Check("vLLM", True, ""))

    def none() -> list[str]:
        raise preflight.gpus.GpuError("no CUDA driver here")

    monkeypatch.setattr(preflight.gpus, "visible_uuids", none)
    assert preflight.run(request(), tmp_path, tmp_path / "ok") == 65
    assert Record.read(tmp_path / "preflight/H100x2.json").reason == "GPUs: no CUDA driver here"


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    (tmp_path / "site.yaml").write_text(SITE)
    model = {"shape": "workflow/models/tiny-llama.json", "dtype": "float32", "weights": "dummy"}
    decode = {"kind": "latency", "batch": [1], "input_len": [8], "output_len": [4]}
    config = {
        "results": str(tmp_path / "results"),
        "vllm_version": "0.32.0",
        "models": {"tiny": model},
        "gpus": ["one", "two"],
        "tp": [1, 2],
        "workloads": {"decode": decode | {"engine": {"max_model_len": 512}}},
        "site": str(tmp_path / "site.yaml"),
    }
    return load_sweep(config, ROOT)


def test_cells_wait_for_their_class_while_their_row_is_missing(sweep: Sweep) -> None:
    assert [Path(p).stem for p in sweep.preflight_markers] == ["onex1", "onex2", "twox1", "twox2"]
    for path in sweep.jobs:
        below = path.removeprefix(f"{sweep.results}/")
        job = sweep.job(below)
        marker = f"{job.gpu_type}x{job.gpus}.ok"
        assert [Path(p).name for p in sweep.inputs(below)] == ["config.json", marker]
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
        assert sweep.inputs(below) == []


def test_a_marker_is_good_for_one_day() -> None:
    assert preflight.marker("onex1", "2026-01-31") == ".preflight/2026-01-31/onex1.ok"
    assert preflight.marker("onex1") != preflight.marker("onex1", "2026-01-31")


def test_results_name_the_class_that_failed(sweep: Sweep) -> None:
    results = Path(sweep.results)
    write_manifest(sweep.planned, results / "matrix.parquet", sweep.raw)
    said = Record("twox2", False, [Check("GPUs", False, "1 visible, 2 asked")], "n", None)
    fine = Record("onex1", True, [], "n", None)
    for record in (said, fine):
        path = results / "preflight" / f"{record.name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(record)))
    (results / "preflight/broken.json").write_text("{")
    manifest = load(results).manifest.set_index(["gpu", "gpus"])
    refused = manifest.loc[("two", 2)]
    reason = "preflight of twox2: GPUs: 1 visible, 2 asked"
    assert (refused["state"], refused["reason"]) == ("failed", reason)
    assert (manifest.drop(("two", 2))["state"] == "missing").all()
