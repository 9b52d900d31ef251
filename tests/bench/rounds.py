"""What one status round costs with 10,000 pending cells, however many have finished.

The real executor's side of Slurm, driven round by round: sessions are submitted, some of them write
the results of all their cells and are collected, the others stay in the queue. sbatch and squeue
are stand-ins that answer at once, so that only the main process is measured. Prints a JSON object
per number of finished cells, all of one main process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from snakemake_executor_plugin_submitit.packing import Request, SessionKey, pack
from snakemake_executor_plugin_submitit.progress.report import Progress
from snakemake_executor_plugin_submitit.site import Site, load_site
from snakemake_executor_plugin_submitit.slurm.cluster import SlurmCluster
from snakemake_executor_plugin_submitit.spec import Cell
from snakemake_executor_plugin_submitit.spool import Result

PER_SESSION = 200
ROUNDS = 50
SITE = """
name: bench
cluster: slurm
max_minutes: 600
max_cells_per_session: 200
max_array_size: 1001
gpus: {h100: {card: FAKE H100, per_node: 4, slurm: {partition: gpu-h100}}}
"""
STAND_INS = {
    "sbatch": "echo x >> sbatch-calls; wc -l < sbatch-calls",
    "squeue": "echo x >> squeue-calls; cat queue",
    "sacct": "",
}


class Queue:
    """A main process's view of Slurm in ``folder``, the working directory, with stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shims = folder / "shims"
        shims.mkdir()
        for name, line in STAND_INS.items():
            (shims / name).write_text(f"#!/bin/sh\n{line}\n")
            (shims / name).chmod(0o755)
        (folder / "queue").touch()
        self.environ = {**os.environ, "PATH": f"{shims}:{os.environ['PATH']}"}
        (folder / "site.yaml").write_text(SITE)
        self.site: Site = load_site(folder / "site.yaml")
        logdir = folder / "log"
        self.said: list[str] = []
        self.progress = Progress(True, self.said.append, logdir, 60.0)
        self.cluster = SlurmCluster(
            self.site, logdir, self.said.append, self.progress, environ=self.environ
        )
        self.pending: list[str] = []

    def submit(self, name: str, count: int) -> list[str]:
        """Submit ``count`` cells in sessions called ``name``; their ids."""
        ids = [f"{name}-{k}" for k in range(count)]
        requests = [
            Request(
                SessionKey(f"{name}-{k // PER_SESSION}", "", "h100", 1),
                Cell(cell, ["true"], self.folder / "cell.log", limit_s=60),
            )
            for k, cell in enumerate(ids)
        ]
        for request in requests:
            self.progress.handed(request)
        self.cluster.submit(self.progress.formed(pack(requests, self.site)))
        self.pending += ids
        self.round()
        self._list_jobs()
        return ids

    def _list_jobs(self) -> None:
        """Have squeue list what has not ended: others it forgets after minutes."""
        followed = self.cluster.follower.followed.values()
        lines = [f"{one.job}|PENDING|Priority|{one.folder.name}" for one in followed]
        (self.folder / "queue").write_text("\n".join(lines))

    def finish(self, name: str) -> None:
        """Have the sessions called ``name`` end well, one a round, and take their results."""
        followed = list(self.cluster.follower.followed.values())
        for one in followed:
            if one.spec.key.rpartition("-")[0] == name:
                for cell in one.spec.cells:
                    Result(0, seconds=1.0).write(one.spec.spool.result(cell.id))
                one.spec.spool.tell()
                self.round()
        self._list_jobs()

    def round(self) -> None:
        """What the executor does in a round, with a call of squeue."""
        self.cluster.follower.next_status = 0.0
        self.cluster.advance()
        self.cluster.released()
        left = []
        for cell in self.pending:  # as Executor.check_active_jobs
            outcome = self.cluster.outcome(cell)
            if outcome is None:
                left.append(cell)
            else:
                self.progress.ended(cell, outcome)
                self.cluster.recorded(cell)
        self.pending = left
        self.progress.look()


def measure(queue: Queue, finished: int) -> dict[str, float]:
    """The cost of a round, in milliseconds of processor time of the main process."""
    costs = []
    for _ in range(ROUNDS):
        began = time.process_time()
        queue.round()
        costs.append(1000 * (time.process_time() - began))
    return {
        "pending_cells": len(queue.pending),
        "finished_cells": finished,
        "median_ms": round(statistics.median(costs), 2),
        "longest_ms": round(max(costs), 2),
    }


def main() -> int:
    """Measure one main process with 10,000 pending cells, as it finishes more and more others."""
    parser = argparse.ArgumentParser(description="A status round, by the number of finished cells.")
    parser.add_argument("finished", type=int, nargs="*", default=[0, 10_000, 40_000])
    with tempfile.TemporaryDirectory(prefix="rounds-") as folder:
        os.chdir(folder)
        queue = Queue(Path(folder))
        os.environ["PATH"] = queue.environ["PATH"]
        queue.submit("waits", 10_000)
        so_far = 0
        for finished in sorted(parser.parse_args().finished):
            name = f"ends{finished}"
            queue.submit(name, finished - so_far)
            queue.finish(name)
            so_far = finished
            print(json.dumps(measure(queue, finished)), flush=True)
        os.chdir("/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
