"""Engine and client die in the middle of a cell: it alone is lost, the next has a fresh engine.

Each death costs an engine start. CI tries one of the engine and one of the client;
``ALL_DEATHS=1 pytest tests/vllm/test_deaths.py`` also tries serving and a capture.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import psutil
import pytest

from tests.vllm.conftest import Project
from tests.vllm.test_sweep import jobs

pytestmark = pytest.mark.vllm

ALL = bool(os.environ.get("ALL_DEATHS"))
ENGINE = {"max_model_len": 512, "max_num_seqs": 16, "max_num_batched_tokens": 2048}
STATIC = {"input_len": [32], "warmups": 1, "minutes": 3, "engine": ENGINE}
WORKLOADS = {
    "decode": STATIC | {"kind": "latency", "batch": [1, 2], "output_len": [128], "repeats": 30},
    "serve": STATIC
    | {
        "kind": "serve",
        "num_prompts": [24],
        "output_len": [8],
        "request_rate": [3.0, 4.0] if ALL else [4.0],
        "repeats": 3,
    },
}
CAPTURE = {
    "communication": STATIC
    | {"kind": "capture", "batch": [1], "output_len": [64], "repeats": 8, "profiler": "torch"},
}
CORE, CLIENT = "VLLM::EngineCore", "tpsweep.measure.daemon"
MORE = {
    "rate3.0": ('"request_rate":3.0', CORE),
    "capture": ('"workload":"capture"', CORE),
}
DEATHS = {
    "b2-": ('"batch":2', CORE),
    "rate4.0": ('"request_rate":4.0', CLIENT),
    **(MORE if ALL else {}),
}
"""Word in a cell's path -> what its client's command line has, and whom to kill while it runs."""
CELLS = 5 if ALL else 3
AFTER_S = 1.0


@dataclass(frozen=True)
class Killed:
    """A sweep in which one process died per cell of ``DEATHS``, then the same command again."""

    project: Project
    output: str
    code: int
    failures: list[dict[str, Any]]
    rows_before: int
    starts_before: int
    left: list[str]
    again: str


@pytest.fixture(scope="module")
def killed(new_project: Callable[[], Project]) -> Killed:
    """One sweep on one engine, whose processes die one after another."""
    project = new_project()
    project.configure(tp=[1], workloads=WORKLOADS | (CAPTURE if ALL else {}))
    sweep = subprocess.Popen(
        project.command(), cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    seen = kill_in_every_cell(sweep)
    output = sweep.communicate(timeout=500)[0].decode()
    assert sweep.returncode, output[-3000:]
    left = [" ".join(one.cmdline())[:200] for one in seen if one.is_running()]
    failures, before, starts = project.failures(), len(project.rows()), project.engine_starts()
    again = project.run()
    assert again.returncode == 0, again.stdout[-4000:]
    return Killed(project, output, sweep.returncode, failures, before, starts, left, again.stdout)


def kill_in_every_cell(sweep: subprocess.Popen[bytes]) -> set[psutil.Process]:
    """SIGKILL what ``DEATHS`` says; all processes that were seen below the sweep."""
    todo, seen, end = dict(DEATHS), set(), time.monotonic() + 400
    while todo and time.monotonic() < end and sweep.poll() is None:
        below = list(processes(psutil.Process(sweep.pid)))
        seen |= {process for process, _ in below}
        for name, (word, target) in list(todo.items()):
            if any("--cell" in words and word in words for _, words in below):
                time.sleep(AFTER_S)
                for process, words in processes(psutil.Process(sweep.pid)):
                    if is_target(process, words, target):
                        process.kill()
                del todo[name]
        time.sleep(0.05)
    assert not todo, f"these cells never ran: {sorted(todo)}"
    return seen


def processes(root: psutil.Process) -> Iterator[tuple[psutil.Process, str]]:
    """Every process below, with its command line."""
    for process in root.children(recursive=True):
        try:
            yield process, " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue


def is_target(process: psutil.Process, words: str, target: str) -> bool:
    """The load generator is a fork of the daemon, and the only one."""
    if target == CORE:
        return words.startswith(CORE)
    try:
        parent = process.parent()
        return target in words and parent is not None and target in parent.cmdline()
    except psutil.NoSuchProcess:
        return False


def test_each_death_loses_its_own_cell_with_a_typed_reason(killed: Killed) -> None:
    found = {name: f for f in killed.failures for name in DEATHS if name in f["cell"]}
    assert found.keys() == DEATHS.keys(), killed.failures
    assert {failure["type"] for failure in found.values()} == {"crash"}
    assert killed.rows_before == CELLS - len(DEATHS)
    assert "load generator" in found["rate4.0"]["message"]
    for name in DEATHS.keys() - {"rate4.0"}:
        assert "EngineCore" in found[name]["message"] or "engine died" in found[name]["message"]


def test_each_death_is_one_line(killed: Killed) -> None:
    lines = killed.output.splitlines()
    crashes = {line for line in lines if "ends: crash: " in line}
    assert len(crashes) == len(DEATHS), crashes
    assert all(any(name in line for line in crashes) for name in DEATHS), crashes
    for failure in killed.failures:  # which process died: the line says what the record says
        assert any(line.endswith(f"ends: crash: {failure['message']}") for line in crashes), crashes
    assert not [line for line in lines if line.startswith(("Traceback", '  File "'))]
    assert killed.code == 1


def test_the_next_cell_has_a_fresh_engine_and_nothing_is_left(killed: Killed) -> None:
    # One start for each death, and one more if a cell came after the last.
    assert killed.starts_before in (len(DEATHS), len(DEATHS) + 1)
    assert killed.left == []


def test_the_same_command_measures_these_cells_on_one_engine(killed: Killed) -> None:
    assert killed.project.engine_starts() == killed.starts_before + 1
    ran = jobs(killed.again)
    assert (ran["latency"], ran["serve"]) == (1, sum("rate" in name for name in DEATHS))
    assert ran.get("capture", 0) == ("capture" in DEATHS)
    assert killed.project.failures() == []
    rows = pd.read_parquet(killed.project.results / "cells")
    assert len(rows) == CELLS
    assert "INCOMPLETE" not in killed.project.table("serving")
