"""A node class that is not what the site file says loses its own cells only: real Snakemake."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pandas as pd
import pytest
import yaml

from tests.vllm.conftest import LIMIT_S, Project

pytestmark = pytest.mark.vllm

GPU = "NVIDIA H100 80GB HBM3"


def set_site(project: Project, broken_card: str) -> None:
    """Two classes of this machine, the second with a card that may not be there."""
    classes = {"here": {"card": "CPU", "per_node": 2}}
    classes["there"] = {"card": broken_card, "per_node": 2}
    site = {"name": "local", "cluster": "local", "preflight": True, "gpus": classes}
    (project.folder / "cluster/local/site.yaml").write_text(yaml.safe_dump(site))


def check_site(project: Project) -> subprocess.CompletedProcess[str]:
    """``tpsweep check --site`` in the project's folder."""
    words = [sys.executable, "-m", "tpsweep", "check", "--site", "cluster/local/site.yaml"]
    return subprocess.run(
        [*words, "--configfile", "sweep.yaml", "--json"],
        cwd=project.folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_a_class_that_fails_loses_its_own_cells_only(
    new_project: Callable[[], Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # says that there is one; there is no driver
    project = new_project()
    project.configure(gpus=["here", "there"], tp=[1], decode={"batch": [1], "repeats": 4})
    set_site(project, GPU)

    by_hand = check_site(project)
    assert by_hand.returncode == 1, by_hand.stderr[-3000:]
    assert "manifest" not in by_hand.stderr  # there is none yet, and no need of one
    assert by_hand.stderr.count("preflight of therex1 failed: GPUs: ") == 1  # not its log as well
    assert [(r["name"], r["ok"]) for r in json.loads(by_hand.stdout)] == [
        ("herex1", True),
        ("therex1", False),
    ]
    assert not project.rows()

    done = project.run()
    assert done.returncode == 1, done.stdout[-3000:]
    (row,) = project.rows()
    assert pd.read_parquet(row)["gpu"].tolist() == ["here"]
    assert project.engine_starts() == 1
    assert project.failures() == []  # nothing of the other class was started
    assert "preflight of therex1: GPUs: " in project.table("cells")

    set_site(project, "CPU")  # mended
    before = row.stat().st_mtime_ns
    done = project.run()
    assert done.returncode == 0, done.stdout[-3000:]
    assert len(project.rows()) == 2
    assert row.stat().st_mtime_ns == before
    assert project.engine_starts() == 2
    assert "preflight" not in project.table("cells")


def test_a_preflight_that_cannot_begin_is_named(new_project: Callable[[], Project]) -> None:
    project = new_project()
    project.configure(gpus=["here"], tp=[1], decode={"batch": [1]})
    set_site(project, "CPU")
    record = project.results / "preflight/herex1.json"
    record.parent.mkdir(parents=True)
    old = {"name": "herex1", "ok": True, "checks": [], "host": "n", "slurm_job_id": None}
    record.write_text(json.dumps(old | {"when": "2026-01-01T00:00:00+00:00"}))
    (project.folder / "scripts/preflight.py").unlink()
    by_hand = check_site(project)
    assert by_hand.returncode == 1
    assert "No such file or directory" in by_hand.stderr  # why it could not begin
    (found,) = json.loads(by_hand.stdout)
    assert not found["ok"]
    assert found["checks"][0]["name"] == "job (failed)"
    assert project.run().returncode == 1
    assert "preflight of herex1: job (failed): exit code" in project.table("cells")
