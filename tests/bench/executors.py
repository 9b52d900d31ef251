"""No-op jobs on a private Slurm: this executor beside its peers, in one run.

``python -m tests.bench.executors [N ...]`` prints a Markdown table. Peers: one bare submitit array
(nothing of Snakemake), and snakemake-executor-plugin-slurm, without arrays and with them. A run
that is not done after ``LIMIT_S`` is ended and counted by what it had finished.
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
SITE = """
name: lab
cluster: slurm
status_seconds: 2
max_minutes: 10
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


def measure(lab: Lab, folder: Path, way: Way, count: int) -> tuple[float, int]:
    """Seconds that ``way`` takes for ``count`` jobs, and how many it finished."""
    (folder / "site.yaml").write_text(SITE.replace("PACK", str(way.pack_minutes)))
    (folder / "bare.py").write_text(BARE)
    text = SNAKEFILE.replace("COUNT", str(count)).replace("MEM", str(way.mem_mb))
    (folder / "Snakefile").write_text(text)
    lab.wait_idle()
    with (folder / "log").open("wb") as log:
        began = time.monotonic()
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
            took = time.monotonic() - began
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            subprocess.run(["scancel", "--me"], env=lab.env(), check=False)
    finished = len(list((folder / "out").glob("*"))) if (folder / "out").exists() else 0
    if process.returncode == 0 and way.name.startswith(("bare", "Snakemake")):
        finished = count  # bare: its results were compared; dry run: nothing to finish
    return took, finished


def main() -> int:
    """Measure all ways for all numbers of jobs; a table on stdout."""
    parser = argparse.ArgumentParser(description="Executors side by side.")
    parser.add_argument("counts", type=int, nargs="*", default=[24, 500])
    counts = parser.parse_args().counts
    with tempfile.TemporaryDirectory(prefix="executors-") as top, Lab(Path(top, "slurm")) as lab:
        print("| no-op jobs | way | seconds | ratio to the bare array | finished |")
        print("|---|---|---|---|---|", flush=True)
        for count in counts:
            bare = 0.0
            for number, way in enumerate(WAYS):
                folder = Path(top, f"{count}-{number}")
                folder.mkdir()
                took, finished = measure(lab, folder, way, count)
                bare = bare or took
                ended = "" if took < LIMIT_S else "> "
                print(
                    f"| {count} | {way.name} | {ended}{took:.1f} | {ended}{took / bare:.1f} "
                    f"| {finished} of {count} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
