"""An environment that cannot run the daemon is one line, for the session and for the preflight."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.environments import make_environment
from tpsweep.core.preflight_record import Record, Request
from tpsweep.core.program import LIBRARY, Program
from tpsweep.core.request import StartFailure
from tpsweep.measure import launch, preflight_job

PATHS = {"PYTHONPATH": LIBRARY}
ASKED = Request("one", 1, "CPU", True, "0.32.0", [])


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter without any package."""
    return make_environment(tmp_path_factory.mktemp("bare") / "venv", ["*"])


def test_what_it_lacks(bare: Path, tmp_path: Path) -> None:
    program = Program(python=str(bare), packages=str(tmp_path), has_gpus=False)
    assert launch.problem(program, {}) == f"{bare}: vLLM is not installed in it"
    (tmp_path / "vllm.py").touch()
    said = launch.problem(program, {})
    assert said.startswith(f"{bare}: lacks numpy psutil pyarrow pyyaml; install them there")
    for name in ("numpy", "psutil", "pyarrow", "yaml"):
        (tmp_path / f"{name}.py").touch()
    assert launch.problem(program, {}) == ""
    on_gpus = Program(python=str(bare), packages=str(tmp_path))
    assert "lacks nvidia-ml-py; " in launch.problem(on_gpus, {})


def test_what_is_no_interpreter(tmp_path: Path) -> None:
    missing = tmp_path / "no/python"
    assert (
        launch.problem(Program(python=str(missing)), {}) == f"{missing}: No such file or directory"
    )
    assert launch.problem(Program(python="/bin/false"), {}).startswith("/bin/false: exit code 1")
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\necho 'tpsweep-environment: [[3, 9], []]'\n")
    old.chmod(0o755)
    said = launch.problem(Program(python=str(old)), {})
    assert said == f"{old}: Python 3.9, needed: 3.11 or newer"
    no_container = launch.problem(Program(image="a.sif"), {"PATH": str(tmp_path)})
    assert no_container == "apptainer: No such file or directory"


def test_the_cells_of_a_session_know_why(tmp_path: Path, bare: Path) -> None:
    program = Program(python=str(bare)).to_json()
    words = [sys.executable, "-m", "tpsweep.measure.launch", program, "-c", "print(1)"]
    environment = {"SESSION_DIR": str(tmp_path), **PATHS}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    failure = StartFailure.read(tmp_path)
    assert failure == StartFailure("engine_start", f"{bare}: vLLM is not installed in it")


def test_a_program_that_can_run_is_become(bare: Path, tmp_path: Path) -> None:
    for name in Program(has_gpus=False).needs:
        (tmp_path / f"{name}.py").touch()
    program = Program(python=str(bare), packages=str(tmp_path), has_gpus=False).to_json()
    code = "import sys, tpsweep; print(sys.prefix, sys.argv[1:])"
    words = [sys.executable, "-m", "tpsweep.measure.launch", program, "-c", code, "$(id) it's"]
    done = subprocess.run(words, env=PATHS, capture_output=True, text=True)
    assert done.stdout == f'{bare.parents[1]} ["$(id) it\'s"]\n', done.stderr


def test_a_preflight_that_cannot_go_there_leaves_a_record(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["scripts/preflight.py", "--request", ASKED.to_json(), "--models", "m/config.json"]
    argv += ["--results", str(tmp_path), "--output", str(tmp_path / "ok")]
    argv += [f"--program={Program(python=str(bare)).to_json()}"]
    assert preflight_job.main(argv) == 65
    record = Record.read(tmp_path / "preflight/onex1.json")
    assert record.reason == f"vLLM's environment: {bare}: vLLM is not installed in it"
    assert capsys.readouterr().err.splitlines()[-1] == f"preflight of onex1 failed: {record.reason}"
    assert not (tmp_path / "ok").exists()
    assert json.loads((tmp_path / "preflight/onex1.json").read_text())["ok"] is False
