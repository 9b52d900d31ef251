"""Whether sharing one engine changes a number: real vLLM, all sample lists.

    python tests/vllm/one_engine.py MODEL_FOLDER [--rounds 3]

On a GPU, where two engines of the model fit on one card:

    python tests/vllm/one_engine.py MODEL_FOLDER --card "NVIDIA H200" --batch 1 8 32

An engine by vLLM's ``LLM`` and an engine host with the same arguments are up side by side and take
turns with the same static batch and the same request set (``ways``). Then the host alone: a static
batch before and after serving, serving before and after static batches and a torch capture
(``aba``). ``--sides llm host`` starts them in the other order, ``--sides host`` leaves ``LLM`` out.
Prints one JSON; times in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """What one device can measure in a few minutes."""

    dtype: str
    args: dict[str, Any]
    input_len: int
    output_len: int
    requests: int
    rate: float


CPU = Sizes(
    "float32",
    {
        "max_model_len": 512,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 2048,
        "enforce_eager": True,
    },
    input_len=64,
    output_len=32,
    requests=24,
    rate=8.0,
)
# Each of the two engines gets its part of the card.
GPU = Sizes(
    "bfloat16",
    {
        "max_model_len": 2048,
        "max_num_seqs": 64,
        "max_num_batched_tokens": 16384,
        "gpu_memory_utilization": 0.35,
    },
    input_len=512,
    output_len=128,
    requests=160,
    rate=16.0,
)


def main() -> int:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--card", default="CPU")
    parser.add_argument("--batch", type=int, nargs="+", default=[4])
    parser.add_argument("--sides", nargs="+", default=["host", "llm"], choices=["host", "llm"])
    options = parser.parse_args()
    if "host" not in options.sides:
        parser.error("--sides: llm alone, allowed: with host")
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from tests.unit.cells import engine, latency_cell, model
    from tpsweep.engine import profiler, provenance, vllm_api

    sizes = CPU if options.card == "CPU" else GPU
    asked = engine(
        tp=1,
        gpu_card=options.card,
        model=model(path=options.model, dtype=sizes.dtype),
        args=sizes.args,
    )
    os.environ.update(vllm_api.engine_env(asked, provenance.usable_cpus()))
    from tpsweep.engine.host import EngineHost
    from tpsweep.engine.offline import OfflineEngine
    from tpsweep.measure import latency
    from tpsweep.sweep.request_set import RequestSet

    arguments = vllm_api.llm_arguments(asked)
    prompts = [[10 + k] * sizes.input_len for k in range(sizes.requests)]
    requests = RequestSet(prompts, [16] * sizes.requests)

    def static(loaded: Any) -> dict[str, Any]:
        return {str(batch): one_size(loaded, batch) for batch in options.batch}

    def one_size(loaded: Any, batch: int) -> dict[str, Any]:
        cell = latency_cell(
            engine=asked,
            warmups=3,
            repeats=options.repeats,
            batch=batch,
            input_len=sizes.input_len,
            output_len=sizes.output_len,
        )
        measured = latency.measure(cell, loaded.static_batch, loaded.vocabulary)
        found = latency.figures(cell, measured)
        lists = ("prefill_ms", "tpot_ms", "tpot_plain_ms", "e2e_ms", "scheduled_instants")
        return {
            **{name: found[f"{name}_samples"] for name in lists},
            "refusals": latency.refusals(cell, measured),
        }

    def whole_set(loaded: Any) -> dict[str, Any]:
        walls = [loaded.generate(prompts, requests.output_lens).wall_s for _ in range(6)]
        return {"wall_ms": [1e3 * wall for wall in walls[1:]]}

    def served(host: Any) -> dict[str, Any]:
        host.send(RequestSet(prompts[:4], [16] * 4), None, None, 0, {})
        sent = [host.send(requests, sizes.rate, None, seed, {}) for seed in range(3)]
        return {
            "ttft_ms": [1e3 * x for one in sent for x in one.ttft_s],
            "itl_ms": [1e3 * x for one in sent for itl in one.itl_s for x in itl],
            "errors": [error for one in sent for error in one.errors if error],
        }

    with tempfile.TemporaryDirectory() as folder:
        traces = profiler.TorchProfiler(Path(folder) / "traces", "?")
        start: dict[str, Callable[[], Any]] = {
            "host": lambda: EngineHost(arguments, traces, served=True),
            "llm": lambda: OfflineEngine(arguments),
        }
        sides = {name: start[name]() for name in options.sides}
        host = sides["host"]
        ways = turns(options.rounds, sides, static)
        sets = turns(options.rounds, sides, whole_set)
        if "llm" in sides:
            sides["llm"].close()
        aba = [{"static": static(host), "served": served(host)}]
        aba += [{"static": static(host)}]
        with host.profiled() as recording:
            host.static_batch(prompts[:4], [8] * 4)
        captured = [path.name for path in recording.collect(Path(folder) / "capture")]
        aba += [{"served": served(host), "static": static(host)}]
        host.close()
    print(json.dumps({"ways": ways, "sets": sets, "aba": aba, "captured": captured}))
    return 0


def turns(
    rounds: int, sides: dict[str, Any], run: Callable[[Any], dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """What each side gives, in turns."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, loaded in sides.items():
            found[name].append(run(loaded))
    return found


if __name__ == "__main__":
    sys.exit(main())
