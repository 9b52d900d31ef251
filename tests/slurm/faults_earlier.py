"""Workflows that change while sessions of an earlier Snakemake go on. See ``faults``."""

from __future__ import annotations

from typing import Any

from tests.slurm.case import HELD, Case
from tests.slurm.fault import fault
from tests.slurm.workflow import matrix


def _with_values(value: str) -> dict[str, dict[str, Any]]:
    """The matrix, with a parameter and an input file."""
    return {c: {**known, "value": value, "input": ["input.txt"]} for c, known in matrix().items()}


def _begin_with_input(case: Case, *options: str, hold: list[str]) -> dict[str, dict[str, Any]]:
    (case.flow.root / "input.txt").write_text("old input")
    cells = _with_values("old")
    case.begin(*options, cells=cells, hold=hold)
    return cells


@fault
def input_changed_while_nobody_looked(case: Case) -> None:
    """SIGKILL of Snakemake, its session ends by itself, its input is changed, the same command"""
    cells = _begin_with_input(case, hold=[HELD])
    case.kill()
    job = case.job(HELD)
    case.finish_alone()
    (case.flow.root / "input.txt").write_text("new input")
    case.process = case.flow.start()
    assert case.finish() == 0
    assert {case.result(cell) for cell in cells} == {"old new input"}
    case.outdated = set(cells)
    case.user = case.saw(r"Updated input files: input.txt|Forced execution")
    case.slurm = case.state(job)


@fault
def parameter_changed_while_nobody_looked(case: Case) -> None:
    """SIGKILL of Snakemake, its session ends by itself, a parameter is changed, the same command"""
    cells = _begin_with_input(case, hold=[HELD])
    done = set(case.flow.count("done"))
    case.kill()
    job = case.job(HELD)
    case.finish_alone()
    case.rewrite(_with_values("new"))
    case.process = case.flow.start()
    assert case.finish() == 0
    assert {case.result(cell) for cell in cells} == {"new old input"}
    assert done < set(cells)
    case.outdated = set(cells)
    case.user, case.slurm = case.saw(r"Params have changed[^\n]*|Forced execution"), case.state(job)


@fault
def parameter_changed_while_it_runs(case: Case) -> None:
    """SIGKILL of Snakemake, a parameter is changed while its session runs, the same command"""
    cells = _begin_with_input(case, hold=[HELD])
    case.kill()
    job, session = case.job(HELD), case.session(HELD)
    case.rewrite(_with_values("new"))
    case.process = case.flow.start()
    case.flow.wait_for(lambda: case.flow.count("begin")[HELD] == 2)
    assert case.state(job) == "CANCELLED"
    assert case.session(HELD) != session
    assert case.finish() == 0
    assert {case.result(cell) for cell in cells} == {"new old input"}
    case.outdated = {cell for cell in cells if cell != "h100x1-2"}
    case.user, case.slurm = case.saw(r"does what is no longer wanted: [^\n]*"), case.state(job)


@fault
def all_forced_after_a_kill(case: Case) -> None:
    """SIGKILL of Snakemake, then the same command with --forceall while its session runs"""
    case.begin()
    case.kill()
    job = case.job(HELD)
    case.process = case.flow.start("--forceall")
    case.flow.wait_for(lambda: case.flow.count("begin")[HELD] == 2)
    assert case.finish() == 0
    case.outdated = {cell for cell in matrix() if cell != "h100x1-2"}
    case.user, case.slurm = case.saw(r"does what is no longer wanted: [^\n]*"), case.state(job)
