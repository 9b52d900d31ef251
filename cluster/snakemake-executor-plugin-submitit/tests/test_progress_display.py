"""The display: on a pseudo-terminal, with real Snakemake runs, and in plain lines."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from screen import Screen
from session_testing import OPTIONS, Workflow, mentioning

from snakemake_executor_plugin_submitit.progress.terminal import Block

SWEEP = """
rule all:
    input: expand("out/{m}/{i}.txt", m=["a", "b"], i=range(4))
rule cell:
    output: "out/{m}/{i}.txt"
    resources:
        gpu_type="cpu", gpus=1, runtime=2, session=lambda w: w.m,
        session_command=COMMAND, session_runtime=1, session_order=lambda w: int(w.i)
    shell: "sleep 0.6; test {wildcards.m}{wildcards.i} != a2 && touch {output}"
"""
COLUMNS, ROWS = 100, 30
WIDE = "wider than the lines of the log, which have to wipe it"


class Pty:
    """A pseudo-terminal of 100 columns; what is written to it is read as it comes."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        size = struct.pack("HHHH", ROWS, COLUMNS, 0, 0)
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, size)
        self.output = ""

    def read(self, seconds: float) -> str:
        """All output so far, after so many seconds more or when nobody can write any more."""
        end = time.monotonic() + seconds
        while (rest := end - time.monotonic()) > 0:
            if not select.select([self.ours], [], [], rest)[0]:
                break
            try:
                data = os.read(self.ours, 65536)
            except OSError:  # nobody has it open any more
                break
            self.output += data.decode()
        return self.output

    @property
    def screen(self) -> list[str]:
        return Screen(COLUMNS, ROWS).feed(self.output).text


def run_in_pty(
    workflow: Workflow,
    *arguments: str,
    when: Callable[[str], bool] = lambda output: False,
    **environment: str,
) -> Pty:
    """Snakemake on a pseudo-terminal; Ctrl-C is typed ``when`` the output so far is so."""
    terminal = Pty()
    process = subprocess.Popen(
        [sys.executable, "-m", "snakemake", *OPTIONS, "--scheduler", "first-fit", *arguments],
        cwd=workflow.root,
        env={**os.environ, "TERM": "xterm", "TEST_WORKFLOW": str(workflow.root), **environment},
        stdin=terminal.theirs,
        stdout=terminal.theirs,
        stderr=terminal.theirs,
        start_new_session=True,
    )
    os.close(terminal.theirs)
    end = time.monotonic() + 60
    interrupted = False
    while process.poll() is None:
        assert time.monotonic() < end, terminal.output
        terminal.read(0.2)
        if not interrupted and when(terminal.output):
            interrupted = True
            os.killpg(process.pid, signal.SIGINT)
    terminal.read(0.5)
    os.close(terminal.ours)
    assert mentioning(str(workflow.root)) == []
    return terminal


def test_lines_of_others_come_out_whole_above_the_block() -> None:
    terminal = Pty()
    stream = os.fdopen(terminal.theirs, "w")
    handler = logging.StreamHandler(stream)
    block = Block(stream)
    block.install(handler)
    record = logging.LogRecord("x", logging.INFO, "", 0, "", (), None)
    before = threading.active_count()

    def say(name: str) -> None:
        for number in range(100):
            made = logging.makeLogRecord({**record.__dict__, "msg": f"{name} line {number}"})
            handler.handle(made)

    def draw() -> None:
        for number in range(100):
            block.show([f"total {number} {WIDE}", *(f"  session {k}" for k in range(number % 7))])
            time.sleep(0.001)

    # None of them reads: whoever holds the block's lock waits for a full terminal to be emptied.
    threads = [threading.Thread(target=say, args=(name,)) for name in ("one", "two")]
    threads.append(threading.Thread(target=draw))
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            terminal.read(0.01)
        thread.join()
    terminal.read(0.1)
    shown = terminal.screen
    lines = [f"{name} line {number}" for name in ("one", "two") for number in range(100)]
    assert sorted(shown) == sorted([*lines, f"total 99 {WIDE}", "  session 0"])
    assert shown[-2:] == [f"total 99 {WIDE}", "  session 0"]
    # Half a line of somebody else's is not drawn upon.
    assert handler.stream.write("half") == 4
    block.show(["total 100"])
    handler.stream.write(" a line\n")
    handler.flush()
    terminal.read(0.1)
    assert terminal.screen[-2:] == ["half a line", "total 100"]
    block.remove()
    block.remove()
    terminal.read(0.1)
    assert sorted(terminal.screen) == sorted([*lines, "half a line"])
    assert handler.stream is stream
    assert threading.active_count() == before
    stream.close()


