"""vLLM in an environment of its own: Snakemake's has none. Real vLLM on the CPU, a real Slurm."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.environments import make_environment
from tests.slurm.lab import Lab
from tests.slurm.test_vllm import LIMIT_S, Project, copy_project

PLUGIN = "cluster/snakemake-executor-plugin-submitit/src"
STAND_IN = Path(__file__).with_name("apptainer_stand_in.py")

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make install"
    ),
]


def imports(python: Path, module: str) -> bool:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    words = [str(python), "-c", f"import {module}"]
    return subprocess.run(words, env=environment, capture_output=True, check=False).returncode == 0


@pytest.fixture
def project(lab: Lab, tmp_path: Path) -> Project:
    return copy_project(tmp_path / "it's {a} project", lab)


def test_an_interpreter_and_a_container_have_the_engine(project: Project, tmp_path: Path) -> None:
    library = [project.folder / "workflow", project.folder / PLUGIN]
    planner = make_environment(tmp_path / "planner", ["vllm*", "torch*"], library)
    engine = make_environment(tmp_path / "engine of mine", ["tpsweep*", "snakemake*", "submitit*"])
    assert not imports(planner, "vllm") and not imports(planner, "torch")
    assert not imports(engine, "tpsweep") and not imports(engine, "snakemake")

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/apptainer").symlink_to(STAND_IN)
    site = project.folder / "cluster/slurm-demo/site.yaml"
    said = yaml.safe_load(site.read_text())
    said["gpus"]["h100"]["python"] = str(engine)
    said["gpus"]["a100"]["container"] = {"apptainer": "$IMAGES/engine of mine"}
    said["environment"] = {"OF_THE_SITE": "$IMAGES/x"}
    site.write_text(yaml.safe_dump(said))
    project.configure({"batch": [1], "tp": [1]}, gpus=["h100", "a100"], tp=[1])
    calls = tmp_path / "calls.log"
    environment = {
        "PATH": f"{tmp_path}/bin:{project.lab.env()['PATH']}",
        "IMAGES": str(tmp_path),
        "APPTAINER_STAND_IN_LOG": str(calls),
        "PYTHONPATH": "",
    }
    started = replace(project, python=str(planner), environment=environment)
    assert started.start().wait(LIMIT_S) == 0, project.said()

    rows = pd.concat([pd.read_parquet(row) for row in project.rows()])
    assert sorted(rows["gpu"]) == ["a100", "h100"]
    assert (rows["tpot_ms"] > 0).all()
    ran = {json.loads(text)["OF_THE_SITE"] for text in rows["engine_env"]}
    assert ran == {f"{tmp_path}/x"}
    for name in ("h100x1", "a100x1"):
        record = json.loads((project.results / f"preflight/{name}.json").read_text())
        assert record["ok"] and "vLLM" in {check["name"] for check in record["checks"]}
    # A look at the environment and the program itself, for the preflight and for the daemon.
    called = [json.loads(line) for line in calls.read_text().splitlines()]
    used = [words[words.index(f"{tmp_path}/engine of mine") + 1 :] for words in called]
    assert [words[:2] for words in used[::2]] == [["python3", "-c"]] * 2
    preflight, daemon = used[1::2]
    assert preflight[1] == str(project.folder / "scripts/preflight.py")
    assert daemon[1:3] == ["-m", "tpsweep.measure.daemon"]
    project.wait_ended()
    assert project.left() == []
