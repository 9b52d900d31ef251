"""What the tests share: processes that must be gone, and real Snakemake runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit.spec import Cell, SessionSpec
from snakemake_executor_plugin_submitit.spool import Result

STAND_IN = Path(__file__).with_name("stand_in.py")
RUN = (
    "import sys; from pathlib import Path; "
    "from snakemake_executor_plugin_submitit.runner import run_session_in; "
    "sys.exit(run_session_in(Path(sys.argv[1])) & 255)"
)
OPTIONS = ["--executor", "submitit", "--jobs", "100", "--submitit-gather-seconds", "0.3"]
OPTIONS += ["--submitit-site", "site.yaml"]


def wait_until(condition: Callable[[], object], limit_s: float = 20.0) -> None:
    """Return when ``condition`` holds; fail after ``limit_s``."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"still not so after {limit_s} s"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """The process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def mentioning(text: str) -> list[int]:
    """Processes but this one whose command line or environment holds ``text``."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            held = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if text.encode() in held and is_alive(int(entry.name)):
            found.append(int(entry.name))
    return found


@dataclass
class SessionFolder:
    """Cells, results and logs of a session in a folder of its own."""

    root: Path

    def cell(self, name: str, script: str, **more: Any) -> Cell:
        """A cell that runs a script; its log is ``<name>.log``."""
        return Cell(name, ["bash", "-c", script], self.root / f"{name}.log", **more)

    def spec(self, *cells: Cell, **more: Any) -> SessionSpec:
        """A session of these cells, without a command unless it is given."""
        fields = {"command": None, "gpus": 0, "grace_s": 1.0, **more}
        return SessionSpec(
            id="session-of-a-test",
            key="test",
            cells=list(cells),
            workdir=self.root,
            folder=self.root / "spool",
            **fields,
        )

    @staticmethod
    def results(spec: SessionSpec) -> dict[str, Result | None]:
        """What is known of each cell."""
        return {cell.id: Result.read(spec.spool.result(cell.id)) for cell in spec.cells}

    def text(self, name: str) -> str:
        """Content of a file of the folder."""
        return (self.root / name).read_text()


@dataclass(frozen=True)
class Workflow:
    """A workflow in a folder of its own, run by a real Snakemake with this executor."""

    root: Path

    def write(self, rules: str, site: str = "") -> None:
        """The Snakefile (``COMMAND`` is the stand-in's command line) and a local site."""
        command = f"{sys.executable} {STAND_IN} starts.log"
        (self.root / "Snakefile").write_text(f"COMMAND = {command!r}\n{rules}")
        text = site or "name: here\ncluster: local\ngpus: {cpu: {card: CPU, per_node: 2}}\n"
        (self.root / "site.yaml").write_text(text)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start Snakemake in a process group of its own; stdout and stderr come together."""
        marker = {"TEST_WORKFLOW": str(self.root)}
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *OPTIONS, *arguments],
            cwd=self.root,
            env={**os.environ, **marker, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, ok: bool = True, **environment: str) -> str:
        """Run Snakemake to its end; its output. No process may be left."""
        process = self.start(*arguments, **environment)
        output, _ = process.communicate(timeout=60)
        assert (process.returncode == 0) == ok, output
        assert mentioning(str(self.root)) == [], output
        return output

    def lines(self, name: str) -> list[str]:
        """Lines of a file in the workflow's folder; none if it is not there."""
        path = self.root / name
        return path.read_text().splitlines() if path.exists() else []

    def sessions(self) -> list[dict[str, Any]]:
        """The records of all sessions so far."""
        return [json.loads(line) for line in self.lines(".snakemake/submitit/sessions.jsonl")]