def test_a_terminal_that_is_gone_is_no_error() -> None:
    terminal = Pty()
    stream = os.fdopen(terminal.theirs, "w")
    block = Block(stream)
    os.close(terminal.ours)
    block.show(["total"])
    block.remove()


def test_plain_lines_where_there_is_no_terminal(workflow: Workflow) -> None:
    workflow.write(SWEEP)
    said = workflow.run("--keep-going", "--submitit-progress-seconds", "1", ok=False)
    assert "\x1b" not in said
    lines = re.findall(r"^submitit: .*", said, re.MULTILINE)
    assert 3 <= len(lines) <= 10, said
    assert re.fullmatch(r"submitit: 7 of 8 jobs done, 1 failed; \d+ s", lines[-1])
    # Of a start of the command, too, though it was over before anybody looked.
    assert re.search(r"; 1 session running.*; about \d+ s left$", "\n".join(lines), re.M)
    assert "at least" not in said
    assert re.search(r"^session a-\w+: 4 jobs, 3 done, 1 failed, \d+ s$", said, re.M)
    assert re.search(r"^session b-\w+: 4 jobs, 4 done, \d+ s$", said, re.M)
    # Only what this run was handed is counted; a minute is the default, so there is one line.
    (workflow.root / "out/a/2.txt").touch()
    (workflow.root / "out/b/3.txt").unlink()
    said = workflow.run()
    [line] = re.findall(r"^submitit: .*", said, re.MULTILINE)
    assert line.startswith("submitit: 1 of 1 jobs done; ")


def test_block_on_a_terminal_leaves_nothing_behind(workflow: Workflow) -> None:
    workflow.write(SWEEP)
    terminal = run_in_pty(workflow, "--keep-going")
    assert "\x1b[J" in terminal.output
    assert re.search(r"submitit: \d of 8 jobs done.*1 session running, 1 waiting", terminal.output)
    assert re.search(r"  a-\w+  \d of 4 done.*runs for \d+ s; about \d+ s left", terminal.output)
    # What is on the screen is what the log file has, which never saw a block; but the first lines,
    # which come before there is a log file, and the last, which come after it.
    [log] = (workflow.root / ".snakemake/log").glob("*.log")
    written = [line.rstrip() for line in log.read_text().splitlines() if line.strip()]
    shown = [line for line in terminal.screen if line.strip()]
    assert [line for line in written if len(line) <= COLUMNS and line not in shown] == []
    joined = "".join(shown).replace(" ", "")  # a long line is on several, cut anywhere
    assert [line for line in written if line.replace(" ", "") not in joined] == []
    assert [line for line in shown if line.startswith("submitit: ")] == [
        line for line in written if line.startswith("submitit: ")
    ]
    assert not [line for line in shown if " runs for " in line or " starts for " in line]


def test_ctrl_c_leaves_nothing_of_the_block(workflow: Workflow) -> None:
    workflow.write(SWEEP.replace("sleep 0.6", "sleep 30"))
    terminal = run_in_pty(workflow, when=lambda output: " runs for " in output)
    shown = terminal.screen
    assert not [line for line in shown if " runs for " in line]
    [last] = [line for line in shown if line.startswith("submitit: ")]
    assert re.fullmatch(r"submitit: 0 of 8 jobs done, 8 left; \d+ s", last)


@pytest.mark.parametrize(
    ("arguments", "environment", "lines"),
    [
        (["--submitit-progress", "plain"], {}, 1),
        (["--submitit-progress", "none"], {}, 0),
        (["--quiet", "progress"], {}, 0),
        ([], {"TERM": "dumb"}, 1),
    ],
)
def test_no_block_where_it_is_not_wanted(
    workflow: Workflow, arguments: list[str], environment: dict[str, str], lines: int
) -> None:
    workflow.write(SWEEP.replace("range(4)", "range(1)"))
    terminal = run_in_pty(workflow, *arguments, **environment)
    assert "\x1b[J" not in terminal.output
    assert terminal.output.count("submitit: ") == lines
    assert ("session a-" in terminal.output) and (Path(workflow.root) / "out/b/0.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--submitit-progress", "bar"], "submitit-progress: 'bar', allowed: auto, plain, none"),
        (["--submitit-progress-seconds", "-1"], "submitit-progress-seconds: -1.0, allowed: >= 0"),
    ],
)
def test_wrong_settings(workflow: Workflow, arguments: list[str], said: str) -> None:
    workflow.write(SWEEP)
    output = workflow.run(*arguments, ok=False)
    assert said in output
    assert "Traceback" not in output
