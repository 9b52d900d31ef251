"""Measure a cell with real vLLM on the CPU while its engine core is stopped once for 40 ms.

On a machine so busy that its own steps scatter by as much, the stop is longer: what is no larger
than the scatter cannot be seen.

    python tests/vllm/stalled.py MODEL_FOLDER

Prints one JSON: the row's figures, the repeat in which the engine core was stopped (from 1), how
long that took (ms), and ``without``: the figures of the same samples with that time taken off the
step that had it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

REPEATS, STOPPED = 8, 5
BATCH, OUTPUT_LEN, AT_STEP = 4, 128, 40
LEAST_STOP_S = 0.040
WARMUPS = 3


class Stopper:
    """Runs static batches on an engine; in one of them its engine core is stopped for a while."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._seen: list[float] = engine.outputs_at
        self._core = next(
            process
            for process in psutil.Process().children(recursive=True)
            if "EngineCore" in " ".join(process.cmdline())
        )
        self._calls = 0
        self._steps: list[float] = []
        self.stopped_ms = 0.0

    def __call__(self, prompts: list[list[int]], output_lens: Sequence[int]) -> Any:
        self._calls += 1
        if self._calls != WARMUPS + STOPPED:
            repeat = self._engine.static_batch(prompts, output_lens)
            if self._calls > WARMUPS:
                self._steps += np.diff(repeat.outputs_at).tolist()
            return repeat
        self._seen.clear()
        stop = threading.Thread(target=self._stop)
        stop.start()
        repeat = self._engine.static_batch(prompts, output_lens)
        stop.join()
        return repeat

    def _stop(self) -> None:
        from tpsweep.measure.decode_steps import STALL_SHARE, STALL_SIGMAS

        usual = np.median(self._steps)
        scatter = 1.4826 * np.median(np.abs(self._steps - usual))
        visible = max(STALL_SHARE * usual, STALL_SIGMAS * scatter)
        stop_s = max(LEAST_STOP_S, float(usual + 2 * visible))
        while len(self._seen) < AT_STEP:
            time.sleep(0.0005)
        begin = time.monotonic()
        os.kill(self._core.pid, signal.SIGSTOP)
        time.sleep(stop_s)
        os.kill(self._core.pid, signal.SIGCONT)
        self.stopped_ms = 1e3 * (time.monotonic() - begin)


def without_stop(repeat: Any, stopped_s: float) -> Any:
    """The repeat with ``stopped_s`` taken off its longest step, and off all that came after it."""
    at = repeat.outputs_at
    longest = max(range(1, len(at)), key=lambda k: at[k] - at[k - 1])
    moved = tuple(one - stopped_s if k >= longest else one for k, one in enumerate(at))
    times = [replace(r.times, last_token=r.times.last_token - stopped_s) for r in repeat.requests]
    requests = [replace(r, times=t) for r, t in zip(repeat.requests, times, strict=True)]
    return replace(repeat, outputs_at=moved, requests=requests)


def main() -> int:
    """Command line: see the module's text."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from tests.unit.cells import engine, latency_cell, model
    from tpsweep.engine import provenance, vllm_api
    from tpsweep.measure import latency

    args = {"max_model_len": 256, "max_num_seqs": 8, "max_num_batched_tokens": 1024}
    asked = engine(tp=1, model=model(path=sys.argv[1]), args={**args, "enforce_eager": True})
    os.environ.update(vllm_api.engine_env(asked, provenance.usable_cpus()))
    from tpsweep.engine.host import EngineHost

    loaded = EngineHost(vllm_api.llm_arguments(asked))
    cell = latency_cell(
        engine=asked,
        batch=BATCH,
        output_len=OUTPUT_LEN,
        warmups=WARMUPS,
        repeats=REPEATS,
    )
    stopper = Stopper(loaded)
    measured = latency.measure(cell, stopper, loaded.vocabulary)
    loaded.close()
    repeats = list(measured.repeats)
    repeats[STOPPED - 1] = without_stop(repeats[STOPPED - 1], stopper.stopped_ms / 1e3)
    found = {
        "stopped_repeat": STOPPED,
        "stopped_ms": stopper.stopped_ms,
        "refusals": latency.refusals(cell, measured),
        "figures": latency.figures(cell, measured),
        "without": latency.figures(cell, replace(measured, repeats=repeats)),
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
