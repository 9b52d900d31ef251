"""Measure a row's cell with vLLM's own ``vllm.benchmarks.latency`` and with ours, in one engine.

    python tests/vllm/their_latency.py results/cells/latency/.../b1-....parquet [--iterations 20]

The engine is loaded once, with the row's own arguments and environment, and the two take turns on
it: two engine starts differ by more than two ways of measuring. Prints one JSON: both sample lists
(whole generate() call, ms), their medians, how far each round's medians are apart, and whether
each median lies inside the other's range. Exit code 0 if they agree, 1 if not.
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

ROUNDS = 4


def compare(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Both lists, and whether each median lies inside the other's range of samples."""
    a, b = statistics.median(ours), statistics.median(theirs)
    return {
        "ours_ms": [round(x, 3) for x in ours],
        "theirs_ms": [round(x, 3) for x in theirs],
        "ours_median_ms": round(a, 3),
        "theirs_median_ms": round(b, 3),
        "difference_pct": round(100 * (a / b - 1), 2),
        "agree": min(theirs) <= a <= max(theirs) and min(ours) <= b <= max(ours),
    }


def our_samples(row: dict[str, Any], iterations: int, engine: Any) -> list[float]:
    """Milliseconds per repeat, as the latency workload measures them."""
    from tests.unit.cells import latency_cell
    from tpsweep import latency

    axes = {name: row[name] for name in ("batch", "input_len", "output_len", "warmups")}
    cell = latency_cell(**axes, repeats=iterations)
    measured = latency.measure(cell, engine.generate, engine.vocabulary)
    return [1e3 * repeat.wall_s for repeat in measured.repeats]


def their_samples(row: dict[str, Any], iterations: int, engine: Any) -> list[float]:
    """Milliseconds per iteration of vLLM's own code, on the engine that is loaded already."""
    from vllm import LLM
    from vllm.benchmarks import latency
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    latency.add_cli_args(parser)
    LLM.from_engine_args = lambda *_, **__: engine.llm  # the one thing that is not theirs
    arguments = json.loads(row["engine_args"])
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "theirs.json"
        words = ["--model", arguments["model"], "--batch-size", str(row["batch"])]
        words += ["--input-len", str(row["input_len"]), "--output-len", str(row["output_len"])]
        words += ["--num-iters", str(iterations), "--num-iters-warmup", str(row["warmups"])]
        words += ["--max-model-len", str(arguments["max_model_len"]), "--disable-detokenize"]
        words += ["--output-json", str(output)]
        latency.main(parser.parse_args(words))
        return [1e3 * seconds for seconds in json.loads(output.read_text())["latencies"]]


def main() -> int:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("row", type=Path)
    parser.add_argument("--iterations", type=int, default=20, help="of each, over all rounds")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from tpsweep.row import read_row

    row = read_row(options.row)
    os.environ.update(json.loads(row["engine_env"]))
    from tpsweep.offline import OfflineEngine

    engine = OfflineEngine(json.loads(row["engine_args"]))
    ours: list[float] = []
    theirs: list[float] = []
    rounds: list[float] = []
    for _ in range(ROUNDS):
        one = our_samples(row, options.iterations // ROUNDS, engine)
        other = their_samples(row, options.iterations // ROUNDS, engine)
        rounds.append(compare(one, other)["difference_pct"])
        ours, theirs = ours + one, theirs + other
    engine.close()
    result = {"cell": options.row.name, **compare(ours, theirs), "round_difference_pct": rounds}
    print(json.dumps(result))
    return 0 if result["agree"] else 1


if __name__ == "__main__":
    sys.exit(main())
