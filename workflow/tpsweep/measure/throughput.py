"""The ``throughput`` workload: a whole request set at once on an offline engine.

As vLLM's own ``vllm.benchmarks.throughput``: all requests are handed over together, EOS is
ignored, requests/s and tokens/s are those of the wall time of the whole set.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tpsweep.core.cell import Cell
from tpsweep.core.stats import median_interval
from tpsweep.engine import repeat
from tpsweep.engine.repeat import Generate, Repeat
from tpsweep.measure.measurement import Measurement, Times
from tpsweep.sweep.request_set import RequestSet


@dataclass(frozen=True)
class Measured:
    """A cell's raw repeats, each over the whole set; ``further`` ran for the energy alone."""

    repeats: list[Repeat]
    times: Times
    further: list[Repeat]


def run(cell: Cell, requests: RequestSet, generate: Generate, least_s: float = 0.0) -> Measurement:
    """Measure a cell of ``requests``; the energy is of at least ``least_s`` seconds."""
    measured = measure(cell, requests, generate, least_s)
    counted = [*measured.repeats, *measured.further]
    reasons = repeat.refusals(counted, requests.prompt_lens, requests.output_lens)
    columns = figures(cell, requests, measured.repeats) | {"energy_repeats": len(counted)}
    tokens = sum(requests.output_lens) * len(counted)
    return Measurement(measured.times, columns, reasons, tokens)


def measure(
    cell: Cell,
    requests: RequestSet,
    generate: Generate,
    least_s: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
) -> Measured:
    """Run a cell's warm-ups and repeats, all over the same set; ``least_s`` as for latency."""
    began = clock()
    for _ in range(cell.warmups):
        generate(requests.prompts, requests.output_lens)
    measured = clock()
    repeats = [generate(requests.prompts, requests.output_lens) for _ in range(cell.repeats)]
    further = []
    while clock() < measured + least_s:
        further.append(generate(requests.prompts, requests.output_lens))
    return Measured(repeats, Times(began, measured, clock()), further)


def figures(cell: Cell, requests: RequestSet, repeats: Sequence[Repeat]) -> dict[str, Any]:
    """The row's samples and derived figures of a throughput cell (columns of ``core.schema``)."""
    walls = [r.wall_s for r in repeats]
    request_s = [len(requests.prompts) / wall for wall in walls]
    output_tok_s = [sum(requests.output_lens) / wall for wall in walls]
    by_request, by_token = median_interval(request_s), median_interval(output_tok_s)
    return {
        "e2e_ms_samples": [1e3 * wall for wall in walls],
        "e2e_ms": 1e3 * float(np.median(walls)),
        "request_s_samples": request_s,
        "request_s": by_request.value,
        "request_s_lo": by_request.lo,
        "request_s_hi": by_request.hi,
        "output_tok_s_samples": output_tok_s,
        "output_tok_s": by_token.value,
        "output_tok_s_lo": by_token.lo,
        "output_tok_s_hi": by_token.hi,
        "output_tok_s_per_gpu": by_token.value / cell.engine.gpus,
        "total_tok_s": float(np.median([requests.tokens / wall for wall in walls])),
        "request_set_digest": requests.digest,
    }
