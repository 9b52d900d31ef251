"""No-op jobs on a private Slurm: this executor beside its peers, in one run.

``python -m tests.bench.executors [N ...]`` prints a Markdown table. Peers: one bare submitit array
(nothing of Snakemake), and snakemake-executor-plugin-slurm, without arrays and with them. A run
that is not done after ``LIMIT_S`` is ended and counted by what it had finished. ``--ways`` measures
some of them only; ``--phases`` says on stderr when each part of this executor's run was done.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.slurm.lab import Lab

LIMIT_S = 140
SPOOLS = Path(".snakemake", "submitit")
SITE = """
name: lab
cluster: slurm
status_seconds: 2
max_minutes: 120
parallel: 1000
pack_minutes: PACK
gpus: {cpu: {card: CPU, per_node: 16, slurm: {partition: gpu-h100, mem: 300M}}}
"""
SNAKEFILE = """
rule all:
    input: expand("out/{i}", i=range(COUNT))
rule cell:
    output: "out/{i}"
    resources: runtime=5, mem_mb=MEM, slurm_partition="gpu-h100", slurm_account="perf"
    shell: "mkdir -p out; touch {output}"
"""
BARE = """
import logging, sys
import submitit
logging.getLogger("submitit").setLevel(logging.CRITICAL)
def no_op(number):
    return number
executor = submitit.SlurmExecutor("logs")
executor.update_parameters(time=5, mem="300M", partition="gpu-h100", array_parallelism=1000)
jobs = executor.map_array(no_op, range(int(sys.argv[1])))
assert [job.result() for job in jobs] == list(range(int(sys.argv[1])))
"""
COMMON = ["--jobs", "1000", "--max-jobs-per-timespan", "100000/1s", "--quiet", "all"]
SLURM = ["--executor", "slurm", *COMMON]


@dataclass(frozen=True)
class Way:
    """One way to run the jobs: its command, and what it gives a job of memory (MB)."""

    name: str
    words: Callable[[int], list[str]]
    mem_mb: int = 300
    pack_minutes: int = 60  # of this executor's site: 12 jobs of 5 minutes in one

    @property
    def is_bare(self) -> bool:
        """The one that the others are compared with."""
        return self.name.startswith("bare")


@dataclass(frozen=True)
class Run:
    """How one run went: seconds, jobs finished, Slurm tasks (None where they are not known)."""

    took_s: float
    finished: int
    tasks: int | None = None
    phases: str = ""


def snakemake(*options: str) -> Callable[[int], list[str]]:
    """A Snakemake command line."""
    return lambda _: [sys.executable, "-m", "snakemake", *options]


OURS = ["--executor", "submitit", "--submitit-site", "site.yaml", "--scheduler", "first-fit"]
WAYS = [
    Way("bare submitit array", lambda count: [sys.executable, "bare.py", str(count)]),
    Way("Snakemake alone (dry run)", snakemake("-n", "--quiet", "all")),
    Way("this executor", snakemake(*OURS, *COMMON)),
    Way("this executor, a task each", snakemake(*OURS, *COMMON), pack_minutes=0),
    # Each of its jobs starts two more Snakemakes, which need this much memory.
    Way("slurm plugin, arrays", snakemake(*SLURM, "--slurm-array-jobs", "all"), 900),
    Way("slurm plugin, defaults", snakemake(*SLURM), 900),
]


def phases_of(spools: Path, began: float, ended: float) -> str:
    """When each part of this executor's run was done, in seconds from its start."""

    def times(pattern: str) -> list[float]:
        return sorted(path.stat().st_mtime for path in spools.glob(pattern))

    # Not from sessions.jsonl: the last sessions may still be ending when Snakemake is done.
    starts, results = times("*/runner.pid"), times("*/*.rc")
    moments = {
        "sbatch called": times("*/submission.sh")[0],
        "first session": starts[0],
        "last session": starts[-1],
        "first result": results[0],
        "last result": results[-1],
        "Snakemake over": ended,
    }
    return ", ".join(f"{what} {moment - began:.2f}" for what, moment in moments.items())


def measure(lab: Lab, folder: Path, way: Way, count: int) -> Run:
    """Run ``count`` jobs in ``way``."""
    (folder / "site.yaml").write_text(SITE.replace("PACK", str(way.pack_minutes)))
    (folder / "bare.py").write_text(BARE)
    text = SNAKEFILE.replace("COUNT", str(count)).replace("MEM", str(way.mem_mb))
    (folder / "Snakefile").write_text(text)
    lab.wait_idle()
    with (folder / "log").open("wb") as log:
        began, began_at = time.monotonic(), time.time()
        process = subprocess.Popen(
            way.words(count),
            cwd=folder,
            env=lab.env(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            took, ended_at = time.monotonic() - began, time.time()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            subprocess.run(["scancel", "--me"], env=lab.env(), check=False)
    finished = len(list((folder / "out").glob("*"))) if (folder / "out").exists() else 0
    if process.returncode == 0 and way.name.startswith(("bare", "Snakemake")):
        finished = count  # bare: its results were compared; dry run: nothing to finish
    if way.is_bare:
        return Run(took, finished, count)
    if not way.name.startswith("this") or process.returncode != 0:
        return Run(took, finished)
    spools = folder / SPOOLS
    tasks = len(list(spools.glob("*/spec.json")))
    return Run(took, finished, tasks, phases_of(spools, began_at, ended_at))


def row(count: int, way: Way, run: Run, bare_s: float | None) -> str:
    """A line of the table."""
    ended = "" if run.took_s < LIMIT_S else "> "
    ratio = "" if bare_s is None else f"{ended}{run.took_s / bare_s:.1f}"
    tasks = "" if run.tasks is None else run.tasks
    return (
        f"| {count} | {way.name} | {tasks} | {ended}{run.took_s:.1f} | {ratio} "
        f"| {run.finished} of {count} |"
    )


def main() -> int:
    """Measure all ways for all numbers of jobs; a table on stdout."""
    parser = argparse.ArgumentParser(description="Executors side by side.")
    parser.add_argument("counts", type=int, nargs="*", default=[24, 500])
    names = [way.name for way in WAYS]
    known = f"which to measure: {', '.join(repr(name) for name in names)}"
    parser.add_argument(
        "--ways", nargs="+", choices=names, default=names, metavar="WAY", help=known
    )
    parser.add_argument("--phases", action="store_true", help="times of each part, on stderr")
    options = parser.parse_args()
    ways = [way for way in WAYS if way.name in options.ways]
    with tempfile.TemporaryDirectory(prefix="executors-") as top, Lab(Path(top, "slurm")) as lab:
        print("| no-op jobs | way | Slurm tasks | seconds | ratio to the bare array | finished |")
        print("|---|---|---|---|---|---|", flush=True)
        for count in options.counts:
            bare_s = None
            for number, way in enumerate(ways):
                folder = Path(top, f"{count}-{number}")
                folder.mkdir()
                run = measure(lab, folder, way, count)
                bare_s = run.took_s if way.is_bare else bare_s
                print(row(count, way, run, bare_s), flush=True)
                if options.phases and run.phases:
                    print(f"{count}, {way.name}: {run.phases}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
