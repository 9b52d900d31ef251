"""TraceLens and HolisticTraceAnalysis beside ``tpsweep comm``, on the same torch traces.

    python -m tests.bench.trace_peers TRACELENS_PYTHON HTA_PYTHON [--write FILE]

Both arguments are interpreters of environments that hold one peer each, so that this project's
packages stay as they are: HolisticTraceAnalysis is in the package registry; AMD's TraceLens is not
(the ``tracelens`` there is another program), its README says how to get it. Each tool runs as its
users run it, in a fresh process, all in turn; its own output is read for what it found.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CAPTURE = Path(__file__).parents[1] / "data/captures/llama8b-tp2-bs1-h200x2.json"
RANK = ".rank{}.pt.trace.json.gz"
COPIES = (1, 8)
REPEATS = 5

# What its README's first lines do, and the one report that tells kinds of kernels apart.
HTA = """
import json, sys
from hta.trace_analysis import TraceAnalysis
analysis = TraceAnalysis(trace_files=dict(enumerate(sys.argv[1:])))
kinds, kernels = analysis.get_gpu_kernel_breakdown(visualize=False, num_kernels=1000)
kernels["count"] = (kernels["sum (us)"] / kernels["mean (us)"]).round()
print("FOUND", kernels[["name", "kernel_type", "rank", "count"]].to_json(orient="records"))
"""
START = """
import json, os, sys, time
started = time.perf_counter()
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(child, 0)
told = time.perf_counter() - started, usage.ru_maxrss, os.waitstatus_to_exitcode(status)
with open(sys.argv[1], "w") as file:
    json.dump(told, file)
"""
VERSION = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"

TEXT = """\
# TraceLens and HolisticTraceAnalysis beside `tpsweep comm`

Written by `python -m tests.bench.trace_peers` on {date}: {cpus} processors, {system}, Python
{python}; TraceLens {tracelens}, HolisticTraceAnalysis {hta}. The torch traces in
`tests/data/captures` (8B, TP=2, batch 1, one request, on 2x H200) as the profiler wrote them, and
the same repeated {most} times in time. Each tool ran {repeats} times, in turn, each run in a fresh
process, imports included: `tpsweep comm`, TraceLens's multi-rank collective report (to CSV), and
HolisticTraceAnalysis's `get_gpu_kernel_breakdown`. Both ranks are read in every run.

| capture | | tpsweep | TraceLens | HTA |
|---|---|---|---|---|
{speed}

Memory is of the largest process; HTA reads each rank in a process of its own. Seconds, min to max:
{ranges}.

## What they find

Transfer is the shortest duration of a collective over the ranks, for tpsweep as for TraceLens. In
the prefill a copy into the all-reduce's buffer precedes each kernel, about 1.5 µs: tpsweep takes it
for a part of the all-reduce, TraceLens reports the kernel alone.

| capture | | tpsweep | TraceLens | HTA |
|---|---|---|---|---|
{found}

HTA's row counts the all-reduce kernels of rank 0 that it calls communication. It knows `nccl*`;
vLLM's custom all-reduce is `cross_device_reduce`, which it calls computation.

TraceLens's report is of the whole capture. Here its rows of single collectives were put into steps
of {per_step} and the first step of each request taken for the prefill. Its
`TraceLens_split_inference_trace` divides a rank's trace into prefill and decode by vLLM's
annotations; that is a command per rank before the report, not counted in the seconds above.

## Where the peers are ahead

- TraceLens covers more than communication: time per operator and shape, rooflines, a tree of calls,
  traces compared, operators replayed; also JAX and rocprofv3 captures. `tpsweep comm` looks at
  engine steps and their collectives alone.
- TraceLens says which rank arrives last at how many collectives, how far starts and ends are apart,
  and has a row for every collective. `tpsweep comm` gives the wait of each rank and step.
- Where the trace tells a message's size (NCCL in eager mode), TraceLens takes the bandwidth from it
  and shows each size apart. tpsweep reckons with the size that the model's shape says.
- All-to-all of unequal parts (experts in parallel) has a report of its own in TraceLens.
- HTA finds stragglers, queue lengths, idle times by cause and critical paths of training traces.

## Where `tpsweep comm` is ahead

- It counts: a step of this model has {per_step} all-reduces, and a capture with another number
  fails the self-check. A peer that lacks a kernel's name reports less communication, and no error.
- It knows the kernels of FlashInfer, symmetric memory, quick reduce and other engines. This version
  of TraceLens takes kernels with `nccl`, `rccl` or `cross_device_reduce` in their names; its
  library, not its command, can be given further patterns.
- It gives every term of a step (compute, transfer, wait, all-gather, gap) per phase, and they sum
  to the step.
