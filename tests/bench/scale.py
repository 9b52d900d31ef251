"""How the main process does with thousands of pending cells, on a private Slurm.

Half of the cells wait for a partition without nodes in service, the others run: what a status
round costs is measured before and after they have finished. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.slurm.lab import Lab
from tests.slurm.workflow import SITE, SlurmWorkflow

PER_SESSION = 200
IDLE_S = 20
NO_OP = "mkdir -p out; touch out/{wildcards.c}.txt"


def cells_of(count: int) -> dict[str, dict[str, object]]:
    """Cells in sessions of ``PER_SESSION``; every other session is for the closed partition."""
    classes = ("h200", "h100")
    return {
        f"c{k}": {
            "gpu": classes[k // PER_SESSION % 2],
            "gpus": 1,
            "session": f"s{k // PER_SESSION}",
            "runtime": 0.1,
        }
        for k in range(count)
    }


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> float:
    """The largest resident set of a process so far, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def idle_cost(pid: int) -> float:
    """Processor seconds per second while nothing happens."""
    before = cpu_seconds(pid)
    time.sleep(IDLE_S)
    return (cpu_seconds(pid) - before) / IDLE_S


def measure(lab: Lab, folder: Path, count: int) -> dict[str, float]:
    """One run with ``count`` cells."""
    flow = SlurmWorkflow(folder, lab.env())
    flow.write(cells_of(count), SITE)
    snakefile = folder / "Snakefile"
    text = snakefile.read_text()
    snakefile.write_text(text[: text.index("    params:")] + f'    shell: "{NO_OP}"\n')
    lab.call("scontrol", "update", "partitionname=gpu-h100", "state=down")
    lab.call("scontrol", "update", "partitionname=gpu-h200", "state=down")
    began = time.monotonic()
    limits = [
        "--max-jobs-per-timespan",
        "100000/1s",
        "--scheduler",
        "first-fit",
        "--jobs",
        "100000",
    ]
    process = flow.start(*limits, "--quiet", "rules", "reason")
    try:
        sessions = -(-count // PER_SESSION)
        flow.wait_for(lambda: len(lab.squeue()) == sessions, 300)
        found = {"cells": float(count), "sessions": float(sessions)}
        found["submitted_after_s"] = time.monotonic() - began
        found["idle_cpu_share_all_pending"] = idle_cost(process.pid)
        lab.call("scontrol", "update", "partitionname=gpu-h200", "state=up")
        half = count // 2
        flow.wait_for(lambda: f"{half} of {count + 1} steps" in flow.said(), 900)
        found["half_finished_after_s"] = time.monotonic() - began
        found["idle_cpu_share_half_finished"] = idle_cost(process.pid)
        found["peak_mb"] = peak_mb(process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        subprocess.run(["scancel", "--me"], env=lab.env(), check=False)
        for partition in ("gpu-h100", "gpu-h200"):
            lab.call("scontrol", "update", f"partitionname={partition}", "state=up")
    return {name: round(value, 3) for name, value in found.items()}


def main() -> int:
    """Measure with 1,000 and 10,000 cells, or the numbers given."""
    parser = argparse.ArgumentParser(description="The main process with many pending cells.")
    parser.add_argument("counts", type=int, nargs="*", default=[1000, 10000])
    counts = parser.parse_args().counts
    with tempfile.TemporaryDirectory(prefix="scale-") as folder, Lab(Path(folder, "slurm")) as lab:
        for count in counts:
            place = Path(folder, str(count))
            place.mkdir()
            print(json.dumps(measure(lab, place, count)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
