"""Benchmark: tables, figures and page of a sweep of 10,000 cells, raw samples included.

Rows are copies of real ones (2x H200: results/smoke, results/published) under other identities,
with times scaled and scattered; each says that it is synthetic.
Run: python -m tests.bench.tables_scale [--write FILE]  (prints JSON lines; writes the page)
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tpsweep.core import manifest
from tpsweep.core.joined_rows import ROWS, keep_part
from tpsweep.core.row_file import read_row, write_row
from tpsweep.results.rows import read_file

ROOT = Path(__file__).parents[2]
TEMPLATES = {
    "latency": "results/published/h200x2/cells/latency",
    "throughput": "results/published/h200x2/cells/throughput",
    "serve": "results/smoke/cells/serve",
}
GPUS = {"H100": 3350.0, "H200": 4800.0, "A100": 2039.0}
"""Datasheet bandwidth in GB/s: what the times of the copies are scaled by."""
MODELS = {"llama-3.1-8b": 1.0, "llama-3.1-70b": 8.8}
TPS, BATCHES, RUNS = (1, 2, 4, 8), (1, 2, 4, 8, 16, 32, 64, 128, 256), (0, 1, 2)
LENGTHS = ((128, 128), (512, 128), (2048, 32), (4096, 256))
VARIANTS = ("default", "eager", "a", "b")
RATES = (1.0, 4.0, 16.0, 64.0)
TIMES = ("_ms", "_s", "_samples")
Row = dict[str, Any]

NOT_JOINED, BY_SESSION = "no", "by session"
TEXT = """\
# Speed of tables, figures and page

Written by `make bench-tables` (`python -m tests.bench.tables_scale`) on {date}: {cpus}
processors, {system}, Python {python}. {cells:,} cells of a full matrix (two models; H100, H200,
A100; TP 1 to 8): copies of real rows under other identities, raw samples included, each labelled
synthetic. {mb:.0f} MB in {cells:,} files. Each command runs in a fresh process, imports included.
The goals are 10 s and 2 GB for all tables (rows joined), 20 s for the page.

| command | rows joined | seconds | CPU seconds | peak memory of a process (GB) |
|---|---|---|---|---|
{lines}

