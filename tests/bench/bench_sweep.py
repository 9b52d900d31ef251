"""GPU-seconds and results of `vllm bench sweep serve`, beside the same serving cells by tpsweep.

    python -m tests.bench.bench_sweep [SWEEP.yaml] [--profile cluster/<site>] [--site .../site.yaml]
        [--write docs/generated/speed-serve.md]

Both share a server between the cells of an engine. Theirs: vLLM's own sweep, with the same engine
arguments, request counts, lengths, rates and warm-ups, a run per arrival seed; its GPU-seconds are
from the start of each server to its end, as it says them. Ours: a session's, as the executor says
them. Both find vLLM's caches warm. What was measured by tpsweep is kept in the results folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tests.bench.loops import bench_words, run_tpsweep, server_words
from tests.bench.loops_page import SESSIONS, session_seconds
from tpsweep.core.cell import Cell
from tpsweep.core.row_file import read_row
from tpsweep.engine import vllm_api
from tpsweep.engine.api_server import free_port
from tpsweep.engine.provenance import usable_cpus
from tpsweep.sweep.sweep import Sweep, load_sweep

BEGIN, END = "[BEGIN SERVER]", "[END SERVER]"

SHARED = """.
The engine's ranks and the client share this machine's processors, which at TP=2 are all taken"""
TEXT = """\
# `vllm bench sweep serve` beside tpsweep

Written by `{command}` on {date}: {machine}, vLLM {vllm}. The same serving cells, {seeds} arrival
seeds each, one server per engine both ways. GPU-seconds are the seconds from an engine's start to
its end, times its GPUs{note}.

| TP | cells | vllm bench sweep (GPU-s) | tpsweep (GPU-s) | ratio |
|---|---|---|---|---|
{lines}

`vllm bench sweep serve` measures serving alone. It starts a client process for each run, which
imports vLLM while the server waits; tpsweep's client is up before the first cell. Where its server
is all that is wanted, and runs are long against that import, the two cost the same.

## The same cell both ways

Medians of the seeds' medians, and output tokens/s; each side on its own engine start{shared}.

| TP | rate | TTFT p50 (ms) theirs, ours | ITL p50 (ms) theirs, ours | tok/s theirs, ours |
|---|---|---|---|---|
{agreement}

Seeds' values in the order above, theirs / ours:

