"""The ``latency`` workload: a static batch on an offline engine, prefill and decode apart.

Per repeat every sequence gets fresh random token ids, EOS is ignored, all sequences are scheduled
in one step, and the engine's own timestamps (vLLM's ``RequestOutput.metrics``, the engine core's
monotonic clock) split the batch:

    prefill = max(first token) - min(scheduled)
    decode  = (max(last token) - max(first token)) / (N - 1)      per output token (TPOT)

The engine core's time of each step in between shows what disturbed the decode
(``decode_steps``): the main value excludes it, the plain one is given beside it. As a
cross-check the same batch is run with one output token: (L(N) - L(1)) / (N - 1), which needs
wall times only. Sampling is as in vLLM's own ``vllm.benchmarks.latency`` (temperature 1).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tpsweep.core.cell import Cell
from tpsweep.core.stats import median_interval
from tpsweep.engine import repeat
from tpsweep.engine.repeat import Generate, Repeat
from tpsweep.measure import decode_steps
from tpsweep.measure.decode_steps import DecodeSteps
from tpsweep.measure.measurement import Measurement, Times

STEP_DIGITS = 4
"""Of a step's milliseconds: a tenth of a microsecond."""


@dataclass(frozen=True)
class Measured:
    """A cell's raw samples; the cross-check comes after the kept repeats.

    ``further`` are the repeats that were run for the energy alone: no sample of theirs is kept.
    """

    repeats: list[Repeat]
    repeats_out1: list[Repeat] = field(repr=False)
    times: Times
    further: list[Repeat] = field(default_factory=list, repr=False)


def run(cell: Cell, generate: Generate, vocabulary: int, least_s: float = 0.0) -> Measurement:
    """Measure a cell; ``least_s`` as in ``measure``."""
    measured = measure(cell, generate, vocabulary, least_s)
    count = cell.repeats + len(measured.further)
    tokens = (cell.batch or 0) * (cell.output_len or 0) * count
    return Measurement(measured.times, figures(cell, measured), refusals(cell, measured), tokens)


def measure(
    cell: Cell,
    generate: Generate,
    vocabulary: int,
    least_s: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
) -> Measured:
    """Run a cell's warm-ups, repeats and cross-check.

    The repeats go on, without being kept, until they have taken ``least_s`` seconds together:
    energy cannot be told over less.
    """
    once = batches(cell, generate, vocabulary)
    output_len = cell.output_len or 0
    began = clock()
    for _ in range(cell.warmups):
        once(output_len)
    measured = clock()
    repeats = [once(output_len) for _ in range(cell.repeats)]
    further = []
    while clock() < measured + least_s:
        further.append(once(output_len))
    kept_until = clock()
    once(1)
    out1 = [once(1) for _ in range(cell.repeats)]
    times = Times(began, measured, kept_until, _phases([*repeats, *further]))
    return Measured(repeats, out1, times, further)


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
    kept = [*measured.repeats, *measured.further]
    reasons = repeat.refusals(kept, prompt_lens, [cell.output_len or 0] * batch)
    reasons += repeat.refusals(measured.repeats_out1, prompt_lens, [1] * batch)
    return reasons + split_batches(cell, [*kept, *measured.repeats_out1])


def split_batches(cell: Cell, repeats: list[Repeat]) -> list[str]:
    """Whether batches that were held back until they were whole were not scheduled so.

    A prefill that is chunked takes as many steps as it has chunks, and requests begin in each.
    """
    allowed = most_instants(cell)
    split = [r.scheduled_instants for r in repeats if r.held and r.scheduled_instants > allowed]
    if not split:
        return []
    return [
        f"{len(split)} of {len(repeats)} batches were scheduled in {max(split)} steps, not in "
        f"{allowed}: no static batch"
    ]


