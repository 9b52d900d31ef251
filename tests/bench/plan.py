"""How long ``tpsweep plan`` takes: PACE's full matrix, and 10,000 cells."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
SITE = ROOT / "cluster" / "pace" / "site.yaml"
REPEATS = 5
GOALS_S = {"full matrix": 5, "10,000 cells": 15}

TEXT = """\
# Speed of the plan

Written by `make bench-plan` (`python -m tests.bench.plan`) on {date}: {cpus} processors, {system},
Python {python}. `tpsweep plan --json` for PACE, {repeats} runs each in a fresh process, imports
included. Nothing is measured yet, so every cell is packed, costed and given an expectation.

| matrix | cells | planned | sessions | seconds (median) | min to max | goal (s) |
|---|---|---|---|---|---|---|
{lines}
"""


def ten_thousand() -> dict[str, object]:
    """One workload instead of those of the committed sweep: two models on three classes."""
    config: dict[str, object] = yaml.safe_load((ROOT / "config.yaml").read_text("utf-8"))
    grid = {
        "kind": "latency",
        "batch": list(range(1, 57)),
        "input_len": list(range(64, 704, 64)),
        "output_len": [128],
        "engine": {"max_model_len": 2048, "max_num_seqs": 64, "gpu_memory_utilization": 0.92},
    }
    return {**config, "runs": 1, "tp": [1, 2, 4], "workloads": {"grid": grid}}


def measure(config: Path) -> tuple[float, dict[str, object]]:
    """Seconds of one plan, and what it says."""
    command = [sys.executable, "-m", "tpsweep", "plan", "--site", str(SITE), "--json"]
    began = time.monotonic()
    done = subprocess.run(
        [*command, "--configfile", str(config)],
        stdout=subprocess.PIPE,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PACE_ACCOUNT": "of-a-benchmark"},
    )
    return time.monotonic() - began, json.loads(done.stdout)


def line(name: str, config: dict[str, object], folder: Path) -> str:
    """Measure one matrix, as a line of the table."""
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({**config, "results": str(folder / "results")}), "utf-8")
    runs = [measure(path) for _ in range(REPEATS)]
    seconds, plan = [took for took, _ in runs], runs[0][1]
    cells, cost = plan["cells"], plan["cost"]
    assert isinstance(cells, dict) and isinstance(cost, dict)
    total = sum(cells[state] for state in ("planned", "infeasible", "excluded") if state in cells)
    return (
        f"| {name} | {total} | {cells['planned']} | {cost['sessions']}"
        f" | {statistics.median(seconds):.2f} | {min(seconds):.2f} to {max(seconds):.2f}"
        f" | {GOALS_S[name]} |"
    )


def main() -> int:
    """Print the page, and write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="write the page here")
    options = parser.parse_args()
    full = yaml.safe_load((ROOT / "config.yaml").read_text("utf-8"))
    with tempfile.TemporaryDirectory(prefix="plan-") as folder:
        lines = [
            line("full matrix", full, Path(folder)),
            line("10,000 cells", ten_thousand(), Path(folder)),
        ]
    text = TEXT.format(
        date=datetime.now(UTC).date().isoformat(),
        cpus=os.cpu_count(),
        system=platform.system(),
        python=platform.python_version(),
        repeats=REPEATS,
        lines="\n".join(lines),
    )
    print(text)
    if options.write:
        options.write.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
