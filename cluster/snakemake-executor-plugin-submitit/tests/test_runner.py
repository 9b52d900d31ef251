"""The runner with real processes, without Snakemake."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from session_testing import (
    RUN,
    STAND_IN,
    SessionFolder,
    is_alive,
    mentioning,
    wait_until,
)

from snakemake_executor_plugin_submitit.processes import start_time
from snakemake_executor_plugin_submitit.spec import Cell, SessionSpec
from snakemake_executor_plugin_submitit.spool import Result


class Bench(SessionFolder):
    """Starts runners in a folder of their own."""

    def spec(self, *cells: Cell, command: str | None = None, **more: Any) -> SessionSpec:
        if command is not None:
            command = f"{sys.executable} {shlex.quote(str(STAND_IN))} starts.log {command}"
        return super().spec(*cells, command=command, **more)

    def start(self, spec: SessionSpec) -> subprocess.Popen[bytes]:
        spec.write()
        environment = {**os.environ, "TEST_BENCH": str(self.root)}
        return subprocess.Popen([sys.executable, "-c", RUN, str(spec.folder)], env=environment)

    def run(self, spec: SessionSpec) -> dict[str, Result | None]:
        process = self.start(spec)
        process.wait(40)
        assert mentioning(str(self.root)) == []
        return self.results(spec)

    def starts(self) -> int:
        return len(self.text("starts.log").splitlines())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_environment_of_cells_and_results(bench: Bench) -> None:
    show = "echo $SESSION_ID $SESSION_ORDER $SESSION_STATE $GIVEN ${GONE-unset}"
    show += "; stat -c%a $SESSION_DIR"
    cells = [bench.cell("a", show), bench.cell("b", f"{show}; exit 7")]
    os.environ["GONE"] = "here"
    try:
        spec = bench.spec(*cells, command="", environment={"GIVEN": "x y", "GONE": None})
        assert bench.run(spec) == {"a": Result(0), "b": Result(7)}
    finally:
        del os.environ["GONE"]
    assert bench.text("a.log") == "session-of-a-test 0 ready x y unset\n700\n"
    assert bench.text("b.log").startswith("session-of-a-test 1 ready")
    assert "stand-in up" in spec.spool.log.read_text()
    record = json.loads(bench.text("sessions.jsonl"))
    assert record["starts"] == 1
    assert record["cells"] == ["a", "b"]
    assert record["started_at"] < record["ended_at"]


def test_folders_are_made_and_stale_files_removed(bench: Bench) -> None:
    stale = bench.root / "deep" / "er" / "row"
    stale.parent.mkdir(parents=True)
    stale.touch()
    cell = bench.cell("a", "test ! -e deep/er/row", stale=[stale], folders=[bench.root / "new/one"])
    assert bench.run(bench.spec(cell)) == {"a": Result(0)}
    assert (bench.root / "new/one").is_dir()


def test_command_that_dies_is_started_again(bench: Bench) -> None:
    kill = "touch $SESSION_DIR/left; kill -9 $(cat $SESSION_DIR/pid); exit 1"
    say = "echo $SESSION_ORDER $SESSION_STATE"
    spec = bench.spec(bench.cell("a", say), bench.cell("b", kill), bench.cell("c", say), command="")
    assert bench.run(spec) == {"a": Result(0), "b": Result(1), "c": Result(0)}
    assert bench.text("c.log") == "2 ready\n"
    assert bench.starts() == 2
    # The folder of the second start holds nothing of the first.
    assert spec.spool.log.read_text() == "stand-in up, 1 files\n" * 2


def test_command_that_says_it_takes_no_more_is_started_again(bench: Bench) -> None:
    cells = [bench.cell("a", "rm $SESSION_DIR/ready"), bench.cell("b", "echo $SESSION_STATE")]
    bench.run(bench.spec(*cells, command=""))
    assert bench.text("b.log") == "ready\n"
    assert bench.starts() == 2


@pytest.mark.parametrize(
    ("flag", "limit_s", "why"),
    [
        ("--fail", None, "session command exited with 1 before it was ready"),
        ("--hang", 0.6, "session command was not ready after 1 s"),
    ],
)
def test_two_failed_starts(bench: Bench, flag: str, limit_s: float | None, why: str) -> None:
    say = "echo $SESSION_STATE; cat $SESSION_DIR/failed; exit 3"
    cells = [bench.cell(name, say) for name in "abc"]
    results = bench.run(bench.spec(*cells, command=flag, start_limit_s=limit_s))
    assert results == dict.fromkeys("abc", Result(3))
    assert bench.text("c.log") == f"failed\n{why}\n"
    assert bench.starts() == 2


def test_cell_over_its_limit(bench: Bench) -> None:
    polite = "trap 'sleep 0.3; cat $SESSION_DIR/cell_end_reason; exit 0' TERM; sleep 60 & wait"
    stubborn = "trap '' TERM; sleep 60"
    spec = bench.spec(
        bench.cell("a", polite, limit_s=0.6),
        bench.cell("b", stubborn, limit_s=0.6),
        bench.cell("c", "test ! -e $SESSION_DIR/cell_end_reason; echo $SESSION_STATE"),
        command="",
    )
    results = bench.run(spec)
    assert results["a"] == Result(0, "timeout")
    assert not results["a"].ok
    assert results["b"] == Result(-signal.SIGKILL, "timeout")
    assert results["c"] == Result(0)
    assert bench.text("a.log") == "timeout"
    assert bench.text("c.log") == "ready\n"
    assert bench.starts() == 3  # a killed cell may have left anything in the command


def test_a_program_slow_to_end_is_not_cut_off_when_its_shell_is_gone(bench: Bench) -> None:
    writer = bench.root / "writer.py"
    writer.write_text(
        "import signal, sys, time\n"
        "def end(*_):\n    time.sleep(0.5); print('wrote my failure', flush=True); sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, end)\ntime.sleep(60)\n"
    )
    cell = bench.cell("a", f"{sys.executable} {writer}; true", limit_s=1.0)
    bench.run(bench.spec(cell))
    assert bench.text("a.log") == "wrote my failure\n"


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGTERM, "preempted"), (signal.SIGINT, "cancelled")]
)
def test_signal_ends_cell_and_command(bench: Bench, number: int, reason: str) -> None:
    trap = "trap 'cat $SESSION_DIR/cell_end_reason; exit 1' TERM; touch running; sleep 60 & wait"
    spec = bench.spec(bench.cell("a", trap), bench.cell("b", "true"), command="--stray strays")
    process = bench.start(spec)
    wait_until((bench.root / "running").exists)
    os.kill(int(spec.spool.pid.read_text()), number)
    assert process.wait(30) == 1  # the cell that is cut off would sleep for 60 s
    # Cut off: no result, so that whoever runs the session again runs it too.
    assert bench.results(spec) == {"a": None, "b": None}
    assert spec.spool.end_reason == reason
    assert bench.text("a.log") == reason
    assert not is_alive(int(bench.text("strays")))
    assert mentioning(str(bench.root)) == []


def test_a_session_run_again_skips_what_has_ended(bench: Bench) -> None:
    cut = "echo a >> ran; if [ -e again ]; then exit 0; fi; touch running; sleep 60"
    cells = [bench.cell("a", "echo a >> first"), bench.cell("b", cut), bench.cell("c", "true")]
    spec = bench.spec(*cells, command="")
    process = bench.start(spec)
    wait_until((bench.root / "running").exists)
    process.terminate()
    process.wait(10)
    (bench.root / "again").touch()
    assert bench.run(spec) == dict.fromkeys("abc", Result(0))
    assert bench.text("first") == "a\n"
    assert bench.text("ran") == "a\na\n"
    assert spec.spool.end_reason is None
    assert bench.starts() == 2


def test_a_revoked_session_ends_itself_and_never_starts_again(bench: Bench) -> None:
    spec = bench.spec(bench.cell("a", "touch running; sleep 60"), command="--stray strays")
    process = bench.start(spec)
    wait_until((bench.root / "running").exists)
    spec.spool.revoke()
    assert process.wait(10) == 1
    assert bench.results(spec) == {"a": None}
    assert mentioning(str(bench.root)) == []
    (bench.root / "running").unlink()
    assert bench.run(spec) == {"a": None}
    assert not (bench.root / "running").exists()


def test_outputs_are_marked_as_incomplete_until_somebody_has_recorded_them(bench: Bench) -> None:
    marks = {name: bench.root / "marks" / name for name in "abc"}
    look = "test -e marks/{0} && exit {1}"
    cells = [
        bench.cell("a", look.format("a", 0), markers=[marks["a"]]),
        bench.cell("b", look.format("b", 3), markers=[marks["b"]]),
        bench.cell("c", "rm marks/c", markers=[marks["c"]]),  # as a nested Snakemake does
    ]
    assert bench.run(bench.spec(*cells)) == {"a": Result(0), "b": Result(3), "c": Result(0)}
    assert all(mark.exists() for mark in marks.values())


def test_engine_and_cells_share_a_session_of_the_kernel(bench: Bench) -> None:
    # Field 4 after the name in /proc/PID/stat: one group of the scheduler (autogroup) for all.
    session = "s=$(cat /proc/$$/stat); set -- ${s##*)}; echo $4 >> kernel_sessions"
    engine = f"bash -c {shlex.quote(session + '; touch $SESSION_DIR/ready; sleep 60')}"
    spec = replace(
        bench.spec(bench.cell("a", session), bench.cell("b", session)),
        command=f"cd {shlex.quote(str(bench.root))} && {engine}",
    )
    bench.run(spec)
    found = bench.text("kernel_sessions").split()
    assert len(found) == 3 and len(set(found)) == 1


@pytest.mark.parametrize("victim", ["supervisor", "worker"])
def test_nothing_survives_a_sigkill(bench: Bench, victim: str) -> None:
    script = (
        "echo $SESSION_DIR > place; setsid bash -c 'echo $$ > cell_stray; sleep 600' & sleep 60"
    )
    spec = bench.spec(bench.cell("a", script), command="--stray strays")
    process = bench.start(spec)
    wait_until(lambda: (bench.root / "cell_stray").exists() and bench.text("cell_stray"))
    supervisor = int(spec.spool.pid.read_text())
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    os.kill(supervisor if victim == "supervisor" else int(children[0]), signal.SIGKILL)
    process.wait(10)
    wait_until(lambda: mentioning(str(bench.root)) == [])
    assert not is_alive(int(bench.text("strays")))
    assert not is_alive(int(bench.text("cell_stray")))
    assert not Path(bench.text("place").strip()).exists()
    if victim == "worker":
        assert bench.results(spec) == {"a": None}
        assert spec.spool.end_reason == "crash"


def test_what_a_cell_leaves_in_the_background_is_gone_before_the_next(bench: Bench) -> None:
    leave = bench.cell("a", "sleep 600 & echo $! > pid")
    look = bench.cell("b", "kill -0 $(cat pid) && grep State /proc/$(cat pid)/status; true")
    bench.run(bench.spec(leave, look))
    assert "sleeping" not in bench.text("b.log")


def test_nothing_survives_the_normal_end(bench: Bench) -> None:
    stray = "setsid bash -c 'echo $$ > cell_stray; exec sleep 600' & sleep 0.5; sleep 600 & true"
    spec = bench.spec(bench.cell("a", stray), command="--stray strays")
    assert bench.run(spec) == {"a": Result(0)}  # run() itself looks for what is left
    assert not is_alive(int(bench.text("strays")))
    assert not is_alive(int(bench.text("cell_stray")))


def test_session_ends_with_the_watched_process(bench: Bench) -> None:
    watched = subprocess.Popen(["sleep", "600"])
    started = start_time(watched.pid)
    assert started is not None
    spec = bench.spec(
        bench.cell("a", "touch running; sleep 60"), command="", watched=(watched.pid, started)
    )
    process = bench.start(spec)
    wait_until((bench.root / "running").exists)
    watched.kill()
    watched.wait()
    process.wait(10)
    assert bench.results(spec) == {"a": None}
    assert spec.spool.end_reason == "cancelled"
    assert mentioning(str(bench.root)) == []


def test_a_long_tmpdir_still_gives_a_socket_path(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = bench.root / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    bench.run(bench.spec(bench.cell("a", "echo $SESSION_DIR")))
    assert len(bench.text("a.log").strip()) < 90


def test_gap_between_two_cells(bench: Bench) -> None:
    cells = [bench.cell(f"c{number}", "date +%s.%N") for number in range(11)]
    bench.run(bench.spec(*cells, command=""))
    times = [float(bench.text(f"c{number}.log")) for number in range(11)]
    gaps = [after - before for before, after in pairwise(times)]
    print(f"gap between no-op cells: median {sorted(gaps)[5]:.3f} s, longest {max(gaps):.3f} s")
    assert sorted(gaps)[5] < 0.5


def test_a_node_does_not_wait_for_snakemake() -> None:
    slow = "{'snakemake', 'pydantic', 'snakemake_interface_executor_plugins'}"
    code = "import snakemake_executor_plugin_submitit.runner, sys; "
    code += f"print(sorted({slow} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_variables_of_the_environment_are_the_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_NODE", "/local/$HOME")
    bench = Bench(tmp_path)
    given = {"CACHE": "${OF_THE_NODE}/a:$OF_THE_NODE", "COST": "$$5", "GONE": None}
    cell = bench.cell("a", 'printf "%s\\n" "$CACHE" "$COST" > out')
    assert bench.run(bench.spec(cell, environment=given))["a"] == Result(0)
    assert bench.text("out") == "/local/$HOME/a:/local/$HOME\n$5\n"


@pytest.mark.parametrize("command", [None, ""])
def test_a_variable_that_the_node_lacks_is_named(tmp_path: Path, command: str | None) -> None:
    bench = Bench(tmp_path)
    spec = bench.spec(bench.cell("a", "touch ran"), command=command, environment={"C": "$NOPE/x"})
    result = bench.run(spec)["a"]
    assert result is not None and not result.ok
    assert "environment: C: '$NOPE/x': $NOPE is not set here" in bench.text("a.log")
    assert not (tmp_path / "ran").exists()
