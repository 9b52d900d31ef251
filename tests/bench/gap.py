"""The gap between two no-op cells of a session: from one program's end to the next one's start."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from snakemake_executor_plugin_submitit.runner import run_session
from snakemake_executor_plugin_submitit.spec import Cell, SessionSpec

CELLS = 101
NOW = "import time; print(time.time())"
NO_OP = f"{sys.executable} -S -c '{NOW}'; {sys.executable} -S -c '{NOW}'"


def main() -> int:
    """Run one session of no-op cells; one JSON object on stdout."""
    with tempfile.TemporaryDirectory(prefix="gap-") as name:
        folder = Path(name)
        cells = [Cell(str(k), ["bash", "-c", NO_OP], folder / f"{k}.log") for k in range(CELLS)]
        command = "touch $SESSION_DIR/ready; sleep 600"
        spool = folder / "session"
        run_session(SessionSpec("bench", "bench", command, cells, 0, folder, spool))
        times = [[float(t) for t in cell.log.read_text().split()] for cell in cells]
    gaps = [start - end for (_, end), (start, _) in pairwise(times)]
    found = {"cells": CELLS, "median_s": statistics.median(gaps), "longest_s": max(gaps)}
    print(json.dumps({key: round(value, 4) for key, value in found.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
