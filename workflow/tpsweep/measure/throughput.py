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
    """A cell's raw repeats, each over the whole set."""

    repeats: list[Repeat]
    times: Times


def run(cell: Cell, requests: RequestSet, generate: Generate) -> Measurement:
    """Measure a cell of ``requests``."""
    measured = measure(cell, requests, generate)
    reasons = repeat.refusals(measured.repeats, requests.prompt_lens, requests.output_lens)
    tokens = sum(requests.output_lens) * cell.repeats
    return Measurement(measured.times, figures(cell, requests, measured.repeats), reasons, tokens)


def measure(
    cell: Cell,
    requests: RequestSet,
    generate: Generate,
    clock: Callable[[], float] = time.monotonic,
) -> Measured:
    """Run a cell's warm-ups and repeats, all over the same set."""
    began = clock()
    for _ in range(cell.warmups):
        generate(requests.prompts, requests.output_lens)
    measured = clock()
    repeats = [generate(requests.prompts, requests.output_lens) for _ in range(cell.repeats)]
    return Measured(repeats, Times(began, measured, clock()))


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
