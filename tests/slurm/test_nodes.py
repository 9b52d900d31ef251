"""A session over two nodes of a real Slurm: one engine of real vLLM, half of it on each."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.slurm.lab import Lab
from tests.slurm.test_vllm import LIMIT_S, Project, copy_project, sessions_at
from tests.slurm.test_vllm import pytestmark as pytestmark


@pytest.fixture
def project(lab: Lab, tmp_path: Path) -> Project:
    """One GPU on a node of a100, so that TP=2 takes both of its nodes."""
    project = copy_project(tmp_path, lab)
    site = project.folder / "cluster/slurm-demo/site.yaml"
    text = site.read_text()
    one = text.replace("a100: {card: CPU, per_node: 2", "a100: {card: CPU, per_node: 1, nodes: 2")
    assert one != text
    site.write_text(one + "preflight: false\n")  # that of tests/slurm/test_vllm.py costs time here
    return project


def test_one_engine_over_two_nodes(project: Project) -> None:
    short = {"batch": [1, 2], "tp": [2], "repeats": 2, "input_len": [16], "output_len": [4]}
    project.configure(short, gpus=["a100"])
    assert project.start().wait(LIMIT_S) == 0, project.said()
    rows = pd.concat([pd.read_parquet(row) for row in project.rows()])
    assert sorted(rows["batch"]) == [1, 2]
    assert set(rows["nodes"]) == {2} and set(rows["tp_ran"]) == {2}
    assert set(rows["hostname"]) == {"a100-1"}
    assert set(rows["node_list"]) == {"a100-[1-2]"}
    assert set(rows["network"]) == {"loopback"}
    project.wait_ended()
    (session,) = sessions_at(project, tp=2)
    assert (session["starts"], session["nodes"], session["gpus"]) == (1, 2, 2)
    assert len(project.lines("results/slurm-demo/engine_starts.jsonl")) == 1
    other = project.folder / ".snakemake/submitit" / session["session_id"] / "session-1.log"
    assert "rank=1" in other.read_text()
    assert project.left() == []
