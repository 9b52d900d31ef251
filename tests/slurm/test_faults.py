"""The core faults on a real Slurm; `make faults` runs all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.case import judge
from tests.slurm.faults import FAULTS
from tests.slurm.lab import Lab

CORE = [
    "one_cell_fails",
    "scancel_of_one_element",
    "preempted_by_cancel",
    "runner_killed",
    "main_process_killed",
    "main_process_killed_in_sbatch",
    "parameter_changed_while_nobody_looked",
    "parameter_changed_while_it_runs",
    "every_variable_is_set",
    "ledger_deleted",
    "chatty_sbatch",
    "main_process_killed_while_two_nodes_run",
]


@pytest.mark.slurm
@pytest.mark.parametrize("name", CORE)
def test_nothing_is_lost_or_run_twice_and_the_unfinished_alone_is_rerun(
    name: str, lab: Lab, tmp_path: Path
) -> None:
    report = judge(FAULTS[name], lab, tmp_path)
    print(report)
    assert report.good, report
