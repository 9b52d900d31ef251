"""One fault on a private Slurm: a workflow broken on purpose, and the count of its cells."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.slurm.lab import Lab
from tests.slurm.workflow import SITE, SlurmWorkflow, matrix

HELD = "h100x1-1"
"""The second of three cells of its session; the faults strike while it runs."""


@dataclass(frozen=True)
class Report:
    """A line of the table. Cells are counted from their own log."""

    fault: str
    slurm: str  # what Slurm said
    user: str  # what the user saw
    lost: int
    twice: int
    together: int  # in two sessions at the same time
    rerun: list[str]
    cut_off: list[str]  # what had to be rerun: the unfinished
    left: int  # processes that outlived their session
    seconds: float

    @property
    def good(self) -> bool:
        """Nothing lost, nothing run twice, exactly the unfinished rerun, no process left."""
        wrong = self.lost or self.twice or self.together or self.left
        return not wrong and self.rerun == self.cut_off


@dataclass
class Case:
    """One fault under way: its Slurm, its workflow, and notes for the report."""

    lab: Lab
    flow: SlurmWorkflow
    cut_off: set[str] = field(default_factory=set)
    outdated: set[str] = field(default_factory=set)  # done, but of what is no longer wanted
    slurm: str = ""
    user: str = ""
    options: list[str] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None

    def begin(
        self,
        *options: str,
        hold: Iterable[str] = (HELD,),
        cells: Mapping[str, Mapping[str, Any]] | None = None,
        site: str = SITE,
        limited: bool = True,
    ) -> None:
        """Start the sweep and wait until the held cells run and the other sessions are done."""
        hold = list(hold)
        cells = matrix() if cells is None else cells
        self.options = list(options)
        self.flow.write(cells, site, limited)
        self.flow.hold(*hold)
        self.process = self.flow.start(*options)
        self.flow.wait_begun(*hold)
        if not hold:
            return
        held_sessions = {cells[cell]["session"] for cell in hold}
        others = {c for c, known in cells.items() if known["session"] not in held_sessions}
        self.flow.wait_for(lambda: others <= set(self.flow.count("done")))
        # A cell that is done is not finished until its session has said so: a node may die between.
        self.flow.wait_for(lambda: len(list(self.logdir.glob("*/*.rc"))) >= len(others))

    def session(self, cell: str) -> str:
        """The session in which a cell began last."""
        return [event.session for event in self.flow.events() if event.cell == cell][-1]

    def job(self, cell: str) -> str:
        """The Slurm job in which a cell began last."""
        return [event.job for event in self.flow.events() if event.cell == cell][-1]

    def with_variables(self, **variables: str) -> None:
        """Have the next Snakemake start with these in its environment."""
        self.flow.environment = {**self.lab.env(), **variables}

    @property
    def logdir(self) -> Path:
        """The executor's folder."""
        return self.flow.root / ".snakemake/submitit"

    def node(self, cell: str) -> str:
        """The node on which a cell began last."""
        return [event.node for event in self.flow.events() if event.cell == cell][-1]

    def call(self, *words: str) -> str:
        """A program of Slurm's; what it printed."""
        done = subprocess.run(
            words, env=self.lab.env(), capture_output=True, text=True, timeout=60, check=False
        )
        return (done.stdout + done.stderr).strip()

    def submit_urgent(self, seconds: int) -> str:
        """A job of a QOS that preempts others takes the one h200 node; its id."""
        words = ["sbatch", "--parsable", "--qos=urgent", "-p", "gpu-h200", "--gres=gpu:h200:4"]
        words += ["-t", "1", "--mem=100M", "-o", "/dev/null", "--wrap", f"sleep {seconds}"]
        return self.call(*words)

    def rewrite(self, cells: Mapping[str, Mapping[str, Any]]) -> None:
        """Change what is wanted of the cells, as a user does who edits the workflow."""
        (self.flow.root / "cells.json").write_text(json.dumps(cells))

    def result(self, cell: str) -> str:
        """What a cell made of its value and its input."""
        return (self.flow.root / f"out/{cell}.txt").read_text().split(maxsplit=1)[1].strip()

    def kill(self) -> None:
        """SIGKILL of Snakemake."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def finish_alone(self) -> None:
        """Let held cells go, and wait until all sessions have ended without a main process."""
        self.flow.let_go(*(path.name[5:] for path in self.flow.root.glob("hold-*")))
        self.flow.wait_for(lambda: not self.call("squeue", "-h", "-o", "%i"))

    def abandon(self) -> None:
        """End what a fault that went wrong left running."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.call("scancel", "--me")

    def interrupt(self) -> None:
        """Ctrl-C: SIGINT to all processes of the terminal."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGINT)

    @staticmethod
    def shell(*words: str, fails: bool = False) -> None:
        """A program of the machine's own."""
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == fails, done.stderr

    def state(self, job: str) -> str:
        """Slurm's last word on a job: the controller's, or accounting's once it has heard of it."""
        live = ("", "RUNNING", "PENDING", "COMPLETING")

        def word() -> str:
            known = self.call("squeue", "-h", "-r", "-t", "all", "-o", "%T", "-j", job)
            if known and "error" not in known and known.split()[-1] not in live:
                return known.split()[-1]
            accounted = self.call("sacct", "-nPX", "-o", "State", "-j", job).splitlines()
            return accounted[-1] if accounted and accounted[-1] not in live else ""

        self.flow.wait_for(word)
        return word()

    def finish(self, limit_s: float = 120) -> int:
        """Let held cells go and wait for Snakemake; its exit code."""
        assert self.process is not None
        self.flow.let_go(*(path.name[5:] for path in self.flow.root.glob("hold-*")))
        return self.wait(limit_s)

    def wait(self, limit_s: float = 120) -> int:
        """Wait for Snakemake; its exit code."""
        assert self.process is not None
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"not done after {limit_s} s:\n{self.flow.said()}") from None

    def saw(self, pattern: str) -> str:
        """The first match in what Snakemake printed; fails if there is none."""
        found = re.search(pattern, self.flow.said())
        assert found, f"{pattern!r} is not in:\n{self.flow.said()}"
        return " ".join(found[0].split())


Fault = Callable[[Case], None]


def judge(fault: Fault, lab: Lab, root: Path) -> Report:
    """Run one fault in ``root``, type the same command again until all is done, and count."""
    case = Case(lab, SlurmWorkflow(root, lab.env()))
    began = time.monotonic()
    try:
        fault(case)
    finally:
        case.abandon()
    lab.wait_idle()
    case.flow.let_go(*(path.name[5:] for path in root.glob("hold-*")))
    code, said = case.flow.run()
    assert code == 0, said
    cells = json.loads((root / "cells.json").read_text())
    begun, done = case.flow.count("begin"), case.flow.count("done")
    return Report(
        fault=(fault.__doc__ or "").strip(),
        slurm=case.slurm,
        user=case.user,
        lost=sum(not (root / f"out/{cell}.txt").exists() for cell in cells),
        twice=sum(times > 1 + (cell in case.outdated) for cell, times in done.items()),
        together=len(case.flow.together()),
        rerun=sorted(cell for cell, times in begun.items() if times > 1),
        cut_off=sorted(case.cut_off | case.outdated),
        left=len(holding(f"TEST_WORKFLOW={root}")),
        seconds=time.monotonic() - began,
    )


def holding(variable: str, program: str = "") -> list[int]:
    """Processes but this one with this in their environment, which a session's inherit from the
    workflow, and this in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                is_held = variable.encode() in (entry / "environ").read_bytes()
                if is_held and program.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found