- It reads Nsight Systems captures and vLLM's CPU traces. The peers read neither.
- It reads captures cut by `tools.cut_captures`; TraceLens needs the launch ids that the cut drops.
"""


@dataclass(frozen=True)
class Traces:
    """Torch traces of one capture, by rank, and how often it was repeated in time."""

    copies: int
    files: tuple[Path, ...]

    @property
    def label(self) -> str:
        """What the page calls it."""
        return "as captured" if self.copies == 1 else f"{self.copies} times"


@dataclass(frozen=True)
class Found:
    """What a tool found: all-reduces over the capture, and the transfer of one, per phase (us)."""

    all_reduces: int
    decode_us: float | None = None
    prefill_us: float | None = None


@dataclass(frozen=True)
class Run:
    """One run of one tool."""

    seconds: float
    peak_mb: float
    found: Found


@dataclass(frozen=True)
class Shape:
    """What the capture's sidecar tells of its steps."""

    per_step: int
    steps: int


def repeat(source: Path, target: Path, copies: int) -> None:
    """Write a torch trace ``copies`` times in time, with ids of their own for each copy."""
    with gzip.open(source, "rt", encoding="utf-8") as file:
        trace = json.load(file)
    timed = [event for event in trace["traceEvents"] if event.get("ph") != "M"]
    rest = [event for event in trace["traceEvents"] if event.get("ph") == "M"]
    begin = min(event["ts"] for event in timed)
    shift = max(event["ts"] + event.get("dur", 0) for event in timed) - begin + 1e5
    trace["traceEvents"] = rest + [_moved(e, n, shift) for n in range(copies) for e in timed]
    with gzip.open(target, "wt", encoding="utf-8", compresslevel=1) as file:
        json.dump(trace, file)


def _moved(event: dict[str, Any], copy: int, shift: float) -> dict[str, Any]:
    ids, moved = 10_000_000 * copy, {**event, "ts": event["ts"] + copy * shift}
    if isinstance(event.get("id"), int):
        moved["id"] = event["id"] + ids
    if "args" in event:
        moved["args"] = {
            name: value + ids if name in ("correlation", "External id") else value
            for name, value in event["args"].items()
        }
    return moved