Rows joined: *no*, row files alone (as if somebody had deleted the rest); *by session*, as a sweep
leaves them, each engine start its own; *all*, the next time. Whatever is joined, a file that
changed is read. Tables, figures and page after a sweep: {total:.1f} s. Figures and page read the
tables, never rows. The page is {page:.1f} MB, the figures are {figures} files.
"""


def cells() -> Iterator[Row]:
    """Identities of the matrix; TP=1 has no all-reduce."""
    for gpu, model, tp, run in itertools.product(GPUS, MODELS, TPS, RUNS):
        common = {
            "gpu": gpu,
            "gpu_card": f"NVIDIA {gpu}",
            "model": model,
            "tp": tp,
            "run": run,
            "gpus": tp,
            "replicas": 1,
            "allreduce_backend": "none" if tp == 1 else "custom",
        }
        for variant, (input_len, output_len) in itertools.product(VARIANTS, LENGTHS):
            lengths = {"variant": variant, "input_len": input_len, "output_len": output_len}
            for batch in BATCHES:
                yield {"workload": "latency", **common, **lengths, "batch": batch}
            if (input_len, variant) == (512, "default"):
                yield {"workload": "throughput", **common, **lengths}
                for rate in RATES:
                    yield {"workload": "serve", **common, **lengths, "request_rate": rate}


def make(root: Path) -> list[Row]:
    """Write the results folder; returns its cells."""
    planned = []
    for number, cell in enumerate(cells()):
        cell_id = f"{number:012x}"
        path = f"cells/{cell['workload']}/{cell['gpu']}/{cell['model']}/tp{cell['tp']}/{cell_id}"
        planned.append({**cell, "cell_id": cell_id, "path": f"{path}.parquet"})
    parts = [planned[at : at + 500] for at in range(0, len(planned), 500)]
    with ProcessPoolExecutor() as pool:
        lines = [line for made in pool.map(_write, itertools.repeat(root), parts) for line in made]
    table = pa.Table.from_pylist(lines, schema=manifest.SCHEMA)
    pq.write_table(table, root / "matrix.parquet")
    return planned


def leave_parts(root: Path, planned: list[Row]) -> None:
    """What the sessions of a sweep leave beside their rows: one engine start each."""
    sessions: dict[str, dict[str, str]] = defaultdict(dict)
    for cell in planned:
        sessions[_engine(cell)][cell["cell_id"]] = cell["path"]
    for name, places in sessions.items():
        keep_part(root, name, places)


def _engine(cell: Row) -> str:
    return "-".join(str(cell[axis]) for axis in ("gpu", "model", "tp", "run"))


def _write(root: Path, planned: list[Row]) -> list[Row]:
    """Write the rows of some cells; returns their lines of the manifest."""
    templates = {workload: _template(ROOT / folder) for workload, folder in TEMPLATES.items()}
    lines = []
    for cell in planned:
        identity = {name: value for name, value in cell.items() if name != "path"}
        row = {**_scaled(templates[cell["workload"]], cell), **identity, "synthetic": True}
        row["engine_id"] = _engine(cell)
        write_row(row, root / cell["path"])
        line = {name: row.get(name) for name in manifest.SCHEMA.names}
        lines.append({**line, "path": cell["path"], "status": "planned", "settings": "synthetic"})
    return lines


def _template(folder: Path) -> Row:
    """A real row, in the columns of today."""
    path = sorted(folder.rglob("*.parquet"))[0]
    found: Row = read_file(path, read_row(path)["cell_id"]).to_pylist()[0]
    return found


def _scaled(template: Row, cell: Row) -> Row:
    """Times by model, bandwidth, TP and batch, each sample with 1 % of noise."""
    noise = random.Random(cell["cell_id"])
    scale = MODELS[cell["model"]] * 4800 / GPUS[cell["gpu"]] * (0.3 + 0.7 / cell["tp"])
    scale *= 1 + (cell.get("batch") or 0) / 100

    def of(value: Any) -> Any:
        if isinstance(value, list):
            return [of(item) for item in value]
        return value * scale * noise.gauss(1, 0.01) if isinstance(value, float) else value

    return {
        n: of(v) if n.removesuffix("_samples").endswith(TIMES) else v for n, v in template.items()
    }


def run(command: str, root: Path) -> Row:
    """One command in a process of its own: seconds, CPU seconds, and its largest process."""
    begin = time.perf_counter()
    code = (
        "import resource, sys; from tpsweep.cli.main import main; rc = main(sys.argv[1:]);"
        "used = [resource.getrusage(who) for who in"
        " (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)];"
        "print(sum(u.ru_utime + u.ru_stime for u in used), max(u.ru_maxrss for u in used));"
        "sys.exit(rc)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, command, str(root)], capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - begin
    cpu_s, peak = done.stdout.split()[-2:]
    return {"command": command, "s": seconds, "cpu_s": float(cpu_s), "gb": int(peak) / 1e6}


def main() -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", type=Path, help="write the page here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "results"
        planned = make(root)
        size = sum(path.stat().st_size for path in (root / "cells").rglob("*.parquet")) / 1e6
        found = []
        for command, joined in (
            ("tables", NOT_JOINED),
            ("tables", BY_SESSION),
            ("figures", ""),
            ("page", ""),
            ("tables", "all"),
        ):
            if joined == BY_SESSION:
                (root / ROWS).unlink()
                leave_parts(root, planned)
            found.append({**run(command, root), "joined": joined})
            print(json.dumps(found[-1]), flush=True)
        page = (root / "report.html").stat().st_size / 1e6
        figures = len(list((root / "figures").glob("*.svg")))
    lines = [
        f"| `tpsweep {f['command']}` | {f['joined']} | {f['s']:.1f} | {f['cpu_s']:.1f}"
        f" | {f['gb']:.2f} |"
        for f in found
    ]
    if options.write:
        text = TEXT.format(
            date=datetime.now(UTC).date(),
            cpus=len(os.sched_getaffinity(0)),
            system=platform.system(),
            python=platform.python_version(),
            cells=len(planned),
            mb=size,
            lines="\n".join(lines),
            total=sum(f["s"] for f in found[1:4]),
            page=page,
            figures=figures,
        )
        options.write.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
