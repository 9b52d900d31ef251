"""Benchmark: a capture of a million kernels, ours beside a plain pandas version of the same.

The capture is the shared real one, repeated in time (steps, names and durations unchanged).
Run: python tests/bench/capture_million.py  (prints seconds and peak memory as JSON)
"""

from __future__ import annotations

import json
import lzma
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

CAPTURE = Path(__file__).parents[1] / "data/captures/llama8b-tp2-bs1-h200x2.sqlite.xz"
KERNELS = 1_000_000
_KIND = "CUPTI_ACTIVITY_KIND_"


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


def ours(path: Path) -> dict[str, Any]:
    """Decode figures by tpsweep."""
    from tpsweep.capture import analyse

    decode = analyse([path]).phases["decode"]
    assert decode.transfer_us is not None
    return {"steps": decode.steps, "transfer_us": decode.transfer_us["p50"]}


def plain_pandas(path: Path) -> dict[str, Any]:
    """The same two figures, and the terms of each step, as one would write them in pandas."""
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
    kernels.groupby(["deviceId", "step"])[["busy", "duration"]].sum()
    reduces = kernels[kernels["reduce"]].copy()
    reduces["k"] = reduces.groupby(["deviceId", "step"]).cumcount()
    transfer = reduces.groupby(["step", "k"])["duration"].min().reset_index()
    words = texts[texts["text"].fillna("").str.match(r"execute_context_(?!0\(0\)_generation_0)")]
    phase = words[words["globalTid"] == words["globalTid"].iloc[0]]["text"].reset_index(drop=True)
    decode = phase.str.startswith("execute_context_0")
    chosen = transfer[transfer["step"].map(decode)]
    return {"steps": int(decode.sum()), "transfer_us": chosen["duration"].median() / 1e3}


def _measure(which: str, path: Path) -> None:
    started = time.perf_counter()
    result = {"ours": ours, "pandas": plain_pandas}[which](path)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        json.dumps(
            {"what": which, "seconds": round(seconds, 2), "peak_gb": round(peak, 2)} | result
        )
    )


def main() -> None:
    """Make the capture, measure each version in a process of its own."""
    if len(sys.argv) == 3:
        _measure(sys.argv[1], Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "million.sqlite"
        print(json.dumps({"kernels": repeat(CAPTURE, path, KERNELS), "bytes": path.stat().st_size}))
        for which in ("ours", "pandas"):
            subprocess.run([sys.executable, __file__, which, str(path)], check=True)


if __name__ == "__main__":
    main()
