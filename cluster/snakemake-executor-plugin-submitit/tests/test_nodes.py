"""A session of several nodes: a runner for each, on this host, without Slurm."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from session_testing import RUN, SessionFolder, mentioning, wait_until

from snakemake_executor_plugin_submitit.nodes import (
    Order,
    OtherNodes,
    Report,
    dismiss,
    give,
    order_in,
    tell,
)
from snakemake_executor_plugin_submitit.spec import Cell, SessionSpec
from snakemake_executor_plugin_submitit.spool import Result

SCONTROL = """#!/bin/sh
echo "NodeName=$4 Arch=x86_64 NodeAddr=10.0.0.$SLURM_NODEID NodeHostName=$4"
"""
PART = """
echo "$SESSION_NODE $SESSION_NODES $SESSION_HOST $SESSION_PORT $SESSION_ADDRESS" >> parts
echo $$ > pid$SESSION_NODE
echo "part $SESSION_NODE up"
[ ! -e fail$SESSION_NODE ] || { echo "no link"; exit 3; }
touch met$SESSION_NODE.$SESSION_PORT
if [ $SESSION_NODE = 0 ]; then
    until [ $(ls met*.$SESSION_PORT | wc -l) = $SESSION_NODES ]; do sleep 0.05; done
    touch $SESSION_DIR/ready
fi
exec sleep 600
"""
"""The command: its parts meet before it is ready, as those of an engine do."""


@dataclass
class Nodes(SessionFolder):
    """The runners of one session, each a process on this host."""

    runners: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def spec(self, *cells: Cell, nodes: int = 2) -> SessionSpec:
        return super().spec(*cells, command=PART, gpus=2, start_limit_s=20, nodes=nodes)

    def start(self, spec: SessionSpec, attempt: int = 0, runners: int | None = None) -> None:
        spec.write()
        for node in range(runners or spec.nodes):
            of_slurm = {
                "SLURM_JOB_ID": "7",
                "SLURM_RESTART_COUNT": str(attempt),
                "SLURM_NODEID": str(node),
                "SLURMD_NODENAME": f"n{node + 1}",
                "PATH": f"{self.root}/bin:{os.environ['PATH']}",
            }
            words = [sys.executable, "-c", RUN, str(spec.folder)]
            self.runners.append(subprocess.Popen(words, env={**os.environ, **of_slurm}))

    def wait(self) -> list[int]:
        """The runners' exit codes; nothing of the session may be left."""
        codes = [runner.wait(40) for runner in self.runners]
        assert mentioning(str(self.root)) == []
        self.runners.clear()
        return codes

    def has(self, name: str) -> Callable[[], bool]:
        return lambda: (self.root / name).exists()

    def kill_part(self, node: int) -> None:
        os.kill(int(self.text(f"pid{node}")), signal.SIGKILL)


@pytest.fixture
def nodes(tmp_path: Path) -> Nodes:
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(SCONTROL)
    scontrol.chmod(0o755)
    return Nodes(tmp_path)


def test_a_command_runs_on_all_nodes_and_cells_on_the_first(nodes: Nodes) -> None:
    where = nodes.cell("a", "echo ${SESSION_NODE-first}")
    spec = nodes.spec(where, nodes.cell("b", "exit 7"), nodes.cell("c", "true"), nodes=3)
    nodes.start(spec)
    assert nodes.wait() == [0, 0, 0]
    assert nodes.results(spec) == {"a": Result(0), "b": Result(7), "c": Result(0)}
    assert nodes.text("a.log") == "first\n"
    parts = sorted(line.split() for line in nodes.text("parts").splitlines())
    port = parts[0][3]
    assert int(port) > 0
    assert parts == [[str(k), "3", "10.0.0.0", port, f"10.0.0.{k}"] for k in range(3)]
    assert spec.spool.starts.read_text().count("\n") == 1
    assert spec.spool.log_of(2).read_text() == "part 2 up\n"


def test_a_part_that_dies_costs_one_cell_and_a_start(nodes: Nodes) -> None:
    lives = "grep -q ') [SR]' /proc/$p/stat"
    waits = f"p=$(cat pid0); touch going; while {lives}; do sleep 0.05; done; exit 4"
    spec = nodes.spec(nodes.cell("a", waits), nodes.cell("b", "echo $SESSION_STATE"))
    nodes.start(spec)
    wait_until(nodes.has("going"))
    nodes.kill_part(1)
    assert nodes.wait() == [0, 0]
    assert nodes.results(spec) == {"a": Result(4), "b": Result(0)}
    assert nodes.text("b.log") == "ready\n"
    said = "session: node 1 (n2): session command was ended by signal 9"
    assert said in spec.spool.log.read_text()
    assert spec.spool.starts.read_text().count("\n") == 2
    assert len(nodes.text("parts").splitlines()) == 4


