"""Benchmark: a capture of a million kernels, ours beside a plain pandas version of the same.

The capture is the real one of tests/data, repeated in time (steps, names and durations unchanged).
Run: python -m tests.bench.capture_million [--write FILE]  (prints JSON lines; writes the page)
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import platform
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CAPTURE = Path(__file__).parents[1] / "data/captures/llama8b-tp2-bs1-h200x2.sqlite.xz"
KERNELS = 1_000_000
REPEATS = 5
_KIND = "CUPTI_ACTIVITY_KIND_"
Figures = dict[str, Any]

TEXT = """\
# Speed of the capture analysis

Written by `make bench-capture` (`python -m tests.bench.capture_million`) on {date}: {cpus}
processors, {system}, Python {python}. The nsys capture in `tests/data/captures` (8B, TP=2, on
2x H200) is repeated in time up to a million kernels: {kernels:,} kernels, an SQLite file of
{size:.0f} MB. Both programs ran {repeats} times, alternating, each run in a fresh process, imports
included. The goal is 3 s and 2 GB.

| | tpsweep | plain pandas | ratio |
|---|---|---|---|
{lines}

Seconds, min to max: {ranges}.

The pandas program is written for this one capture: it looks for two kernel names, takes one kernel
for one all-reduce and checks nothing. `tpsweep comm` searches its whole kernel table, groups the
kernels of a collective, matches the ranks, checks counts and sums, and computes every term of
every phase.
"""


def repeat(source: Path, target: Path, kernels: int) -> int:
    """Write the capture repeated until it has ``kernels`` kernels; returns how many it has.

    Each copy is shifted in time by the capture's length; correlation ids stay unique.
    """
    with lzma.open(source) as packed, target.open("wb") as file:
        shutil.copyfileobj(packed, file)
    with closing(sqlite3.connect(target)) as base, base:
        count, begin, end = base.execute(
            f"SELECT count(*), min(start), max(end) FROM {_KIND}KERNEL"
        ).fetchone()
        # Host ranges begin before the first kernel and end after the last.
        shift, ids = end - begin + 100_000_000, 10_000_000
        copies = -(-kernels // count)
        for table in ("KERNEL", "MEMCPY", "RUNTIME"):
            _copy(base, _KIND + table, {"start", "end"}, shift, ids, copies, "")
        _copy(base, "NVTX_EVENTS", {"start", "end"}, shift, ids, copies, "text IS NOT NULL AND end")
    return int(count * copies)


def _copy(
    base: sqlite3.Connection,
    table: str,
    times: set[str],
    shift: int,
    ids: int,
    copies: int,
    only: str,
) -> None:
    columns = [row[1] for row in base.execute(f"PRAGMA table_info({table})")]
    moved = [
        f'"{c}" + n.i * {shift}' if c in times
        else f'"{c}" + n.i * {ids}' if c == "correlationId"
        else f'"{c}"'
        for c in columns
    ]  # fmt: skip
    base.execute(
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {copies}) "
        f"INSERT INTO {table} SELECT {', '.join(moved)} FROM {table}, n WHERE {only or '1'}"
    )


def ours(path: Path) -> Figures:
    """Decode figures by tpsweep."""
    from tpsweep.traces import analyse

    decode = analyse([path]).phases["decode"]
    assert decode.transfer_us and decode.compute_ms_per_step and decode.gap_ms_per_step
    return {
        "steps": decode.steps,
        "transfer_us": decode.transfer_us["p50"],
        "transfer_share": decode.transfer_fraction_profiled or 0.0,
        "compute_ms": decode.compute_ms_per_step["0"],
        "gap_ms": decode.gap_ms_per_step["0"],
    }


def plain_pandas(path: Path) -> Figures:
    """The same figures as one would write them in pandas for this one capture.

    It knows what this capture holds (two devices, one-kernel all-reduces, an all-gather that ends
    each step) and checks nothing: no other kernel names, no count, no rank that lacks.
    """
    import pandas as pd

    with closing(sqlite3.connect(path)) as base:
        kernels = pd.read_sql(
            f"SELECT k.start, k.end, deviceId, value AS name FROM {_KIND}KERNEL k "
            "JOIN StringIds s ON s.id = demangledName",
            base,
        )
        copies = pd.read_sql(f"SELECT start, end, deviceId FROM {_KIND}MEMCPY", base)
        texts = pd.read_sql("SELECT text, globalTid FROM NVTX_EVENTS ORDER BY start", base)
    kernels = pd.concat([kernels, copies]).sort_values("start").fillna({"name": "copy"})
    kernels["duration"] = kernels["end"] - kernels["start"]
    kernels["gather"] = kernels["name"].str.contains("AllGather")
    kernels["reduce"] = kernels["name"].str.contains("cross_device_reduce")
    by_rank = kernels.groupby("deviceId")
    kernels["step"] = by_rank["gather"].cumsum() - kernels["gather"]
    reach = by_rank["end"].cummax().groupby(kernels["deviceId"]).shift().fillna(0)
    kernels["busy"] = (kernels["end"] - kernels["start"].clip(lower=reach)).clip(lower=0)
    kernels["computing"] = kernels["busy"].where(~kernels["gather"] & ~kernels["reduce"], 0)
    steps = kernels.groupby(["deviceId", "step"]).agg(
        first=("start", "min"),
        last=("end", "max"),
        busy=("busy", "sum"),
        compute=("computing", "sum"),
    )
    previous = steps.groupby("deviceId")["last"].shift()
    steps["length"] = steps["last"] - previous.fillna(steps["first"])
    steps["gap"] = steps["length"] - steps["busy"]
    reduces = kernels[kernels["reduce"]].copy()
    reduces["k"] = reduces.groupby(["deviceId", "step"]).cumcount()
    transfer = reduces.groupby(["step", "k"])["duration"].min()
    words = texts[texts["text"].fillna("").str.match(r"execute_context_(?!0\(0\)_generation_0)")]
    phase = words[words["globalTid"] == words["globalTid"].iloc[0]]["text"].reset_index(drop=True)
    decode = phase.index[phase.str.startswith("execute_context_0")]
    first = steps.loc[0].loc[decode]
    share = transfer.groupby("step").sum() / steps["length"].groupby("step").mean()
    return {
        "steps": len(decode),
        "transfer_us": float(transfer.loc[decode].median()) / 1e3,
        "transfer_share": float(share.loc[decode].median()),
        "compute_ms": float(first["compute"].median()) / 1e6,
        "gap_ms": float(first["gap"].median()) / 1e6,
    }


WAYS = {"tpsweep": ours, "pandas": plain_pandas}


def measure(way: str, path: Path) -> None:
    """Print one measurement as JSON; imports count as time and memory on both sides."""
    started = time.perf_counter()
    figures = WAYS[way](path)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kB
    print(json.dumps({"way": way, "seconds": seconds, "peak_gb": peak, **figures}))


def run(kernels: int) -> dict[str, Any]:
    """Make the capture; measure each way ``REPEATS`` times in turn, in a process each."""
    runs: dict[str, list[Figures]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "million.sqlite"
        count = repeat(CAPTURE, path, kernels)
        for _ in range(REPEATS):
            for way, done in runs.items():
                words = [sys.executable, "-m", "tests.bench.capture_million", "--way", way, path]
                printed = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
                done.append(json.loads(printed.stdout))
                print(printed.stdout, end="", flush=True)
        size = path.stat().st_size
    return {"kernels": count, "file_mb": size / 1e6, "runs": runs}


def agree(runs: dict[str, list[Figures]]) -> list[str]:
    """Figures in which the two ways differ by more than 0.1 %; none if all is well."""
    one, other = (runs[way][0] for way in WAYS)
    names = ("steps", "transfer_us", "transfer_share", "compute_ms", "gap_ms")
    return [name for name in names if abs(one[name] - other[name]) > 1e-3 * abs(other[name])]


def page(result: dict[str, Any]) -> str:
    """The page as Markdown."""
    runs = result["runs"]
    median = {
        way: {
            name: statistics.median(run[name] for run in done) for name in done[0] if name != "way"
        }
        for way, done in runs.items()
    }
    ours, theirs = median["tpsweep"], median["pandas"]
    lines = [
        f"| {name} | {ours[key]:{form}} | {theirs[key]:{form}} | {ours[key] / theirs[key]:.2f} |"
        for name, key, form in (
            ("seconds (median)", "seconds", ".2f"),
            ("peak memory, GB", "peak_gb", ".2f"),
            ("decode steps", "steps", ".0f"),
            ("transfer per all-reduce, us (p50)", "transfer_us", ".3f"),
            ("transfer, share of the profiled step", "transfer_share", ".4f"),
            ("compute per step, rank 0, ms (p50)", "compute_ms", ".4f"),
            ("gap per step, rank 0, ms (p50)", "gap_ms", ".4f"),
        )
    ]
    ranges = "; ".join(
        f"{way} {min(r['seconds'] for r in done):.2f} to {max(r['seconds'] for r in done):.2f} s"
        for way, done in runs.items()
    )
    return TEXT.format(
        date=datetime.now(UTC).date().isoformat(),
        cpus=os.cpu_count(),
        system=platform.system(),
        python=platform.python_version(),
        kernels=result["kernels"],
        size=result["file_mb"],
        lines="\n".join(lines),
        repeats=REPEATS,
        ranges=ranges,
    )


def main() -> int:
    """Returns 1 if the two ways do not agree: then no page is written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="write the page here")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("capture", type=Path, nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        measure(options.way, options.capture)
        return 0
    result = run(KERNELS)
    differ = agree(result["runs"])
    if differ:
        print(f"the two ways differ in {', '.join(differ)}", file=sys.stderr)
        return 1
    text = page(result)
    print(text)
    if options.write:
        options.write.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
