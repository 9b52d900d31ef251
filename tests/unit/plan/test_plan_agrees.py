"""The plan beside ``snakemake -n`` and beside a run: as many cells, preflights and sessions."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_workflow import project, snakemake
from tpsweep.cli.main import main
from tpsweep.core.workloads import WORKLOADS

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("profile", "config"),
    [("pace", "config.yaml"), ("pace", "docs/seed-experiments.yaml"), ("local", None)],
)
def test_as_many_cells_and_preflights_as_a_dry_run(
    profile: str,
    config: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PACE_ACCOUNT", "of-a-test")
    source = ROOT / (config or f"cluster/{profile}/sweep.yaml")
    lines = source.read_text("utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("results:")]
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("\n".join([f"results: {tmp_path}/results", *lines]), "utf-8")
    folder = f"cluster/{profile}"
    assert main(["plan", "--profile", folder, "--configfile", str(sweep), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    words = [sys.executable, "-m", "snakemake", "--profile", folder, "--configfile", str(sweep)]
    done = subprocess.run(
        [*words, "-n", "--directory", str(ROOT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    counted = dict(re.findall(r"^(\w+)\s+(\d+)$", done.stdout, re.MULTILINE))
    cells = sum(int(counted.get(name, 0)) for name in WORKLOADS)
    assert plan["cells"]["to_run"] == cells > 0
    assert plan["preflights"] == int(counted.get("preflight", 0))
    assert sum(one["sessions"] for one in plan["cost"]["classes"]) == plan["cost"]["sessions"]


def test_as_many_sessions_as_the_executor_makes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real workflow and executor, with an engine that does nothing and cells that are empty."""
    folder = project(tmp_path)
    rules = folder / "workflow" / "rules" / "cells.smk"
    text = rules.read_text("utf-8")
    real = 'session_command=of_job(WORKLOAD, "session_command")'
    ready = "sh -c 'touch $SESSION_DIR/ready; exec sleep 600'"
    assert real in text
    text = text.replace(real, f'session_command="{ready}"')
    start = text.index("        shell:\n")
    rules.write_text(f'{text[:start]}        shell: "touch {{output}}"\n', "utf-8")
    monkeypatch.chdir(folder)
    sweep = "cluster/local/sweep.yaml"
    assert main(["plan", "--profile", "cluster/local", "--configfile", sweep, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    done = snakemake(folder, sweep, "--until", *WORKLOADS)
    assert done.returncode == 0, done.stderr[-2000:]
    sessions = (folder / ".snakemake" / "submitit" / "sessions.jsonl").read_text("utf-8")
    counts = sorted(len(json.loads(line)["cells"]) for line in sessions.splitlines())
    assert len(counts) == plan["cost"]["sessions"]
    assert sum(counts) == plan["cells"]["to_run"]


def test_the_scripts_that_the_executor_would_submit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project(tmp_path)
    site = folder / "cluster/slurm-demo/site.yaml"
    site.write_text(site.read_text("utf-8") + "preflight: false\n", "utf-8")
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    (stubs / "sbatch").write_text("#!/bin/bash\ntouch called\nexit 1\n")
    (stubs / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{stubs}:{os.environ['PATH']}")
    monkeypatch.chdir(folder)
    assert main(["plan", "--profile", "cluster/slurm-demo", "--sbatch", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    words = [sys.executable, "-m", "snakemake", "--profile", "cluster/slurm-demo"]
    done = subprocess.run(
        [*words, "--submitit-dry-run"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    printed = [f"#!{text}" for text in done.stdout.split("\n#!")[1:]]
    ours = [re.sub(r"\n\n\n# .*", "", text, flags=re.DOTALL) for text in printed]
    assert len(ours) == 6  # 3 node classes, TP 1 and 2
    assert sorted(map(nameless, ours)) == sorted(nameless(one["script"]) for one in planned)
    sessions = [(len(s["jobs"]), s["gpus"], s["gpu_type"]) for p in planned for s in p["sessions"]]
    heads = re.findall(r"^# session \S+: (\d+) jobs?, (\d+) x (\w+)$", done.stdout, re.MULTILINE)
    assert sorted(sessions) == sorted((int(jobs), int(gpus), gpu) for jobs, gpus, gpu in heads)
    assert not (folder / "called").exists()


def nameless(script: str) -> str:
    """A batch script without the name of its array, which is another one each time."""
    return re.sub(r"-[0-9a-f]{8}\b", "-NAME", script).strip()
