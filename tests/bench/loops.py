"""GPU-seconds of shell loops around vLLM's own benchmarks, beside the same cells by tpsweep.

    python -m tests.bench.loops SWEEP.yaml [--profile cluster/<site>] [--site .../site.yaml]
        [--only '{tp: 1}'] [--sample 3] [--write docs/generated/speed-loops.md]
    python -m tests.bench.loops SWEEP.yaml ... --kept    (the page of what was run; runs nothing)

A loop starts an engine for every cell, with the cell's engine arguments, as shell loops do:

- latency: vLLM's own ``latency`` benchmark, the cell's iterations, vLLM's default of warm-ups
- capture: the same with ``--profile`` (its torch profiler)
- serve: an API server and vLLM's own ``serve`` benchmark, once

tpsweep runs the same cells as always. Both find vLLM's caches warm: an engine start comes first and
is not counted. With --sample, only that many latency cells of every engine are looped, spread over
its list; the others are reckoned from those and from tpsweep's iteration times. The page says so.

What was run is kept in the sweep's results folder, so an interrupted benchmark goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from tests.bench.loops_page import LOOPS, SESSIONS, WARMUPS, Loop, by_engine, page, read_loops
from tpsweep.core.cell import Cell, Engine
from tpsweep.core.workloads import CAPTURE, LATENCY, SERVE
from tpsweep.engine import vllm_api
from tpsweep.engine.api_server import HOST, free_port
from tpsweep.engine.load_generator import MODEL_NAME
from tpsweep.engine.provenance import usable_cpus
from tpsweep.sweep.sweep import Sweep, load_sweep

LIMIT_S = 900
THEIR_COMMAND = """
from vllm.benchmarks import latency
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
latency.add_cli_args(parser)
latency.main(parser.parse_args())
"""
"""What `vllm bench latency` runs. vLLM's CPU package has no working command of that name."""
BENCH_COMMAND = THEIR_COMMAND.replace("latency", "serve")
"""What `vllm bench serve` runs."""
EXECUTOR_SESSIONS = Path(".snakemake/submitit") / SESSIONS


def their_words(cell: Cell, output: Path, warmups: int, iterations: int) -> list[str]:
    """vLLM's latency benchmark for a cell, as a command."""
    arguments = vllm_api.llm_arguments(cell.engine)
    del arguments["disable_log_stats"]  # tpsweep's need: it reads vLLM's time stamps
    sizes = {
        "batch_size": cell.batch,
        "input_len": cell.input_len,
        "output_len": cell.output_len,
        "num_iters_warmup": warmups,
        "num_iters": iterations,
        "output_json": str(output),
    }
    return [sys.executable, "-c", THEIR_COMMAND, *vllm_api.command_line({**arguments, **sizes})]


def loop(cell: Cell, log: Path, warmups: int = WARMUPS, iterations: int | None = None) -> Loop:
    """Run a cell as the lab's loops do: a process of its own, an engine start of its own."""
    environment = {**os.environ, **vllm_api.engine_env(cell.engine, usable_cpus())}
    with tempfile.TemporaryDirectory() as folder, log.open("ab") as out:
        output = Path(folder) / "theirs.json"
        words = their_words(cell, output, warmups, iterations or cell.repeats)
        began = time.monotonic()
        subprocess.run(words, env=environment, stdout=out, stderr=out, check=True, timeout=LIMIT_S)
        seconds = time.monotonic() - began
        latencies = json.loads(output.read_text("utf-8"))["latencies"]
    return Loop(cell.cell_id, seconds, latencies)


def loop_capture(cell: Cell, log: Path) -> Loop:
    """Run a capture's cell as a process of its own, profiled by vLLM's benchmark."""
    environment = {**os.environ, **vllm_api.engine_env(cell.engine, usable_cpus())}
    with tempfile.TemporaryDirectory() as folder, log.open("ab") as out:
        words = their_words(cell, Path(folder) / "none.json", cell.warmups, cell.repeats)
        config = {"profiler": "torch", "torch_profiler_dir": folder}
        words += ["--profile", f"--profiler-config={json.dumps(config)}"]
        began = time.monotonic()
        subprocess.run(words, env=environment, stdout=out, stderr=out, check=True, timeout=LIMIT_S)
        return Loop(cell.cell_id, time.monotonic() - began, [])


def loop_served(cell: Cell, log: Path) -> Loop:
    """Run a served cell as the lab does: a server of its own, one benchmark, from start to end."""
    environment = {**os.environ, **vllm_api.engine_env(cell.engine, usable_cpus())}
    port = free_port()
    began = time.monotonic()
    with log.open("ab") as out:
        server = subprocess.Popen(
            server_words(cell.engine, port), env=environment, stdout=out, stderr=out
        )
        try:
            wait_until_ready(server, port)
            words = [*bench_words(cell, port), "--request-rate", str(cell.request_rate)]
            subprocess.run(words, env=environment, stdout=out, stderr=out, check=True)
        finally:
            server.terminate()
            server.wait(LIMIT_S)
    return Loop(cell.cell_id, time.monotonic() - began, [])