def test_a_part_that_does_not_start_is_named(nodes: Nodes) -> None:
    (nodes.root / "fail1").touch()
    spec = nodes.spec(nodes.cell("a", "echo $SESSION_STATE; cat $SESSION_DIR/failed; exit 3"))
    nodes.start(spec)
    assert nodes.wait() == [0, 0]
    why = "node 1 (n2): session command exited with 3; its log ends: no link"
    assert nodes.text("a.log") == f"failed\n{why}\n"
    assert spec.spool.starts.read_text().count("\n") == 2


def test_a_part_that_dies_without_a_word_gets_none_of_the_start_before(nodes: Nodes) -> None:
    words = "[ -e told ] || { touch told; echo no link; }"
    command = f"[ $SESSION_NODE = 1 ] || exec sleep 600; {words}; exit 3"
    spec = replace(nodes.spec(nodes.cell("a", "cat $SESSION_DIR/failed")), command=command)
    nodes.start(spec)
    assert nodes.wait() == [0, 0]
    assert nodes.text("a.log") == "node 1 (n2): session command exited with 3\n"


def test_a_node_that_cannot_write_for_a_moment_stays(nodes: Nodes) -> None:
    spec = nodes.spec(nodes.cell("a", "true"))
    in_the_way = spec.folder / ".node-1-7.0.json"  # a folder: nothing can be written there
    in_the_way.mkdir(parents=True)
    nodes.start(spec)
    wait_until(lambda: [*nodes.root.glob("met1.*")])
    in_the_way.rmdir()
    assert nodes.wait() == [0, 0]
    assert nodes.results(spec) == {"a": Result(0)}
    assert (spec.folder / "node-1-7.0.json").exists()


@pytest.mark.parametrize("how", ["signal", "revoked"])
def test_all_nodes_leave_a_session_that_is_ended(nodes: Nodes, how: str) -> None:
    spec = nodes.spec(nodes.cell("a", "touch going; sleep 60"))
    nodes.start(spec)
    wait_until(nodes.has("going"))
    if how == "signal":
        for runner in nodes.runners:  # as Slurm does: to each task
            runner.terminate()
    else:
        spec.spool.revoke()
    assert nodes.wait() == [1, 0]
    assert nodes.results(spec) == {"a": None}
    assert spec.spool.end_reason == ("preempted" if how == "signal" else None)


def test_a_node_that_nobody_reaches_leaves_when_its_session_is_given_up(nodes: Nodes) -> None:
    spec = nodes.spec(nodes.cell("a", "touch going; sleep 60"))
    nodes.start(spec)
    wait_until(nodes.has("going"))
    first = nodes.runners[0]
    (child,) = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGSTOP)  # so that it cannot say anything
    first.kill()
    os.kill(int(child), signal.SIGKILL)
    spec.spool.revoke()
    assert nodes.wait() == [-signal.SIGKILL, 0]


def test_a_node_without_a_runner_is_named(nodes: Nodes) -> None:
    spec = replace(nodes.spec(nodes.cell("a", "cat $SESSION_DIR/failed")), start_limit_s=1)
    nodes.start(spec, runners=1)
    nodes.wait()
    late = "session command was not ready after 1 s; no runner on node 1"
    assert nodes.text("a.log").strip() == late


def test_what_is_left_of_an_attempt_says_nothing_to_the_next(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = nodes.spec()
    spec.write()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    give(Order("new", number=1, run=True), spec.spool)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    dismiss(spec.spool, "old")
    tell(Report("n2"), 1, spec.spool)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert order_in(spec.spool) == Order("new", number=1, run=True)
    assert OtherNodes(spec.spool, 2, "new").unseen() == "node 1"


def test_an_order_that_could_not_be_written_is_given_again(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = nodes.spec()
    spec.write()
    others = OtherNodes(spec.spool, 2, "mine")
    others.start()
    with monkeypatch.context() as full:
        full.setattr("snakemake_executor_plugin_submitit.nodes.write_atomically", no_room)
        with pytest.raises(OSError, match="No space"):
            others.stop()
    others.stop()
    order = order_in(spec.spool)
    assert order is not None and not order.run


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_requeued_session_does_not_follow_the_orders_of_before(nodes: Nodes) -> None:
    once = "echo x >> ran; [ -e again ] || { touch going; sleep 60; }"
    spec = nodes.spec(nodes.cell("a", once), nodes.cell("b", "true"))
    nodes.start(spec)
    wait_until(nodes.has("going"))
    for runner in nodes.runners:
        runner.terminate()
    nodes.wait()
    (nodes.root / "again").touch()
    nodes.start(spec, attempt=1)
    assert nodes.wait() == [0, 0]
    assert nodes.results(spec) == {"a": Result(0), "b": Result(0)}
    assert spec.spool.starts.read_text().count("\n") == 2