{samples}
"""


@dataclass(frozen=True)
class Theirs:
    """One engine's cells by vLLM's sweep: seconds of its server, its runs by request rate."""

    server_s: float
    runs: dict[str, list[dict[str, Any]]]


def by_engine(sweep: Sweep) -> Iterator[list[Cell]]:
    """The cells of every engine; they are all ``serve`` of random lengths."""
    cells: dict[str, list[Cell]] = {}
    for path in sweep.wanted:
        cell = sweep.jobs[path].cell
        if cell.workload != "serve" or cell.dataset != "random":
            raise ValueError(f"workload: {cell.workload}, allowed: serve of random lengths")
        cells.setdefault(cell.engine.session, []).append(cell)
    yield from cells.values()


def run_theirs(cells: Sequence[Cell], folder: Path) -> Theirs:
    """vLLM's sweep over the request rates of one engine's cells."""
    engine, first = cells[0].engine, cells[0]
    port = free_port()
    server, bench = server_words(engine, port), bench_words(first, port)
    rates = folder / "rates.json"
    rates.write_text(json.dumps([{"request_rate": str(cell.request_rate)} for cell in cells]))
    words = [sys.executable, "-u", "-m", "vllm.benchmarks.sweep.serve"]
    words += ["--serve-cmd", shlex.join(server), "--bench-cmd", shlex.join(bench)]
    words += ["--after-bench-cmd", "true", "--bench-params", str(rates)]
    words += ["--num-runs", str(first.repeats), "--warmup-num-prompts", str(first.warmups)]
    words += ["--output-dir", str(folder), "--experiment-name", "theirs"]
    environment = {**os.environ, **vllm_api.engine_env(engine, usable_cpus())}
    stamps: dict[str, float] = {}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if line.strip() in (BEGIN, END):
                stamps[line.strip()] = time.monotonic()
    if process.returncode or END not in stamps:
        raise ValueError(f"vllm bench sweep serve ended with {process.returncode}")
    runs: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((folder / "theirs").glob("*/run=*.json")):
        run = json.loads(path.read_text("utf-8"))
        runs.setdefault(str(float(run["request_rate"])), []).append(run)
    return Theirs(stamps[END] - stamps[BEGIN], runs)


def page(sweep: Sweep, found: dict[str, Theirs], command: str) -> str:
    """The page as Markdown."""
    results = Path(sweep.results)
    lines, agreement, samples = [], [], []
    groups = list(by_engine(sweep))
    for cells in groups:
        engine = cells[0].engine
        theirs = found[engine.session]
        ours_s = session_seconds(results / SESSIONS, engine)
        spent = engine.gpus * theirs.server_s, engine.gpus * ours_s
        lines.append(
            f"| {engine.tp} | {len(cells)} | {spent[0]:.0f} | {spent[1]:.0f} |"
            f" {spent[0] / spent[1]:.2f} |"
        )
        for cell in cells:
            row = read_row(results / cell.path)
            runs = theirs.runs[str(cell.request_rate)]
            pairs = {
                "TTFT": ([r["median_ttft_ms"] for r in runs], row["ttft_p50_ms_samples"]),
                "ITL": ([r["median_itl_ms"] for r in runs], row["itl_p50_ms_samples"]),
                "tok/s": ([r["output_throughput"] for r in runs], row["output_tok_s_samples"]),
            }
            middles = [f"{_middle(a)}, {_middle(b)}" for a, b in pairs.values()]
            agreement.append(f"| {engine.tp} | {cell.request_rate} | {' | '.join(middles)} |")
            lists = (f"{name} {_listed(a)} / {_listed(b)}" for name, (a, b) in pairs.items())
            samples.append(f"- TP={engine.tp}, {cell.request_rate}: {'; '.join(lists)}")
    engine = groups[0][0].engine
    return TEXT.format(
        command=command,
        date=datetime.now(UTC).date().isoformat(),
        machine=engine.gpu_card,
        vllm=engine.vllm_version,
        seeds=groups[0][0].repeats,
        note=" (here processors that stand for them)" if engine.gpu_card == "CPU" else "",
        shared=SHARED if engine.gpu_card == "CPU" else "",
        lines="\n".join(lines),
        agreement="\n".join(agreement),
        samples="\n".join(samples),
    )


def _middle(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f}"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def main() -> int:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sweep", type=Path, nargs="?", default=Path("tests/bench/bench_sweep.yaml"))
    parser.add_argument("--profile", default="cluster/local")
    parser.add_argument("--site", default="cluster/local/site.yaml")
    parser.add_argument("--write", type=Path, help="file for the page")
    options = parser.parse_args()
    raw = yaml.safe_load(options.sweep.read_text("utf-8"))
    sweep = load_sweep({**raw, "site": options.site}, Path.cwd())
    snakemake = [sys.executable, "-m", "snakemake", "--profile", options.profile]
    snakemake += ["--configfile", str(options.sweep), "--config", f"site={options.site}", "--until"]
    subprocess.run([*snakemake, "model_folder"], check=True)
    found = {}
    for cells in by_engine(sweep):
        with tempfile.TemporaryDirectory() as folder:
            found[cells[0].engine.session] = run_theirs(cells, Path(folder))
    run_tpsweep(snakemake, Path(sweep.results))
    text = page(sweep, found, f"python -m tests.bench.bench_sweep {options.sweep}")
    if options.write:
        options.write.write_text(text, "utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
