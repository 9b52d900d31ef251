"""Real sweeps on a real Slurm: real vLLM on the CPU, the project as it is shipped."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tests.slurm.lab import Lab

ROOT = Path(__file__).resolve().parents[2]
PARTS = ["Snakefile", "workflow", "cluster", "scripts"]
LIMIT_S = 500
ALL = bool(os.environ.get("ALL_DEATHS"))
SESSIONS = ".snakemake/submitit/sessions.jsonl"

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make install"
    ),
]


@dataclass(frozen=True)
class Project:
    """A copy of the workflow in a folder of its own, on a private Slurm."""

    folder: Path
    lab: Lab
    python: str = sys.executable
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        """The sweep's results root."""
        return self.folder / "results/slurm-demo"

    def configure(self, decode: dict[str, Any], **changes: Any) -> None:
        """Write ``sweep.yaml``: that of cluster/slurm-demo with ``changes``."""
        config = yaml.safe_load((self.folder / "cluster/slurm-demo/sweep.yaml").read_text())
        entry = config["workloads"]["decode"] | {"warmups": 1, "repeats": 4} | decode
        config |= {"runs": 1, "workloads": {"decode": entry}}
        (self.folder / "sweep.yaml").write_text(yaml.safe_dump(config | changes))

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Start the sweep; its output goes to ``said.log``."""
        words = [self.python, "-m", "snakemake", "--profile", "cluster/slurm-demo"]
        words += ["--configfile", "sweep.yaml", "--retries", "0", *options]
        with (self.folder / "said.log").open("ab") as output:
            return subprocess.Popen(
                words,
                cwd=self.folder,
                env={**self.lab.env(), "TEST_PROJECT": str(self.folder), **self.environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def said(self) -> str:
        """All that Snakemake printed."""
        return (self.folder / "said.log").read_text(errors="replace")

    def rows(self) -> list[Path]:
        """The rows' files."""
        return sorted(self.results.glob("cells/**/*.parquet"))

    def lines(self, path: str) -> list[dict[str, Any]]:
        """A file of JSON lines."""
        file = self.folder / path
        return [json.loads(x) for x in file.read_text().splitlines()] if file.exists() else []

    def wait_ended(self) -> None:
        """Return when Slurm has no job any more."""
        end = time.monotonic() + 60
        while self.lab.squeue():
            assert time.monotonic() < end, self.lab.call("squeue")
            time.sleep(0.2)

    def left(self) -> list[str]:
        """Command lines of what still runs for this project.

        Known by the environment, or by the folder: a process that gave itself a title (vLLM's do)
        has written it over its environment.
        """
        mark, found = f"TEST_PROJECT={self.folder}".encode(), []
        for entry in Path("/proc").iterdir():
            try:
                is_ours = (entry / "cwd").readlink().is_relative_to(self.folder)
                if is_ours or mark in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except (OSError, ValueError):
                continue
        return found