def server_words(engine: Engine, port: int) -> list[str]:
    """vLLM's API server for an engine, as a command."""
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", HOST]
    words += ["--port", str(port), "--uvicorn-log-level", "warning"]
    return words + vllm_api.command_line(vllm_api.server_arguments(engine, MODEL_NAME))


def bench_words(cell: Cell, port: int) -> list[str]:
    """vLLM's serving benchmark of a cell of random lengths, as a command; without the rate."""
    sizes = {
        "backend": "openai",
        "base_url": f"http://{HOST}:{port}",
        "model": MODEL_NAME,
        "tokenizer": cell.engine.model.path,
        "dataset_name": "random",
        "random_input_len": cell.input_len,
        "random_output_len": cell.output_len,
        "num_prompts": cell.num_prompts,
        "ignore_eos": True,
        "temperature": 0.0,
    }
    return [sys.executable, "-c", BENCH_COMMAND, *vllm_api.command_line(sizes)]


def wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    """Until the server answers. Raises ``ValueError`` if it ends instead."""
    while server.poll() is None:
        url = f"http://{HOST}:{port}/health"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10):
            return
        time.sleep(0.1)
    raise ValueError(f"vLLM's server ended with {server.returncode}")


def spread(cells: Sequence[Cell], count: int | None) -> list[Cell]:
    """``count`` cells, evenly over the list, first and last among them; None: all."""
    if count is None or count >= len(cells):
        return list(cells)
    step = (len(cells) - 1) / max(1, count - 1)
    return [cells[round(k * step)] for k in range(count)]


def run_tpsweep(snakemake: Sequence[str], results: Path) -> None:
    """Run the sweep; what the executor says of its sessions is added to the results."""
    before = EXECUTOR_SESSIONS.stat().st_size if EXECUTOR_SESSIONS.exists() else 0
    subprocess.run([*snakemake, "tables"], check=True)
    with EXECUTOR_SESSIONS.open("rb") as source, (results / SESSIONS).open("ab") as kept:
        source.seek(before)
        kept.write(source.read())


def run_loops(sweep: Sweep, kept: Path, sample: int | None) -> None:
    """Loop the cells that are not in ``kept`` yet, after a start that only warms vLLM's caches."""
    done = read_loops(kept)
    log = kept.with_suffix(".log")
    for cells in by_engine(sweep):
        timed = [cell for cell in cells if cell.workload == LATENCY]
        others = [cell for cell in cells if cell.workload != LATENCY]
        todo = [c for c in [*spread(timed, sample), *others] if c.cell_id not in done]
        if todo:
            loop(timed[0], log, warmups=0, iterations=1)
        for cell in todo:
            found = LOOP[cell.workload](cell, log)
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dataclasses.asdict(found)) + "\n")
            print(f"{cell.path}: {found.seconds:.1f} s", flush=True)


LOOP: Mapping[str, Callable[[Cell, Path], Loop]] = {
    LATENCY: loop,
    CAPTURE: loop_capture,
    SERVE: loop_served,
}
"""Kind of workload -> how the lab's loops run a cell of it."""


def main() -> int:
    """Command line: see the module's text. What is wrong with its input is one line."""
    try:
        return _main()
    except (OSError, ValueError, yaml.YAMLError, subprocess.SubprocessError) as error:
        sys.exit(f"loops: {' '.join(str(error).split())}")


def _main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--profile", default="cluster/local")
    parser.add_argument("--site", default="cluster/local/site.yaml")
    parser.add_argument("--only", help="a part of the sweep, as `only` of docs/config.md")
    parser.add_argument("--sample", type=int, help="loops of every engine; all unless given")
    parser.add_argument("--kept", action="store_true", help="the page of what was run; run nothing")
    parser.add_argument("--write", type=Path, help="file for the page")
    options = parser.parse_args()
    extra = [f"site={options.site}"] + ([f"only={options.only}"] if options.only else [])
    snakemake = [sys.executable, "-m", "snakemake", "--profile", options.profile]
    snakemake += ["--configfile", str(options.sweep), "--config", *extra, "--until"]
    raw = yaml.safe_load(options.sweep.read_text("utf-8"))
    only = {"only": yaml.safe_load(options.only)} if options.only else {}
    sweep = load_sweep({**raw, "site": options.site, **only}, Path.cwd())
    results = Path(sweep.results)
    if not options.kept:
        subprocess.run([*snakemake, "model_folder"], check=True)
        run_loops(sweep, results / LOOPS, options.sample)
        run_tpsweep(snakemake, results)
    text = page(sweep, read_loops(results / LOOPS), f"python -m tests.bench.loops {options.sweep}")
    if options.write:
        options.write.write_text(text, "utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