def timed(words: Sequence[str | Path]) -> tuple[float, float, str]:
    """Seconds, the largest process's peak memory (MB) and the output of a command that must pass.

    A small process starts it: a child's peak is never less than that of the process before it.
    """
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.json"
        done = subprocess.run(
            [sys.executable, "-S", "-c", START, told, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
        seconds, peak_kb, code = json.loads(told.read_text("utf-8"))
    if code:
        raise ValueError(f"{words[0]} ended with {code}:\n{done.stdout}")
    return seconds, peak_kb / 1e3, done.stdout


def tpsweep(traces: Traces, shape: Shape) -> Run:
    """``tpsweep comm`` of both ranks."""
    seconds, peak, text = timed([sys.executable, "-m", "tpsweep", "comm", *traces.files, "--json"])
    report = json.loads(text[text.index("{") :])
    phases = report["phases"]
    steps = sum(phase["steps"] for phase in phases.values())
    return Run(
        seconds,
        peak,
        Found(
            all_reduces=steps * report["self_check"]["found"]["all_reduce"],
            decode_us=phases["decode"]["transfer_us"]["p50"],
            prefill_us=phases["prefill"]["transfer_us"]["p50"],
        ),
    )


def tracelens(python: Path, traces: Traces, shape: Shape) -> Run:
    """TraceLens's report of the collectives of all ranks."""
    module = "TraceLens.Reporting.generate_multi_rank_collective_report_pytorch"
    pattern = traces.files[0].parent / f"*{RANK.format('*')}"
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", module, "--trace_glob", str(pattern), "--output_csvs_dir", folder]
        seconds, peak, _ = timed([python, *words, "--world_size", str(len(traces.files))])
        with (Path(folder) / "nccl_implicit_sync.csv").open(encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["Collective name"] == "allreduce"]
    rows.sort(key=lambda row: float(row["rank_0_ts"]))
    transfers = [float(row["comm_latency"]) for row in rows]
    return Run(seconds, peak, by_phase(transfers, shape))


def by_phase(transfers: Sequence[float], shape: Shape) -> Found:
    """Medians of the transfers of a request's first step, the prefill, and of those after it."""
    prefill: list[float] = []
    decode: list[float] = []
    for k, transfer in enumerate(transfers):
        first = k // shape.per_step % shape.steps == 0
        (prefill if first else decode).append(transfer)
    return Found(len(transfers), statistics.median(decode), statistics.median(prefill))


def hta(python: Path, traces: Traces, shape: Shape) -> Run:
    """HolisticTraceAnalysis's kinds of kernels: which all-reduces it calls communication."""
    seconds, peak, text = timed([python, "-c", HTA, *traces.files])
    kernels = json.loads(text.split("FOUND", 1)[1].splitlines()[0])
    counts = (
        kernel["count"]
        for kernel in kernels
        if kernel["rank"] == 0
        and kernel["kernel_type"] == "COMMUNICATION"
        and re.search("reduce", kernel["name"], re.IGNORECASE)
    )
    return Run(seconds, peak, Found(int(sum(counts))))


def captures(folder: Path) -> list[Traces]:
    """The capture of ``tests/data``, and the same repeated, with its sidecar."""
    made = []
    for copies in COPIES:
        place = folder / str(copies)
        place.mkdir()
        (place / CAPTURE.name).write_bytes(CAPTURE.read_bytes())
        files = []
        for rank in range(2):
            name = CAPTURE.stem + RANK.format(rank)
            files.append(place / name)
            if copies == 1:
                files[-1].write_bytes((CAPTURE.parent / name).read_bytes())
            else:
                repeat(CAPTURE.parent / name, files[-1], copies)
        made.append(Traces(copies, tuple(files)))
    return made


def shape_of(sidecar: Path) -> Shape:
    """A Llama of L layers has 2L + 1 all-reduces a step; a request's tokens are its steps."""
    told = json.loads(sidecar.read_text("utf-8"))
    return Shape(2 * told["model"]["num_hidden_layers"] + 1, told["output_len"])


def disagree(runs: dict[str, list[Run]]) -> list[str]:
    """Where TraceLens found other values than tpsweep, by over 1 %; none if all is well.

    Not in the prefill, where the two take something else for an all-reduce.
    """
    ours, theirs = runs["tpsweep"][0].found, runs["TraceLens"][0].found
    assert ours.decode_us and theirs.decode_us
    pairs = {
        "all-reduces": (ours.all_reduces, theirs.all_reduces),
        "decode": (ours.decode_us, theirs.decode_us),
    }
    return [f"{what}: {a}, {b}" for what, (a, b) in pairs.items() if abs(a - b) > 0.01 * b]


def page(measured: dict[Traces, dict[str, list[Run]]], versions: Sequence[str]) -> str:
    """The page as Markdown."""
    speed, ranges, found = [], [], []
    for traces, runs in measured.items():
        seconds = {tool: [run.seconds for run in done] for tool, done in runs.items()}
        middle = [f"{statistics.median(values):.2f}" for values in seconds.values()]
        peaks = [f"{statistics.median(r.peak_mb for r in done):.0f}" for done in runs.values()]
        speed.append(f"| {traces.label} | seconds (median) | {' | '.join(middle)} |")
        speed.append(f"| | peak memory, MB | {' | '.join(peaks)} |")
        spans = (f"{tool} {min(s):.2f} to {max(s):.2f}" for tool, s in seconds.items())
        ranges.append(f"{traces.label}: {', '.join(spans)}")
        first = [done[0].found for done in runs.values()]
        for what, values in (
            ("all-reduces", [f"{one.all_reduces:,}" for one in first]),
            ("transfer per all-reduce, decode, µs (p50)", [_us(one.decode_us) for one in first]),
            ("transfer per all-reduce, prefill, µs (p50)", [_us(one.prefill_us) for one in first]),
        ):
            label = traces.label if what == "all-reduces" else ""
            found.append(f"| {label} | {what} | {' | '.join(values)} |".replace("|  |", "| |"))
    return TEXT.format(
        date=datetime.now(UTC).date().isoformat(),
        cpus=os.cpu_count(),
        system=platform.system(),
        python=platform.python_version(),
        tracelens=versions[0],
        hta=versions[1],
        most=COPIES[-1],
        repeats=REPEATS,
        per_step=shape_of(CAPTURE).per_step,
        speed="\n".join(speed),
        ranges=";\n".join(ranges),
        found="\n".join(found),
    )


def _us(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def main() -> int:
    """Returns 1 if TraceLens and tpsweep do not agree: then no page is written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tracelens", type=Path, help="interpreter that has TraceLens")
    parser.add_argument("hta", type=Path, help="interpreter that has HolisticTraceAnalysis")
    parser.add_argument("--write", type=Path, help="write the page here")
    options = parser.parse_args()
    peers = ((options.tracelens, "TraceLens"), (options.hta, "HolisticTraceAnalysis"))
    versions = [timed([python, "-c", VERSION, name])[2].strip() for python, name in peers]
    shape = shape_of(CAPTURE)
    tools: dict[str, Callable[[Traces], Run]] = {
        "tpsweep": lambda traces: tpsweep(traces, shape),
        "TraceLens": lambda traces: tracelens(options.tracelens, traces, shape),
        "HTA": lambda traces: hta(options.hta, traces, shape),
    }
    measured: dict[Traces, dict[str, list[Run]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for traces in captures(Path(folder)):
            runs = measured.setdefault(traces, {tool: [] for tool in tools})
            for _ in range(REPEATS):
                for tool, call in tools.items():
                    runs[tool].append(call(traces))
                    print(traces.label, tool, runs[tool][-1], file=sys.stderr, flush=True)
            if differ := disagree(runs):
                print(f"tpsweep and TraceLens differ in {'; '.join(differ)}", file=sys.stderr)
                return 1
    text = page(measured, versions)
    print(text)
    if options.write:
        options.write.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
