"""A workflow of small cells on a private Slurm, which keep a log of their own.

The cells compute nothing. Each appends to ``cells.log`` when it begins, when it is done, and when
it ends one way or another: what the faults are counted from, whatever Snakemake says.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PLUGIN_TESTS = ROOT / "cluster/snakemake-executor-plugin-submitit/tests"
STAND_IN = PLUGIN_TESTS / "stand_in.py"
MATRIX = [("h100", 1), ("h100", 2), ("h200", 4), ("a100", 1)]

SITE = """
name: lab
cluster: slurm
status_seconds: 1
lost_minutes: 0.2
max_minutes: 30
parallel: 8
slurm: {mem: 300M}
gpus:
  h100: {card: FAKE H100, per_node: 4, slurm: {partition: gpu-h100, gres: "gpu:h100:{n}"}}
  h200: {card: FAKE H200, per_node: 4, slurm: {partition: gpu-h200, gres: "gpu:h200:{n}"}}
  a100: {card: FAKE A100, per_node: 2, slurm: {partition: gpu-a100, gres: "gpu:a100:{n}"}}
"""

# A cell waits while ``hold-<cell>`` is there: tests stop the world at a cell by it.
SNAKEFILE = """
import json
CELLS = json.load(open("cells.json"))
rule all:
    input: [f"out/{{c}}.txt" for c in CELLS]
rule cell:
    input: lambda w: CELLS[w.c].get("input", [])
    output: "out/{{c}}.txt"
    resources:
        gpu_type=lambda w: CELLS[w.c]["gpu"], gpus=lambda w: CELLS[w.c]["gpus"],
        nodes=lambda w: CELLS[w.c].get("nodes", 1),
        runtime=lambda w: CELLS[w.c].get("runtime", 2), session_runtime=1,
        session=lambda w: CELLS[w.c]["session"],
        session_command=lambda w: CELLS[w.c].get("command", {command!r}),
        session_order=lambda w: CELLS[w.c].get("order", 0),
        failure_record=lambda w: f"failures/{{w.c}}.json"
    params: cell="{{c}}", value=lambda w: CELLS[w.c].get("value", "none")
    shell: "bash cell.sh {{params.cell:q}} {{output:q}} {{params.value:q}} {{input:q}}"
"""

LIMIT = '        runtime=lambda w: CELLS[w.c].get("runtime", 2), session_runtime=1,\n'

CELL = """
set -u
job="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
where="$job ${SLURMD_NODENAME:--} ${CUDA_VISIBLE_DEVICES:--} ${SLURM_JOB_PARTITION:--}"
LC_ALL=C  # a point in the time, not a comma
# By the shell: a signal to the whole group would kill `date`, and a line would have no time.
say() { echo "$1 $2 $SESSION_ID $where $EPOCHREALTIME" >> cells.log; }
mkdir -p out
say begin "$1"
trap 'say end "$1"' EXIT
trap 'exit 1' TERM
[ "$SESSION_STATE" = ready ] || exit 9
while [ -e "hold-$1" ]; do sleep 0.1; done
if [ -e "fail-$1" ]; then exit "$(cat "fail-$1")"; fi
eat='import time; held = bytearray(900 << 20); time.sleep(60)'
if [ -e "eat-$1" ]; then exec python3 -c "$eat"; fi
echo "$SESSION_ID $3 $(cat "${4:-/dev/null}")" > "out/.$1" && mv "out/.$1" "$2" && say done "$1"
"""


def _hear_ctrl_c() -> None:
    """What a shell starts in the background ignores SIGINT, and so does all below it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def matrix(per_session: int = 3) -> dict[str, dict[str, Any]]:
    """Cells of one session per line of ``MATRIX``."""
    return {
        f"{gpu}x{gpus}-{k}": {"gpu": gpu, "gpus": gpus, "session": f"{gpu}x{gpus}", "order": k}
        for gpu, gpus in MATRIX
        for k in range(per_session)
    }


