"""The preflight's judgements, and what a results folder says of a class that failed it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.outcome import Outcome
from tpsweep.core import preflight_record
from tpsweep.core.preflight_record import Check, Record, Request
from tpsweep.measure import preflight
from tpsweep.measure.preflight import cards_of, count_of
from tpsweep.results.load import load
from tpsweep.sweep.manifest import write_manifest
from tpsweep.sweep.sweep import Sweep, load_sweep

ROOT = Path(__file__).resolve().parents[3]
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
    asked = Request("H100", 2, "NVIDIA H100", False, "0.32.0", [], 80)
    return dataclasses.replace(asked, **changes)  # type: ignore[arg-type]


def test_count_and_card() -> None:
    two = ["NVIDIA H100"] * 2
    assert count_of(request(), two).ok
    assert count_of(request(), two[:1]) == Check("GPUs", False, "1 visible, 2 asked")
    assert cards_of(request(), two).ok
    mixed = cards_of(request(), ["NVIDIA H100", "NVIDIA A100"])
    assert mixed == Check("card", False, "NVIDIA A100; the site file says NVIDIA H100")


def test_memory() -> None:
    assert preflight.memory_of(request(), [(79.6, 0.5)] * 2).ok  # 80 is its nominal size
    assert preflight.memory_of(request(memory_gib=None), [(15.0, 0.4)]).ok
    small = preflight.memory_of(request(), [(79.6, 0.5), (39.5, 0.5)])
    assert not small.ok and small.said.endswith("the site file says 80 GiB")
    held = preflight.memory_of(request(), [(79.6, 0.5), (79.6, 61.2)])
    assert not held.ok and "61.2 of 79.6 GiB used: other processes" in held.said


def answering(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    devices: int,
    cuda_version: str | None = "13.0",
) -> None:
    """Synthetic packages torch and vllm, found before the real ones."""
    (folder / "vllm.py").write_text(f"__version__ = {version!r}\nclass LLM: pass\n")
    cuda = f"class cuda:\n    device_count = staticmethod(lambda: {devices})\n"
    atexit = "import atexit\natexit.register(print, 'printed at the end')\n"
    built = f"class version:\n    cuda = {cuda_version!r}\n"
    (folder / "torch.py").write_text(cuda + built + atexit)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_vllm_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(tmp_path, monkeypatch, "0.32.0", 2)
    assert preflight._vllm(request()) == Check("vLLM", True, "0.32.0, torch sees 2 GPUs")
    said = "0.32.0, but torch (CUDA 13.0) sees 2 GPUs, 4 asked"
    assert preflight._vllm(request(gpus=4)) == Check("vLLM", False, said)
    other = preflight._vllm(request(vllm_version="0.31.0"))
    assert other == Check("vLLM", False, "0.32.0, 0.31.0 asked")
    answering(tmp_path, monkeypatch, "0.32.0", 0, cuda_version=None)
    without = preflight._vllm(request()).said
    assert without.startswith("0.32.0, but its torch has no CUDA; allowed: `make install ENGINE=cu")
    assert without.endswith("`python` or `container` of the site file")
    assert preflight._vllm(request(is_cpu=True)).ok
    (tmp_path / "vllm.py").write_text("import os; os.abort()")
    assert preflight._vllm(request()).said.startswith("import failed (-6)")
    (tmp_path / "vllm.py").write_text("raise OSError('libcudart.so.13: no such file')")
    assert "libcudart.so.13" in preflight._vllm(request()).said


def test_a_record_that_cannot_be_written_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preflight, "_vllm", lambda _: Check("vLLM", True, ""))
    results = tmp_path / "results"
    results.write_text("a file where the folder should be")
    asked = request(is_cpu=True, gpus=1)
    assert preflight.run(asked, [], results, results / "ok") == 65
    said = capsys.readouterr().err
    assert "FAILED results" in said and "FAILED record" in said


def test_a_class_that_fails_leaves_a_record_and_no_marker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models/m"
    folder.mkdir(parents=True)
    marker = folder / "config.json"
    for file in (marker, folder / "tokenizer.json"):
        file.write_text("{}")
    ok = Check("vLLM", True, "as asked")
    monkeypatch.setattr(preflight, "_vllm", lambda _: ok)  # importing it is tests/slurm's part
    output = tmp_path / preflight_record.marker("onex1")
    asked = request(gpu="one", gpus=1, is_cpu=True, card="CPU")

    assert preflight.run(asked, [marker], tmp_path, output) == 0
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
    broken = dataclasses.replace(asked, real_weights=[str(marker)])
    assert preflight.run(broken, [marker], tmp_path, output) == 65
    assert not output.exists()
    record = Record.read(tmp_path / "preflight/onex1.json")
    assert record.reason == f"weights: {folder}: no weights (*.safetensors, *.bin)"
    assert "FAILED weights" in capsys.readouterr().err


def test_gpus_that_nobody_sees_are_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_vllm", lambda _: Check("vLLM", True, ""))

    def none() -> list[str]:
        raise preflight.nvml.GpuError("no CUDA driver here")

    monkeypatch.setattr(preflight.nvml, "visible_uuids", none)
    assert preflight.run(request(), [], tmp_path, tmp_path / "ok") == 65
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
    assert preflight_record.marker("onex1", "2026-01-31") == ".preflight/2026-01-31/onex1.ok"
    assert preflight_record.marker("onex1") != preflight_record.marker("onex1", "2026-01-31")


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


def test_only_models_that_a_cell_still_needs_are_waited_for(sweep: Sweep) -> None:
    (model,) = sweep.preflight_models("onex1")
    assert model == f"{sweep.results}/models/tiny/config.json"
    raw = json.loads(sweep.raw)
    again = load_sweep({**raw, "models": {**raw["models"], "other": raw["models"]["tiny"]}}, ROOT)
    other = f"{again.results}/models/other/config.json"
    assert again.preflight_models("onex1") == [other, model]
    for path, job in again.jobs.items():
        if job.model_marker == model:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).touch()
    assert again.preflight_models("onex1") == [other]
    for path in again.jobs:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    assert again.preflight_models("onex1") == [other, model]  # asked for by hand


def test_a_preflight_that_never_ran_is_a_reason(sweep: Sweep) -> None:
    results = Path(sweep.results)
    write_manifest(sweep.planned, results / "matrix.parquet", sweep.raw)
    outcome = Outcome("submit", "sbatch: Invalid qos specification")
    outcome.record(results / preflight_record.record_path("onex1"))
    manifest = load(results).manifest.set_index(["gpu", "gpus"])
    said = manifest.loc[("one", 1)]
    assert said["failure_type"] == "preflight"
    wanted = "preflight of onex1: job (submit): sbatch: Invalid qos specification"
    assert said["reason"] == wanted
