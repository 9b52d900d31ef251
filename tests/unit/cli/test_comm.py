"""What ``tpsweep comm`` takes and writes beside the report on stdout."""

import json
from pathlib import Path
from typing import Any

import pytest

from tpsweep.cli.comm import Wanted, run
from tpsweep.cli.main import main
from tpsweep.core import row_file

DATA = Path(__file__).parents[2] / "data/captures"
NSYS = DATA / "llama8b-tp2-bs1-h200x2.sqlite.xz"
LATENCY: dict[str, Any] = {  # made up to match the capture
    "cell_id": "0" * 12,
    "workload": "latency",
    "model": "llama-8b",
    "dtype": "auto",
    "weights": "dummy",
    "tp": 2,
    "batch": 1,
    "input_len": 256,
    "output_len": 128,
    "allreduce_backend": "custom",
    "gpu_card": "NVIDIA H200",
    "vllm_version": "0.25.1",
    "tpot_ms": 3.61,
    "synthetic": True,
}


def latency_row(folder: Path, **changed: Any) -> Path:
    path = folder / "row.parquet"
    row_file.write_row({**LATENCY, **changed}, path)
    return path


def test_the_decode_time_without_profiler(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0.25 ms of transfer in the 3.61 ms of the unprofiled step: 7.0 %."""
    assert run([NSYS], None, as_json=False, wanted=Wanted(latency=latency_row(tmp_path))) == 0
    printed = capsys.readouterr()
    assert "5.8% of the profiled step, 7.0% without profiler" in printed.out
    assert printed.err == ""


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"workload": "serve"}, "workload: 'serve'; allowed: the row of a latency cell"),
        ({"tpot_ms": None}, "tpot_ms: None; allowed: a decode time above 0"),
        ({"tp": 1}, "tp: 1, but the capture's sidecar has 2"),
        ({"batch": 32}, "batch: 32, but the capture's sidecar has 1"),
        ({"input_len": 512}, "input_len: 512, but the capture's sidecar has 256"),
        ({"dtype": "float16"}, "dtype: 'float16', but the capture's sidecar has 'bfloat16'"),
        ({"gpu_card": "NVIDIA H100"}, "gpu_card: 'NVIDIA H100', but the capture's sidecar has"),
    ],
)
def test_a_row_that_does_not_match(
    changed: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = Wanted(latency=latency_row(tmp_path, **changed))
    assert run([NSYS], None, as_json=True, wanted=wanted) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert "row.parquet: " + words in printed.err


def test_another_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capture = tmp_path / NSYS.name
    capture.write_bytes(NSYS.read_bytes())
    known = json.loads((DATA / "llama8b-tp2-bs1-h200x2.json").read_text())
    place = tmp_path / "llama8b-tp2-bs1-h200x2.json"
    place.write_text(json.dumps({**known, "model_name": "llama-70b"}))
    wanted = Wanted(latency=latency_row(tmp_path))
    assert run([capture], None, as_json=True, wanted=wanted) == 2
    assert "model: 'llama-8b', but the capture's sidecar has 'llama-70b'" in capsys.readouterr().err
    place.unlink()
    assert run([capture], None, as_json=True, wanted=wanted) == 0
    assert "warning: no sidecar" in capsys.readouterr().err


@pytest.mark.parametrize("text", [b"PAR1", b""])
def test_no_parquet(text: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "row.parquet"
    path.write_bytes(text)
    assert run([NSYS], None, as_json=True, wanted=Wanted(latency=path)) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_report_and_picture_go_to_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, picture = tmp_path / "new/a.comm.json", tmp_path / "new/a.step.svg"
    words = ["comm", str(NSYS), "--output", str(report), "--timeline", str(picture)]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("llama8b")
    assert json.loads(report.read_text())["phases"]["decode"]["transfer_fraction"] is None
    assert picture.read_text().startswith("<?xml")
    assert sorted(file.name for file in report.parent.iterdir()) == [report.name, picture.name]
    assert main([*words, "--json"]) == 0
    assert capsys.readouterr().out == report.read_text()


def test_a_place_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    wanted = Wanted(output=tmp_path / "file/a.json")
    assert run([NSYS], None, as_json=True, wanted=wanted) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "a.json: " in printed.err and printed.err.count("\n") == 1


def test_a_row_of_no_capture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([latency_row(tmp_path)], None, as_json=True) == 2
    assert "row.parquet: names no capture" in capsys.readouterr().err
