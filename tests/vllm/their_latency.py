"""Measure a row's cell with vLLM's own ``vllm.benchmarks.latency`` and with ours, in one engine.

    python tests/vllm/their_latency.py results/cells/latency/.../b1-....parquet [--iterations 20]

The engine is loaded once, with the row's own arguments and environment, and the two take turns on
it: two engine starts differ by more than two ways of measuring. Prints one JSON: both sample lists
(whole generate() call, ms), their medians, how far each round's medians are apart, and whether
each median lies inside the other's range. Exit code 0 if they agree, 1 if not.

What does not depend on how busy the machine is stands beside it: the work that vLLM did within the
samples of each side (prompts, prompt tokens and output tokens of every call), and how far a sample
is from the time of its own call, taken at vLLM's end (median, percent).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROUNDS = 4


@dataclass(frozen=True)
class Call:
    """One batch that vLLM ran, seen from its own end: how long it took, what it did."""

    ms: float
    prompts: int
    prompt_tokens: int
    output_tokens: int

    @property
    def work(self) -> tuple[int, int, int]:
        """What a call of the same cell does every time."""
        return self.prompts, self.prompt_tokens, self.output_tokens


def watch(llm: Any) -> list[Call]:
    """Let every later run of a batch by ``llm`` add itself to the list that is returned.

    Theirs is generate(); ours queues the batch first, and runs it by wait_for_completion().
    """
    calls: list[Call] = []

    def watched(run: Any) -> Any:
        def watching(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            outputs = run(*args, **kwargs)
            ms = 1e3 * (time.perf_counter() - begin)
            prompt_tokens = sum(len(output.prompt_token_ids) for output in outputs)
            output_tokens = sum(len(o.token_ids) for output in outputs for o in output.outputs)
            calls.append(Call(ms, len(outputs), prompt_tokens, output_tokens))
            return outputs

        return watching

    llm.generate = watched(llm.generate)
    llm.wait_for_completion = watched(llm.wait_for_completion)
    return calls


@dataclass(frozen=True)
class Samples:
    """One side's samples (ms), each with the call of vLLM's generate() that it is to cover."""

    ms: list[float]
    calls: list[Call]

    def __add__(self, other: Samples) -> Samples:
        return Samples(self.ms + other.ms, self.calls + other.calls)

    @property
    def work(self) -> list[tuple[int, int, int]]:
        """The different amounts of work among the calls: one, if all did the same."""
        return sorted({call.work for call in self.calls})

    @property
    def off_pct(self) -> float:
        """How far a sample is from the time of its call: median, percent."""
        pairs = zip(self.ms, self.calls, strict=True)
        return statistics.median(100 * (ms / call.ms - 1) for ms, call in pairs)


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


def our_samples(row: dict[str, Any], iterations: int, engine: Any, calls: list[Call]) -> Samples:
    """Repeats as the latency workload measures them."""
    from tests.unit.cells import latency_cell
    from tpsweep.measure import latency

    axes = {name: row[name] for name in ("batch", "input_len", "output_len", "warmups")}
    cell = latency_cell(**axes, repeats=iterations)
    first = len(calls) + int(row["warmups"])
    measured = latency.measure(cell, engine.static_batch, engine.vocabulary)
    ms = [1e3 * repeat.wall_s for repeat in measured.repeats]
    return Samples(ms, calls[first : first + iterations])


def their_samples(row: dict[str, Any], iterations: int, engine: Any, calls: list[Call]) -> Samples:
    """Iterations of vLLM's own code, on the engine that is loaded already."""
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
        ms = [1e3 * seconds for seconds in json.loads(output.read_text())["latencies"]]
        return Samples(ms, calls[-iterations:])


def main() -> int:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("row", type=Path)
    parser.add_argument("--iterations", type=int, default=20, help="of each, over all rounds")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from tpsweep.core.row_file import read_row

    row = read_row(options.row)
    os.environ.update(json.loads(row["engine_env"]))
    from tpsweep.engine.offline import OfflineEngine

    engine = OfflineEngine(json.loads(row["engine_args"]))
    calls = watch(engine.llm)
    ours, theirs = Samples([], []), Samples([], [])
    rounds: list[float] = []
    for _ in range(ROUNDS):
        one = our_samples(row, options.iterations // ROUNDS, engine, calls)
        other = their_samples(row, options.iterations // ROUNDS, engine, calls)
        rounds.append(compare(one.ms, other.ms)["difference_pct"])
        ours, theirs = ours + one, theirs + other
    engine.close()
    result = {
        "cell": options.row.name,
        **compare(ours.ms, theirs.ms),
        "round_difference_pct": rounds,
        "ours_work": ours.work,
        "theirs_work": theirs.work,
        "ours_off_pct": round(ours.off_pct, 3),
        "theirs_off_pct": round(theirs.off_pct, 3),
    }
    print(json.dumps(result))
    return 0 if result["agree"] else 1


if __name__ == "__main__":
    sys.exit(main())