def copy_project(folder: Path, lab: Lab) -> Project:
    """The workflow as it is shipped, in a new ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "tests")
            shutil.copytree(source, folder / part, ignore=ignored)
        else:
            shutil.copy(source, folder / part)
    return Project(folder, lab)


@pytest.fixture
def project(lab: Lab, tmp_path: Path) -> Project:
    return copy_project(tmp_path, lab)


def test_a_cell_a_class_and_a_session_are_lost_alone(project: Project) -> None:
    """One sweep for the three: engines and preflights on this machine take minutes.

    The cell is one that runs over its minute and costs a further engine start, with ``ALL_DEATHS``
    alone: tests/vllm/test_deaths.py loses cells to kills on every run.
    """
    # 5,000 repeats take longer than a minute.
    slow = {"batch": [8], "repeats": 5000, "minutes": 1, "gpus": ["h100"], "tp": [1]}
    # Repeats enough that the session at TP=2 can be cancelled in its second cell.
    measured = {"batch": [1, 2], "tp": [1, 2], "repeats": 40}
    project.configure(measured, gpus=["h100", "a100"])
    path = project.folder / "sweep.yaml"
    config = yaml.safe_load(path.read_text())
    if ALL:
        config["workloads"]["slow"] = config["workloads"]["decode"] | slow
    path.write_text(yaml.safe_dump(config))
    # A class whose nodes are not what the site file says: it has no GPU that CUDA knows.
    site = project.folder / "cluster/slurm-demo/site.yaml"
    text = site.read_text()
    site.write_text(text.replace("a100: {card: CPU", "a100: {card: NVIDIA A100"))

    process = project.start()
    try:
        cancel_after_a_row(project, process)
        assert process.wait(LIMIT_S) == 1
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    project.wait_ended()  # Snakemake does not wait for a session that only cleans up
    assert project.left() == []
    rows = pd.concat([pd.read_parquet(row) for row in project.rows()])
    found = sorted(zip(rows["gpu"], rows["tp"], rows["batch"], strict=True))
    assert found[:2] == [("h100", 1, 1), ("h100", 1, 2)], project.said()
    assert found[2:] in ([("h100", 2, 1)], [("h100", 2, 2)]), project.said()
    failures = [json.loads(f.read_text()) for f in project.results.glob("failures/*.json")]
    timeouts = ["timeout"] * ALL
    assert sorted(failure["type"] for failure in failures) == ["cancelled", *timeouts]

    # The engine goes with the cell that is cut off, and is started again for the cell behind it.
    (session,) = sessions_at(project, tp=1)
    assert session["starts"] == 1 + ALL, "no cell is behind the slow one: give it another batch"
    starts = project.lines("results/slurm-demo/engine_starts.jsonl")
    print(f"engine starts {len(starts)}, sessions 2")
    assert len(starts) == session["starts"] + 1
    assert set(rows.loc[rows["tp"] == 1, "session_id"]) == {session["session_id"]}
    assert set(rows["hostname"]) <= {"h100-1", "h100-2"}
    assert rows["slurm_job_id"].str.fullmatch(r"\d+(_\d+)?").all()

    record = json.loads((project.results / "preflight/a100x1.json").read_text())
    assert not record["ok"]
    # The failed check is on the terminal, as the job ends and as the run does.
    assert "ends: preflight of a100x1 failed: GPUs: " in project.said()
    assert "tpsweep:   2 failed: preflight of a100x1: GPUs: " in project.said()
    assert json.loads((project.results / "preflight/h100x2.json").read_text())["ok"]
    table = (project.results / "tables/cells.md").read_text()
    assert "preflight of a100x2: GPUs: " in table
    nodes = {one["node"] for one in project.lines(SESSIONS) if one["starts"]}
    assert not nodes & {"a100-1", "a100-2"}

    # A run of what can be measured measures what is missing, and that alone.
    kept = {row: row.stat().st_mtime_ns for row in project.rows()}
    project.configure(measured, gpus=["h100"])
    assert project.start().wait(LIMIT_S) == 0, project.said()
    assert len(project.rows()) == 4
    assert {row: row.stat().st_mtime_ns for row in kept} == kept
    assert len(project.lines("results/slurm-demo/engine_starts.jsonl")) == len(starts) + 1
    project.wait_ended()
    assert sessions_at(project, tp=2)[-1]["starts"] == 1
    assert project.left() == []


def cancel_after_a_row(project: Project, process: subprocess.Popen[str]) -> None:
    """scancel the session at TP=2 once it has measured one of its two cells."""
    end = time.monotonic() + LIMIT_S
    while not any("/tp2/" in str(row) for row in project.rows()):
        assert process.poll() is None and time.monotonic() < end, project.said()
        time.sleep(0.2)
    (job,) = (job for job, gpus in running(project) if gpus.endswith(":2"))
    assert any(line.startswith("VLLM::Worker") for line in project.left())  # of TP=2 alone
    project.lab.call("scancel", job)


def sessions_at(project: Project, tp: int) -> list[dict[str, Any]]:
    """The records of the sessions at this TP that started an engine."""
    sessions = project.lines(SESSIONS)
    return [one for one in sessions if one["starts"] and f"-tp{tp}-" in one["session"]]


def running(project: Project) -> list[list[str]]:
    """Running jobs: number and what they asked of each node."""
    text = project.lab.call("squeue", "-h", "-r", "-t", "R", "-o", "%i %b")
    return [line.split() for line in text.splitlines()]