def most_instants(cell: Cell) -> int:
    """Scheduler steps in which a whole batch may begin: 1 unless its prefill is chunked."""
    batch, limit = cell.batch or 0, int(cell.engine.args.get("max_num_batched_tokens") or 0)
    tokens = batch * (cell.input_len or 0)
    if not limit:
        return batch  # vLLM's own default, which depends on the GPU
    if tokens <= limit:
        return 1
    # A sequence that has its first token takes one token of each further step.
    return math.ceil(tokens / max(1, limit - batch))


def _phases(repeats: list[Repeat]) -> dict[str, list[tuple[float, float]]]:
    """When the engine was in prefill, and when in decode."""
    prefill, decode = [], []
    for one in repeats:
        times = [request.times for request in one.requests]
        first = max(t.first_token for t in times)
        prefill.append((min(t.scheduled for t in times), first))
        decode.append((first, max(t.last_token for t in times)))
    return {"prefill": prefill, "decode": decode}


def figures(cell: Cell, measured: Measured) -> dict[str, Any]:
    """The row's samples and derived figures of a latency cell (columns of ``core.schema``)."""
    output_len, batch = int(cell.output_len or 0), int(cell.batch or 0)
    e2e = [1e3 * r.wall_s for r in measured.repeats]
    out1 = [1e3 * r.wall_s for r in measured.repeats_out1]
    prefill = median_interval([prefill_ms(r) for r in measured.repeats])
    plain = [t for r in measured.repeats if (t := tpot_ms(r, output_len)) is not None]
    steps = _steps(measured.repeats, output_len)
    judged = decode_steps.judge(steps, plain) if steps is not None else None
    tpots = judged.undisturbed_ms if judged else plain
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
        "tpot_plain_ms_samples": plain,
        "scheduled_instants_samples": [r.scheduled_instants for r in measured.repeats],
        "e2e_ms": e2e_median,
        "prefill_ms": prefill.value,
        "prefill_ms_lo": prefill.lo,
        "prefill_ms_hi": prefill.hi,
        "tpot_ms": tpot.value if tpot else None,
        "tpot_ms_lo": tpot.lo if tpot else None,
        "tpot_ms_hi": tpot.hi if tpot else None,
        "tpot_plain_ms": float(np.median(plain)) if plain else None,
        "tpot_diff_ms": difference,
        "output_tok_s": batch * output_len / e2e_median * 1e3,
        "output_tok_s_per_gpu": batch * output_len / e2e_median * 1e3 / cell.engine.gpus,
        "request_s": batch / e2e_median * 1e3,
        "prefill_chunked": None if chunk is None else batch * int(cell.input_len or 0) > chunk,
        "batch_held": all(r.held for r in measured.repeats),
        "energy_repeats": cell.repeats + len(measured.further),
        **_of_steps(steps, judged, output_len),
    }


def _steps(repeats: list[Repeat], output_len: int) -> decode_steps.Floats | None:
    """Decode steps of the kept repeats, ms, shape (repeats, output_len - 1); None if not known."""
    found = [decode_steps.durations(one, output_len) for one in repeats]
    if output_len < 2 or not found or None in found:
        return None
    return np.array(found)


def _of_steps(
    steps: decode_steps.Floats | None, judged: DecodeSteps | None, output_len: int
) -> dict[str, Any]:
    """The columns that need every step's time."""
    if steps is None or judged is None:
        unknown = "the engine's outputs are not one per step: stalls are not seen"
        return {"steps_note": unknown if output_len > 1 else None}
    return {
        "step_ms_samples": np.round(steps, STEP_DIGITS).ravel().tolist(),
        "stalls_samples": [judged.stalls_in(r + 1) for r in range(len(steps))],
        "stalls": len(judged.stalls),
        "stall_ms": sum(stall.excess_ms for stall in judged.stalls),
        "recovery_steps": judged.recovery,
        "tpot_drift_pct": None if judged.drift is None else 100 * judged.drift,
        "unsteady": judged.unsteady,
        "steps_note": "; ".join(judged.notes) or None,
    }
