"""``make bench``: runs the benchmarks and writes docs/generated/speed.md."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.rounds import ROUNDS

TEXT = """\
# Speed of the executor

Written by `make bench` on {date}: {cpus} processors, {system}, a private Slurm whose nodes all run
on this machine. The rows of one table come from one run, one after another: compare ratios, because
seconds depend on the machine.

## No-op jobs

`python -m tests.bench.executors`. Each job is one `touch` with `runtime: 5`. *This executor* runs
with `pack_minutes: 60`: 12 jobs share a Slurm task and run one after another (the default of 10
lets two share). *A task each* is `pack_minutes: 0`. A variant that exceeds its time limit is
stopped; *finished* is what it had completed by then.

{executors}

## Gap between two cells of a session

`python -m tests.bench.gap`. Seconds from the end of one no-op cell's program to the start of the
next, on the same node.

{gap}

## Thousands of pending cells

`python -m tests.bench.scale`. Cells in sessions of 200; half of them wait for a partition that is
down. *Submitted* is the time from starting Snakemake until every session is in the queue. The idle
CPU share is of one processor, over 20 s in which nothing happens.

{scale}

## One status round

`python -m tests.bench.rounds`. Processor time of the main process for one status round, with a
call of squeue, over {rounds} rounds. Cells are in sessions of 200; stand-ins for sbatch and squeue
answer at once. A test counts the function calls of a round: finished cells add none.

{round_costs}
"""


def output_of(module: str) -> str:
    """What a benchmark prints."""
    words = [sys.executable, "-m", f"tests.bench.{module}"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout, flush=True)
    return done.stdout


def as_table(lines: str) -> str:
    """JSON objects of equal keys, one per line, as Markdown."""
    rows = [json.loads(line) for line in lines.splitlines()]
    names = [name.replace("_", " ") for name in rows[0]]
    body = [[f"{value:g}" for value in row.values()] for row in rows]
    cells = [names, ["---"] * len(names), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def main() -> int:
    """Run all and write the page."""
    text = TEXT.format(
        date=datetime.now(UTC).date().isoformat(),
        cpus=os.cpu_count(),
        system=platform.system(),
        executors=output_of("executors").strip(),
        gap=as_table(output_of("gap")),
        scale=as_table(output_of("scale")),
        rounds=ROUNDS,
        round_costs=as_table(output_of("rounds")),
    )
    Path("docs/generated/speed.md").write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
