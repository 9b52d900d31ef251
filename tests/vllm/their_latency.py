"""Run vLLM's own ``vllm.benchmarks.latency`` on the cell of one of our rows, and compare.

    python tests/vllm/their_latency.py results/cells/latency/.../b1-....parquet [--iterations 30]

The engine arguments and environment are the row's own, so that only the measuring code differs.
Prints one JSON: both sample lists (whole generate() call, ms), their medians, and whether they
agree within the noise of both (see ``compare``). Exit code 0 if they agree, 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any


def compare(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Both lists and whether each median lies inside the other's range of samples.

    The two are different engine starts, so intervals of the medians alone would be too narrow.
    """
    a, b = statistics.median(ours), statistics.median(theirs)
    agree = min(theirs) <= a <= max(theirs) and min(ours) <= b <= max(ours)
    return {
        "ours_ms": [round(x, 3) for x in ours],
        "theirs_ms": [round(x, 3) for x in theirs],
        "ours_median_ms": round(a, 3),
        "theirs_median_ms": round(b, 3),
        "difference_pct": round(100 * (a / b - 1), 2),
        "agree": agree,
    }


def their_samples(row: dict[str, Any], iterations: int, model: str) -> list[float]:
    """Milliseconds per iteration of vLLM's own latency benchmark on a row's cell."""
    os.environ.update(json.loads(row["engine_env"]))
    from vllm.benchmarks import latency
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    latency.add_cli_args(parser)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "theirs.json"
        words = ["--input-len", str(row["input_len"]), "--output-len", str(row["output_len"])]
        words += ["--batch-size", str(row["batch"]), "--num-iters", str(iterations)]
        words += ["--num-iters-warmup", str(row["warmups"]), "--disable-detokenize"]
        words += ["--output-json", str(output)]
        arguments = {**json.loads(row["engine_args"]), "model": model}
        arguments.pop("disable_log_stats")  # timestamps are ours alone
        for name, value in arguments.items():
            flag = f"--{name.replace('_', '-')}"
            if isinstance(value, bool):
                words.append(flag if value else f"--no-{flag[2:]}")
            else:
                words += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
        latency.main(parser.parse_args(words))
        return [1e3 * seconds for seconds in json.loads(output.read_text())["latencies"]]


def main() -> int:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("row", type=Path)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--model", help="folder or hub name, if it is no longer where it was")
    options = parser.parse_args()
    from tpsweep.row import read_row

    row = read_row(options.row)
    theirs = their_samples(row, options.iterations, options.model or row["model_path"])
    result = {"cell": options.row.name, **compare(row["e2e_ms_samples"], theirs)}
    print(json.dumps(result))
    return 0 if result["agree"] else 1


if __name__ == "__main__":
    sys.exit(main())