@dataclass
class Event:
    """A line of ``cells.log``."""

    what: str
    cell: str
    session: str
    job: str
    node: str
    devices: str
    partition: str
    at: float


@dataclass
class SlurmWorkflow:
    """A workflow in a folder of its own; ``environment`` is that of its Slurm."""

    root: Path
    environment: Mapping[str, str]

    def write(
        self, cells: Mapping[str, Mapping[str, Any]], site: str = SITE, limited: bool = True
    ) -> None:
        """Write the Snakefile, the cells and the site; cells have a run time limit if asked."""
        command = f"{sys.executable} {STAND_IN} starts.log"
        text = SNAKEFILE.format(command=command)
        if not limited:
            text = text.replace(LIMIT, "")
        (self.root / "Snakefile").write_text(text)
        (self.root / "cells.json").write_text(json.dumps(cells))
        (self.root / "cell.sh").write_text(CELL)
        (self.root / "site.yaml").write_text(site)

    def start(self, *options: str, inside: Iterable[str] = ()) -> subprocess.Popen[str]:
        """Start Snakemake in a process group of its own; its output goes to ``said.log``.

        ``inside``: words of a program that starts it.
        """
        words = [sys.executable, "-m", "snakemake", "--executor", "submitit", "--nolock"]
        words += ["--jobs", "1000", "--submitit-site", "site.yaml", "--rerun-incomplete"]
        words += ["--submitit-gather-seconds", "0.5", "--keep-going", "--latency-wait", "2"]
        with (self.root / "said.log").open("ab") as output:
            return subprocess.Popen(
                [*inside, *words, *options],
                cwd=self.root,
                env={**self.environment, "TEST_WORKFLOW": str(self.root)},
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                preexec_fn=_hear_ctrl_c,
            )

    def run(self, *options: str, limit_s: float = 120) -> tuple[int, str]:
        """Run Snakemake to its end: its exit code and what it said."""
        before = self.said()
        process = self.start(*options)
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"not done after {limit_s} s:\n{self.said()}") from None
        return code, self.said()[len(before) :]

    def said(self) -> str:
        """All that Snakemake has printed so far."""
        path = self.root / "said.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def events(self) -> list[Event]:
        """The cells' own log."""
        path = self.root / "cells.log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [Event(*line.split()[:-1], at=float(line.split()[-1])) for line in lines]

    def count(self, what: str) -> Counter[str]:
        """How often each cell began, or was done."""
        return Counter(event.cell for event in self.events() if event.what == what)

    def hold(self, *cells: str) -> None:
        """Have cells wait once they have begun."""
        for cell in cells:
            (self.root / f"hold-{cell}").touch()

    def let_go(self, *cells: str) -> None:
        """Have them go on."""
        for cell in cells:
            with contextlib.suppress(FileNotFoundError):
                (self.root / f"hold-{cell}").unlink()

    def wait_for(self, condition: Callable[[], object], limit_s: float = 60) -> None:
        """Return when ``condition`` holds; fail with what Snakemake said after ``limit_s``."""
        end = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end, f"still not so after {limit_s} s:\n{self.said()}"
            time.sleep(0.1)

    def wait_begun(self, *cells: str) -> None:
        """Return when all of ``cells`` have begun."""
        self.wait_for(lambda: set(cells) <= set(self.count("begin")))

    def together(self) -> list[str]:
        """Cells that two sessions ran at the same time."""
        events = self.events()
        last = {(event.cell, event.session): event.at for event in events}
        begun: dict[str, list[Event]] = {}
        for event in events:
            if event.what == "begin":
                begun.setdefault(event.cell, []).append(event)
        return [
            cell
            for cell, starts in begun.items()
            if any(
                one.session != other.session and one.at < other.at < last[cell, one.session]
                for one in starts
                for other in starts
            )
        ]

    def starts(self) -> int:
        """Starts of the session command so far."""
        path = self.root / "starts.log"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def sessions(self) -> list[dict[str, Any]]:
        """The records of sessions that have ended."""
        path = self.root / ".snakemake/submitit/sessions.jsonl"
        return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []
