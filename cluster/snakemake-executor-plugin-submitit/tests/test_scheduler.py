"""The scheduler, pure and in a real Snakemake."""

from __future__ import annotations

from types import SimpleNamespace

from session_testing import Workflow

from snakemake_scheduler_plugin_first_fit import Scheduler


def job(name: str, priority: int = 0, **needs: int) -> SimpleNamespace:
    return SimpleNamespace(name=name, priority=priority, scheduler_resources=needs)


def chosen(jobs: list[SimpleNamespace], **room: int) -> str:
    scheduler = Scheduler(SimpleNamespace(), None, None)
    return "".join(job.name for job in scheduler.select_jobs(jobs, jobs, room, {}))


def test_what_fits_in_order_of_priority() -> None:
    jobs = [
        job("a", _cores=2),
        job("b", 5, _cores=2),
        job("c", _cores=1),
        job("d", _cores=1, mem=9),
    ]
    assert chosen(jobs, _cores=9, mem=9) == "bacd"
    assert chosen(jobs, _cores=9, mem=8) == "bac"
    assert chosen(jobs, _cores=3, mem=9) == "bc"
    assert chosen(jobs, _cores=0, mem=9) == ""


def test_in_a_workflow(workflow: Workflow) -> None:
    workflow.write(
        """
rule all:
    input: expand("{i}.txt", i=range(20))
rule cell:
    output: "{i}.txt"
    resources: session="s"
    shell: "echo {wildcards.i} >> ran.log; touch {output}"
"""
    )
    workflow.run("--scheduler", "first-fit")
    assert sorted(map(int, workflow.lines("ran.log"))) == list(range(20))
    assert len(workflow.sessions()) == 1
