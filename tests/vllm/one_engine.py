"""Whether sharing one engine changes a number: real vLLM on the CPU, all sample lists.

    python tests/vllm/one_engine.py MODEL_FOLDER [--rounds 3]

An engine by vLLM's ``LLM`` and an engine host with the same arguments are up side by side and take
turns with the same static batch and the same request set (``ways``). Then the host alone: a static
batch before and after serving, serving before and after static batches and a torch capture
(``aba``). Prints one JSON; times in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH, INPUT_LEN, OUTPUT_LEN = 4, 64, 32
REQUESTS, RATE = 24, 8.0
REPEATS = 12


def main() -> int:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from tests.unit.cells import engine, latency_cell, model
    from tpsweep.engine import profiler, provenance, vllm_api

    args = {"max_model_len": 512, "max_num_seqs": 16, "max_num_batched_tokens": 2048}
    asked = engine(tp=1, model=model(path=options.model), args={**args, "enforce_eager": True})
    os.environ.update(vllm_api.engine_env(asked, provenance.usable_cpus()))
    from tpsweep.engine.host import EngineHost
    from tpsweep.engine.offline import OfflineEngine
    from tpsweep.measure import latency
    from tpsweep.sweep.request_set import RequestSet

    sizes = {"batch": BATCH, "input_len": INPUT_LEN, "output_len": OUTPUT_LEN}
    cell = latency_cell(engine=asked, warmups=3, repeats=REPEATS, **sizes)
    arguments = vllm_api.llm_arguments(asked)
    prompts = [[10 + k] * INPUT_LEN for k in range(REQUESTS)]
    requests = RequestSet(prompts, [16] * REQUESTS)

    def static(loaded: Any) -> dict[str, Any]:
        measured = latency.measure(cell, loaded.static_batch, loaded.vocabulary)
        found = latency.figures(cell, measured)
        lists = ("prefill_ms", "tpot_ms", "tpot_plain_ms", "e2e_ms", "scheduled_instants")
        return {
            **{name: found[f"{name}_samples"] for name in lists},
            "refusals": latency.refusals(cell, measured),
        }

    def whole_set(loaded: Any) -> dict[str, Any]:
        walls = [loaded.generate(prompts, [16] * REQUESTS).wall_s for _ in range(6)]
        return {"wall_ms": [1e3 * wall for wall in walls[1:]]}

    def served(host: Any) -> dict[str, Any]:
        host.send(RequestSet(prompts[:4], [16] * 4), None, None, 0, {})
        sent = [host.send(requests, RATE, None, seed, {}) for seed in range(3)]
        return {
            "ttft_ms": [1e3 * x for one in sent for x in one.ttft_s],
            "itl_ms": [1e3 * x for one in sent for itl in one.itl_s for x in itl],
            "errors": [error for one in sent for error in one.errors if error],
        }

    with tempfile.TemporaryDirectory() as folder:
        traces = profiler.TorchProfiler(Path(folder) / "traces", "?")
        host = EngineHost(arguments, traces, served=True)
        llm = OfflineEngine(arguments)
        ways = turns(options.rounds, {"llm": llm, "host": host}, static)
        sets = turns(options.rounds, {"llm": llm, "host": host}, whole_set)
        llm.close()
        aba = [{"static": static(host), "served": served(host)}]
        aba += [{"static": static(host)}]
        with host.profiled() as recording:
            host.static_batch(prompts[:BATCH], [8] * BATCH)
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
