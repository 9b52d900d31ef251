"""What happens to sessions over two nodes. See ``faults``.

Their command is the stand-in of the plugin's tests: a process on each node that only comes up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.slurm.case import Case, holding
from tests.slurm.fault import ENDED, fault
from tests.slurm.workflow import SITE

SPAN = "spans-1"
SITE_OF_TWO = SITE.replace("FAKE A100, per_node: 2", "FAKE A100, per_node: 2, nodes: 2")


def cells() -> dict[str, dict[str, Any]]:
    """Three of a session over both nodes of a class, and three of a session on one of another."""
    two = {"gpu": "a100", "gpus": 4, "nodes": 2, "session": "spans"}
    one = {"gpu": "h100", "gpus": 1, "session": "one"}
    spans = {f"spans-{k}": {**two, "order": k} for k in range(3)}
    return spans | {f"one-{k}": {**one, "order": k} for k in range(3)}


@fault
def other_node_lost(case: Case) -> None:
    """the second of a session's two nodes dies with all that runs on it, with --retries 1"""
    _lose(case, "a100-2", with_jobs=True)


@fault
def first_node_lost(case: Case) -> None:
    """the first of a session's two nodes dies with all that runs on it, with --retries 1"""
    _lose(case, "a100-1", with_jobs=True)


@fault
def other_node_cut_off_while_it_lives_on(case: Case) -> None:
    """slurmd of a session's second node dies, the session's part there lives on (--retries 1)"""
    _lose(case, "a100-2", with_jobs=False)


@fault
def part_on_other_node_killed(case: Case) -> None:
    """the command's part on a session's second node is killed: it starts again on both nodes"""
    case.begin(hold=[SPAN], cells=cells(), site=SITE_OF_TWO)
    (case.flow.root / f"fail-{SPAN}").write_text("3")
    _wait_for_parts(case)
    for pid in _parts(case.flow.root, "a100-2"):
        case.shell("kill", "-KILL", str(pid))
    case.flow.wait_for(lambda: "session: node 1 (a100-2)" in _log(case))
    assert case.finish() == 1
    session = case.session(SPAN)
    case.flow.wait_for(lambda: session in _starts(case))
    assert _starts(case)[session] == 2
    case.user = case.saw("exit code 3 in session")
    case.slurm = case.state(case.job(SPAN))
    case.cut_off = {SPAN}
    (case.flow.root / f"fail-{SPAN}").unlink()


@fault
def main_process_killed_while_two_nodes_run(case: Case) -> None:
    """SIGKILL of Snakemake with a session over two nodes running, then the same command"""
    case.begin(hold=[SPAN], cells=cells(), site=SITE_OF_TWO)
    case.kill()
    case.process = case.flow.start(*case.options)
    case.flow.wait_for(lambda: "reattached" in case.flow.said())
    assert case.finish() == 0
    session = case.session(SPAN)
    case.flow.wait_for(lambda: session in _starts(case))
    assert _starts(case)[session] == 1
    case.user, case.slurm = case.saw(r"reattached to [^\n]*"), case.state(case.job(SPAN))


def _lose(case: Case, node: str, *, with_jobs: bool) -> None:
    case.begin("--retries", "1", hold=[SPAN], cells=cells(), site=SITE_OF_TWO)
    job, session = case.job(SPAN), case.session(SPAN)
    assert case.node(SPAN) == "a100-1"
    _wait_for_parts(case)
    case.lab.kill_node(node, with_jobs=with_jobs)
    case.flow.wait_for(lambda: f"session {session} (job {job}) ended" in case.flow.said(), 120)
    # On the other node, and on this one.
    case.flow.wait_for(lambda: not holding(f"SESSION_ID={session}"), 30)
    case.lab.start_node(node)
    case.flow.wait_for(lambda: case.flow.count("begin")[SPAN] == 2, 120)
    assert case.finish() == 0
    case.user, case.slurm = f"{case.saw(ENDED)}; retried by itself", case.state(job)
    case.cut_off = {SPAN}


def _starts(case: Case) -> dict[str, int]:
    """Starts of the command of each session that has ended."""
    return {one["session_id"]: one["starts"] for one in case.flow.sessions()}


def _wait_for_parts(case: Case) -> None:
    """The stand-in's first part is ready without the other."""
    nodes = ("a100-1", "a100-2")
    case.flow.wait_for(lambda: all(_parts(case.flow.root, node) for node in nodes))


def _log(case: Case) -> str:
    (log,) = case.logdir.glob("spans-*/session.log")
    return log.read_text()


def _parts(root: Path, node: str) -> list[int]:
    """Processes of the session's command on a node."""
    there = set(holding(f"SLURMD_NODENAME={node}", "stand_in.py"))
    return [pid for pid in holding(f"TEST_WORKFLOW={root}") if pid in there]
