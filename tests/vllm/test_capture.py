"""Captures by real vLLM on the CPU, from the cell to the communication table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.vllm.conftest import ROOT, Project
from tests.vllm.test_sweep import jobs

pytestmark = pytest.mark.vllm
LAYERS = 4
RUNS = 3


@pytest.fixture(scope="module")
def swept(new_project: Callable[[], Project]) -> Project:
    """A small sweep of latency cells and captures at TP 1 and 2 that has ended well."""
    project = new_project()
    shipped = yaml.safe_load((ROOT / "cluster/local/sweep.yaml").read_text())["workloads"]
    capture = shipped["communication"] | {"batch": [1, 2]}
    latency = shipped["decode"] | {"batch": [1, 2], "warmups": 1, "repeats": 3}
    project.configure(workloads={"decode": latency, "communication": capture})
    done = project.run()
    assert done.returncode == 0, done.stdout[-4000:]
    return project


def captures(swept: Project) -> pd.DataFrame:
    return pd.read_parquet(swept.results / "cells/capture")


def reports(swept: Project) -> list[Path]:
    return sorted(swept.results.glob("captures/**/*.comm.json"))


def test_a_capture_costs_no_engine_start_and_comes_last(swept: Project) -> None:
    rows = pd.read_parquet(swept.results / "cells")
    assert swept.engine_starts() == rows.engine_id.nunique() == 2
    for _, session in rows.groupby("engine_id"):
        workloads = session.sort_values("session_order").workload.tolist()
        assert workloads == ["latency", "latency", "capture", "capture"]


def test_every_all_reduce_of_every_step_is_found(swept: Project) -> None:
    assert len(reports(swept)) == 4
    for path in reports(swept):
        report = json.loads(path.read_text())
        decode = report["phases"]["decode"]
        tp = 2 if "/tp2/" in str(path) else 1
        assert report["ranks"] == tp
        assert report["self_check"]["ok"], report
        expected = (2 * LAYERS + 1, 1) if tp == 2 else (0, 0)
        assert (decode["all_reduce_per_step"], decode["all_gather_per_step"]) == expected
        steps = {name: phase["steps"] for name, phase in report["phases"].items()}
        # The batch is scheduled in one piece, and the later half of its decode is looked at.
        assert steps == {"prefill": RUNS, "early": RUNS * 7, "decode": RUNS * 8}
        assert report["steady_from"] == 7


def test_the_communication_table_has_them(swept: Project) -> None:
    table = pd.read_parquet(swept.results / "tables/communication.parquet")
    assert sorted(zip(table.tp, table.batch, strict=True)) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    split = table[table.tp == 2]
    assert split.all_reduce_per_step.tolist() == [9, 9]
    assert (split.transfer_fraction_profiled > 0).all()
    # Of the step without a profiler, from the latency cell beside it.
    assert (split.transfer_fraction > 0).all()
    assert "INCOMPLETE" not in swept.table("communication")


def test_a_profiled_run_is_in_no_latency_table(swept: Project) -> None:
    rows = captures(swept)
    assert rows.tpot_ms.isna().all()
    assert rows.profiler_ran.str.startswith("torch ").all()
    comparison = pd.read_parquet(swept.results / "tables/tp_comparison.parquet")
    assert set(comparison.workload) == {"latency"}


def test_the_row_names_the_files_of_its_capture(swept: Project) -> None:
    for names in captures(swept).capture_files:
        assert all((swept.results / name).is_file() for name in names)
        sidecar = json.loads((swept.results / names[-1]).read_text())
        assert sidecar["model"]["num_hidden_layers"] == LAYERS
        assert str(swept.folder) not in json.dumps(sidecar)


def test_a_copied_results_folder_analyses_nothing_anew(
    swept: Project, new_project: Callable[[], Project]
) -> None:
    copy = new_project()
    shutil.copy(swept.folder / "sweep.yaml", copy.folder)
    shutil.copytree(swept.results, copy.results, copy_function=shutil.copyfile)
    shutil.rmtree(copy.results / "models")
    planned = jobs(copy.run("-n").stdout)
    assert not {"latency", "capture", "communication"} & planned.keys()
    reports(copy)[0].unlink()
    planned = jobs(copy.run("-n").stdout)
    assert planned["communication"] == 1
    assert not {"latency", "capture"} & planned.keys()
