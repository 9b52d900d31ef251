"""The ``latency`` workload: a static batch on an offline engine, prefill and decode apart.

Per repeat every sequence gets fresh random token ids, EOS is ignored, and the engine's own
timestamps (vLLM's ``RequestOutput.metrics``, the engine core's monotonic clock) split the batch:

    prefill = max(first token) - min(scheduled)
    decode  = (max(last token) - max(first token)) / (N - 1)      per output token (TPOT)

As a cross-check the same batch is run with one output token: (L(N) - L(1)) / (N - 1), which needs
wall times only. Sampling is as in vLLM's own ``vllm.benchmarks.latency`` (temperature 1).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tpsweep.core.cell import Cell
from tpsweep.core.stats import median_interval
from tpsweep.engine import repeat
from tpsweep.engine.repeat import Generate, Repeat
from tpsweep.measure.measurement import Measurement, Times


@dataclass(frozen=True)
class Measured:
    """A cell's raw samples; the cross-check comes after the kept repeats."""

    repeats: list[Repeat]
    repeats_out1: list[Repeat] = field(repr=False)
    times: Times


def run(cell: Cell, generate: Generate, vocabulary: int) -> Measurement:
    """Measure a cell."""
    measured = measure(cell, generate, vocabulary)
    tokens = (cell.batch or 0) * (cell.output_len or 0) * cell.repeats
    return Measurement(measured.times, figures(cell, measured), refusals(cell, measured), tokens)


def measure(
    cell: Cell, generate: Generate, vocabulary: int, clock: Callable[[], float] = time.monotonic
) -> Measured:
    """Run a cell's warm-ups, repeats and cross-check."""
    once = batches(cell, generate, vocabulary)
    output_len = cell.output_len or 0
    began = clock()
    for _ in range(cell.warmups):
        once(output_len)
    measured = clock()
    repeats = [once(output_len) for _ in range(cell.repeats)]
    kept_until = clock()
    once(1)
    out1 = [once(1) for _ in range(cell.repeats)]
    return Measured(repeats, out1, Times(began, measured, kept_until))


def batches(cell: Cell, generate: Generate, vocabulary: int) -> Callable[[int], Repeat]:
    """A function that runs the cell's batch once, to as many output tokens as it is given.

    Prompts are drawn from a generator seeded by the cell's id: equal cells see equal prompts, no
    two iterations of a cell see the same.
    """
    if cell.batch is None or cell.input_len is None or cell.output_len is None:
        raise ValueError(f"a {cell.workload} cell needs batch, input_len and output_len")
    random = np.random.default_rng(int(cell.cell_id, 16))
    shape = (cell.batch, cell.input_len)

    def once(output_len: int) -> Repeat:
        prompts = random.integers(0, vocabulary, size=shape).tolist()
        return generate(prompts, [output_len] * len(prompts))

    return once


def prefill_ms(batch: Repeat) -> float:
    """Milliseconds from the first scheduled request to the last first token of the batch."""
    times = [request.times for request in batch.requests]
    return 1e3 * (max(t.first_token for t in times) - min(t.scheduled for t in times))


def tpot_ms(batch: Repeat, output_len: int) -> float | None:
    """Milliseconds per output token after the first; None if there is only one."""
    if output_len < 2:
        return None
    times = [request.times for request in batch.requests]
    span = max(t.last_token for t in times) - max(t.first_token for t in times)
    return 1e3 * span / (output_len - 1)


def refusals(cell: Cell, measured: Measured) -> list[str]:
    """Why a cell's repeats must not become a row (measuring rule 2); empty if they may."""
    batch = cell.batch or 0
    prompt_lens = [cell.input_len or 0] * batch
    reasons = repeat.refusals(measured.repeats, prompt_lens, [cell.output_len or 0] * batch)
    return reasons + repeat.refusals(measured.repeats_out1, prompt_lens, [1] * batch)


def figures(cell: Cell, measured: Measured) -> dict[str, Any]:
    """The row's samples and derived figures of a latency cell (columns of ``core.schema``)."""
    output_len, batch = int(cell.output_len or 0), int(cell.batch or 0)
    e2e = [1e3 * r.wall_s for r in measured.repeats]
    out1 = [1e3 * r.wall_s for r in measured.repeats_out1]
    prefill = median_interval([prefill_ms(r) for r in measured.repeats])
    tpots = [t for r in measured.repeats if (t := tpot_ms(r, output_len)) is not None]
    tpot = median_interval(tpots) if tpots else None
    e2e_median = float(np.median(e2e))
    difference = None
    if output_len > 1:
        difference = (e2e_median - float(np.median(out1))) / (output_len - 1)
    chunk = cell.engine.args.get("max_num_batched_tokens")
    return {
        "e2e_ms_samples": e2e,
        "prefill_ms_samples": [prefill_ms(r) for r in measured.repeats],
        "tpot_ms_samples": tpots,
        "e2e_out1_ms_samples": out1,
        "e2e_ms": e2e_median,
        "prefill_ms": prefill.value,
        "prefill_ms_lo": prefill.lo,
        "prefill_ms_hi": prefill.hi,
        "tpot_ms": tpot.value if tpot else None,
        "tpot_ms_lo": tpot.lo if tpot else None,
        "tpot_ms_hi": tpot.hi if tpot else None,
        "tpot_diff_ms": difference,
        "output_tok_s": batch * output_len / e2e_median * 1e3,
        "output_tok_s_per_gpu": batch * output_len / e2e_median * 1e3 / cell.engine.gpus,
        "request_s": batch / e2e_median * 1e3,
        "prefill_chunked": None if chunk is None else batch * int(cell.input_len or 0) > chunk,
    }
