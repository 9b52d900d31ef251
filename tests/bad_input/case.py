"""One bad input or fault, tried through the real command line, and what came of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tpsweep.core.row_file import write_row
from tpsweep.sweep.sweep import load_sweep

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "workflow", "scripts", "cluster/local", "cluster/pace")
LIMIT_S = 150
CHROME = re.compile(
    r"(Using profile |Building DAG of jobs|WorkflowError:$|LockException:$"
    r'|  File "[^"]*/snakemake_executor_plugin_submitit/executor.py", line \d+, in __init__$)|$'
)
"""What Snakemake prints around an error. The last: of a plugin that is installed as editable."""
PWNED = "pwned"
"""A file of this name appears if a name from the config is run by a shell."""
Changes = dict[str, Any]


@dataclass(frozen=True)
class Project:
    """A copy of the workflow with the small sweep, whose rows are there: made up, not measured."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        """The sweep's results root."""
        return self.folder / "results"

    @property
    def sweep(self) -> Path:
        """The config that is run."""
        return self.folder / "sweep.yaml"

    def config(self) -> Changes:
        """The config as it is now."""
        config: Changes = yaml.safe_load(self.sweep.read_text("utf-8"))
        return config

    def set(self, path: str, value: Any) -> None:
        """Give the key at ``path`` (``workloads/decode/batch``) of the config another value."""
        config = self.config()
        *parents, last = path.split("/")
        place: Any = config
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = value
        self.sweep.write_text(yaml.safe_dump(config, allow_unicode=True), "utf-8")

    def command(self, *options: str) -> list[str]:
        """The sweep's Snakemake command."""
        words = [sys.executable, "-m", "snakemake", "--profile", "cluster/local"]
        return [*words, "--configfile", "sweep.yaml", *options]

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Start the sweep as a shell would: in a process group of its own."""
        return subprocess.Popen(
            self.command(*options),
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *options: str) -> Ran:
        """Run the sweep to its end."""
        process = self.start(*options)
        try:
            output, _ = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            process.terminate()
            raise
        return Ran(output, process.returncode)

    def rows(self) -> list[Path]:
        """The files of rows, readable or not."""
        return sorted(self.results.glob("cells/**/*.parquet"))

    def finished(self) -> dict[str, bytes]:
        """The rows that can be read: path below the results root -> content."""
        found = {}
        for path in self.rows():
            try:
                pq.ParquetFile(path).read(use_threads=False)
            except (pa.ArrowException, OSError):
                continue
            found[str(path.relative_to(self.results))] = path.read_bytes()
        return found


@dataclass(frozen=True)
class Ran:
    """What a command printed (stdout and stderr, in order) and its exit code."""

    output: str
    code: int


def _run(project: Project) -> Ran:
    return project.run()


@dataclass(frozen=True)
class Case:
    """A bad input or fault.

    ``prepare`` makes it, ``act`` tries it. Then the exit code is ``code``, and exactly one printed
    line holds ``says``; it is the only line, unless the sweep had begun (``is_running``).

    ``tested_in`` names a test that shows the same on an engine that it starts anyway: there
    ``pytest`` tries the case, and by itself only ``make bad-inputs`` does.
    """

    name: str
    wrong: str
    says: str
    prepare: Callable[[Project], object] = lambda project: None
    act: Callable[[Project], Ran] = _run
    code: int = 1
    is_running: bool = False
    needs_vllm: bool = False
    needs_root: bool = False
    tested_in: str = ""


@dataclass(frozen=True)
class Report:
    """What came of a case; ``problems`` is empty if all is as it should be."""

    wrong: str
    line: str
    code: int
    before: int
    after: int
    problems: list[str]
    output: str = ""


def change(path: str, value: Any) -> Callable[[Project], None]:
    """A key of the config with another value."""
    return lambda project: project.set(path, value)


def judge(case: Case, project: Project) -> Report:
    """Try ``case`` in ``project`` (used up by it)."""
    case.prepare(project)
    before = project.finished()
    ran = case.act(project)
    after = project.finished()
    printed = [line for line in ran.output.splitlines() if not CHROME.match(line)]
    # Distinct ones: after a failure `onerror:` makes the tables again, and they say the same.
    # A run ends with its failures once more, below one another.
    said = [line for line in printed if not line.startswith("tpsweep:   ")]
    saying = list(dict.fromkeys(line for line in said if case.says in line))
    problems = []
    if ran.code != case.code:
        problems.append(f"exit code {ran.code}, not {case.code}")
    if len(saying) != 1:
        problems.append(f"{len(saying)} lines say {case.says!r}")
    if not case.is_running and len(printed) != 1:
        problems.append(f"{len(printed)} lines, not one")
    if any(line.startswith(("Traceback", '  File "')) for line in printed):
        problems.append("a traceback")
    problems += [f"lost {path}" for path in before if after.get(path) != before[path]]
    problems += [f"a name was run: {path}" for path in project.folder.rglob(PWNED)]
    line = saying[0].strip() if saying else ""
    shown = line.replace(f"{project.folder}/", "").replace(str(project.folder), ".")
    shown = re.sub(r"process \d+ on \S+", "process ... on ...", shown)
    return Report(case.wrong, shown, ran.code, len(before), len(after), problems, ran.output)


def make_template(folder: Path) -> Project:
    """The project that every case gets a copy of."""
    for part in PARTS:
        source, target = ROOT / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    shutil.copy(ROOT / "cluster/local/sweep.yaml", folder)
    project = Project(folder)
    project.set("runs", 1)
    project.set("workloads/decode/batch", [1, 2])
    # A row can be made up, a capture cannot: theirs are in tests/unit/traces/test_bad_input.py.
    measured = project.config()["workloads"]
    project.set("workloads", {k: v for k, v in measured.items() if v["kind"] != "capture"})
    finish(project)
    return project


def copy_of(template: Project, folder: Path) -> Project:
    """A project of its own for a case; times are kept, as a finished sweep has them."""
    shutil.copytree(template.folder, folder, symlinks=True)
    return Project(folder)


def finish(project: Project, *tps: int) -> None:
    """Put made-up rows of the sweep's cells (of the TPs given, or all) in their places."""
    site = str(project.folder / "cluster/local/site.yaml")
    sweep = load_sweep({**project.config(), "site": site}, project.folder)
    for job in sweep.jobs.values():
        if not tps or job.cell.engine.tp in tps:
            columns = {**job.cell.columns(), "cell_id": job.cell.cell_id, "synthetic": True}
            write_row(columns, project.results / job.cell.path)
