"""The ``serve`` workload: requests that arrive one by one at a server, and what users would feel.

A repeat is a seed of the arrivals over the same request set. Terms as in ``vllm bench serve``:
TTFT is from a request's send to its first streamed chunk, ITL between two chunks, TPOT
(E2E - TTFT) / (output tokens - 1), E2E from send to last chunk.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import numpy as np

from tpsweep.core import saturation
from tpsweep.core.cell import Cell
from tpsweep.core.schema import PERCENTILES
from tpsweep.core.stats import percentile
from tpsweep.engine.api_server import Counters
from tpsweep.engine.load_generator import Sent
from tpsweep.measure.measurement import Measurement, Times
from tpsweep.sweep.request_set import RequestSet


class Send(Protocol):
    """Sends a request set once (see ``tpsweep.engine.load_generator.send``)."""

    def __call__(
        self, requests: RequestSet, rate: float | None, concurrency: int | None, seed: int
    ) -> Sent: ...


def run(
    cell: Cell,
    requests: RequestSet,
    send: Send,
    counters: Callable[[], Counters],
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Measurement, list[Sent]]:
    """Measure a cell: warm-ups all at once, then one run per seed.

    ``counters``: what the server has counted so far.
    """
    began = clock()
    if cell.warmups:
        chosen = [k % len(requests.prompts) for k in range(cell.warmups)]
        source = requests.for_seed(cell.repeats)  # none of the seeds that are measured
        few = RequestSet(
            [source.prompts[k] for k in chosen], [source.output_lens[k] for k in chosen]
        )
        send(few, None, cell.max_concurrency, 0)
    before, measured = counters(), clock()
    runs = [
        send(requests.for_seed(seed), cell.request_rate, cell.max_concurrency, seed)
        for seed in range(cell.repeats)
    ]
    times = Times(began, measured, clock())
    reasons = refusals(requests, runs)
    after, count = counters(), cell.repeats * len(requests.prompts)
    hits = after.prefix_hits - before.prefix_hits
    if hits > cell.repeats * requests.most_hits:
        allowed = f"; shared are {cell.repeats * requests.most_hits}" if requests.prefix else ""
        reasons.append(f"{hits:.0f} prompt tokens came from the prefix cache{allowed}")
    elif requests.prefix and not hits:
        reasons.append(
            f"no prompt token came from the prefix cache: prefix_len {requests.prefix.length} is "
            "below the engine's block, or the engine does not cache"
        )
    if (finished := after.finished - before.finished) > count:
        reasons.append(
            f"the server answered {finished:.0f} requests, {count} were sent: someone else used it"
        )
    # Of failed requests there are only zeros: no figure is made of them.
    made = {} if reasons else figures(cell, requests, runs)
    if made and requests.prefix:
        made["prefix_hit_share"] = hits / (cell.repeats * sum(requests.prompt_lens))
    return Measurement(times, made, reasons, sum(sum(r.output_lens) for r in runs)), runs


def refusals(requests: RequestSet, runs: Sequence[Sent]) -> list[str]:
    """Why runs must not become a row (measuring rule 2); empty if they may."""
    reasons = []
    errors = [error for sent in runs for error in sent.errors if error]
    count = sum(len(sent.errors) for sent in runs)
    if errors:
        last_line = errors[0].strip().splitlines()[-1]
        reasons.append(f"{len(errors)} of {count} requests failed, the first with: {last_line}")
        return reasons  # their lengths are zeros
    for asked, what, found in (
        (requests.output_lens, "output", [sent.output_lens for sent in runs]),
        (requests.prompt_lens, "prompt", [sent.input_lens for sent in runs]),
    ):
        pairs = [pair for lens in found for pair in zip(asked, lens, strict=False)]
        wrong = [(length, got) for length, got in pairs if length != got]
        if any(len(lens) != len(asked) for lens in found):
            reasons.append(f"a seed returned another number of requests than {len(asked)}")
        elif wrong:
            reasons.append(
                f"{len(wrong)} of {count} requests had another number of {what} tokens than "
                f"asked, e.g. {wrong[0][1]} and not {wrong[0][0]}"
            )
    return reasons


def figures(cell: Cell, requests: RequestSet, runs: Sequence[Sent]) -> dict[str, Any]:
    """The row's samples and derived figures of a serve cell (columns of ``core.schema``)."""
    samples = {
        "ttft": [1e3 * x for sent in runs for x in sent.ttft_s],
        "tpot": [1e3 * x for sent in runs for x in sent.tpot_s],
        "itl": [1e3 * x for sent in runs for itl in sent.itl_s for x in itl],
        "e2e": [1e3 * x for sent in runs for x in sent.e2e_s],
    }
    ttft_p50 = [1e3 * float(np.median(sent.ttft_s)) for sent in runs]
    itl_p50 = [1e3 * float(np.median([x for itl in s.itl_s for x in itl] or [0])) for s in runs]
    request_s = [len(sent.start_s) / sent.duration_s for sent in runs]
    output_tok_s = [sum(sent.output_lens) / sent.duration_s for sent in runs]
    slo = cell.extra.get("slo") or {}
    chunks = len(samples["itl"]) + len(samples["ttft"])
    shares = [steady_share(sent) for sent in runs]
    steady = [found for sent in runs if (found := steady_rates(sent, *steady_window(sent)))]
    load = load_of(runs, cell.request_rate, cell.max_concurrency)
    growth = load.growth if load else None
    return {
        **{
            f"{name}_p{p}_ms": percentile(values, p)
            for name, values in samples.items()
            for p in PERCENTILES
        },
        "ttft_ms_samples": samples["ttft"],
        "tpot_ms_samples": samples["tpot"],
        "e2e_ms_samples": samples["e2e"],
        "ttft_p50_ms_samples": ttft_p50,
        "ttft_p50_ms_lo": min(ttft_p50),
        "ttft_p50_ms_hi": max(ttft_p50),
        "itl_p50_ms_samples": itl_p50 if samples["itl"] else None,
        "itl_p50_ms_lo": min(itl_p50) if samples["itl"] else None,
        "itl_p50_ms_hi": max(itl_p50) if samples["itl"] else None,
        "tokens_per_chunk": sum(sum(sent.output_lens) for sent in runs) / chunks,
        **_with_range("request_s", request_s),
        **_with_range("output_tok_s", output_tok_s),
        "output_tok_s_per_gpu": float(np.median(output_tok_s)) / cell.engine.gpus,
        "total_tok_s": float(np.median([requests.tokens / sent.duration_s for sent in runs])),
        **_goodput(runs, slo),
        "steady_share_samples": shares,
        "steady_share": float(np.median(shares)),
        "steady_request_s": _median([one.request_s for one in steady]),
        "steady_output_tok_s": _median([one.output_tok_s for one in steady]),
        "saturated": load.verdict if load else None,
        "latency_growth": growth.value if growth else None,
        "latency_growth_lo": growth.lo if growth else None,
        "latency_growth_hi": growth.hi if growth else None,
        "client_cpu_share": max(sent.client_cpu_s / sent.duration_s for sent in runs),
        "max_in_flight": max(max_in_flight(sent) for sent in runs),
        "request_set_digest": requests.digest,
        "slo": json.dumps(slo) if slo else None,
    }


def steady_share(sent: Sent) -> float:
    """Of the run's time, the share of the steady window."""
    since, until = steady_window(sent)
    return max(0.0, until - since) / sent.duration_s


def steady_window(sent: Sent) -> tuple[float, float]:
    """From the first completion to the last send: before it the load still builds up, after it the
    server only empties. It ends before it begins where all came at once."""
    return min(sent.end_s), max(sent.start_s)


@dataclass(frozen=True)
class Rates:
    """What a server did in a window."""

    request_s: float
    output_tok_s: float


def steady_rates(sent: Sent, since: float, until: float) -> Rates | None:
    """Requests that ended and tokens that came, per second between two times; None for no time.

    A chunk of several tokens counts with its answer's mean.
    """
    if until <= since:
        return None
    ended, tokens = 0, 0.0
    for start, ttft, itl, length in zip(
        sent.start_s, sent.ttft_s, sent.itl_s, sent.output_lens, strict=True
    ):
        chunks = start + ttft + np.concatenate(([0.0], np.cumsum(itl)))
        ended += length > 0 and since < chunks[-1] <= until
        inside = np.count_nonzero((since < chunks) & (chunks <= until))
        tokens += length * inside / chunks.size
    return Rates(ended / (until - since), tokens / (until - since))


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def load_of(
    runs: Sequence[Sent], rate: float | None, concurrency: int | None
) -> saturation.Load | None:
    """Whether more arrived than was served, by all seeds; None of a closed loop.

    What waited in the client waited, too; where vLLM does not tell of it, nothing is shown.
    """
    if saturation.is_endless(rate):
        verdict = saturation.all_at_once(concurrency)
        return None if verdict is None else saturation.Load(verdict, None)
    if concurrency is not None and any(sent.queued_s is None for sent in runs):
        return saturation.Load(saturation.NOT_SHOWN, None)
    return saturation.judge([seed_of(sent) for sent in runs])


def seed_of(sent: Sent) -> saturation.Seed:
    """Times from the arrival on; the latency of an answer of mean length."""
    arrival = np.asarray(sent.arrival_s)
    ttft = np.asarray(sent.start_s) + np.asarray(sent.ttft_s) - arrival
    tokens = np.asarray(sent.output_lens) - 1
    decode = np.asarray([sum(itl) for itl in sent.itl_s])
    per_token = np.divide(decode, tokens, out=np.zeros(len(tokens)), where=tokens > 0)
    order = np.argsort(arrival, kind="stable")
    latency = ttft + per_token * float(tokens.mean())
    return saturation.Seed(arrival[order], ttft[order], latency[order])


def max_in_flight(sent: Sent) -> int:
    """Most requests that were sent and not finished at a time."""
    changes = sorted([(start, 1) for start in sent.start_s] + [(end, -1) for end in sent.end_s])
    return max(accumulate(change for _, change in changes))


def _goodput(runs: Sequence[Sent], slo: Mapping[str, float]) -> dict[str, float | None]:
    if not slo:
        return {"goodput_request_s": None, "goodput_share": None}
    rates, shares = [], []
    for sent in runs:
        kept = np.ones(len(sent.start_s), dtype=bool)
        for name, values in (
            ("ttft_ms", sent.ttft_s),
            ("tpot_ms", _tpot_or_zero(sent)),
            ("e2e_ms", sent.e2e_s),
        ):
            if name in slo:
                kept &= 1e3 * np.asarray(values) <= slo[name]
        rates.append(float(kept.sum()) / sent.duration_s)
        shares.append(float(kept.mean()))
    return {
        "goodput_request_s": float(np.median(rates)),
        "goodput_share": float(np.median(shares)),
    }


def _tpot_or_zero(sent: Sent) -> list[float]:
    """Per request, as in vLLM's goodput: an answer of one token keeps every TPOT."""
    return [
        sum(itl) / (length - 1) if length > 1 else 0.0
        for itl, length in zip(sent.itl_s, sent.output_lens, strict=True)
    ]


def _with_range(name: str, values: list[float]) -> dict[str, Any]:
    return {
        f"{name}_samples": values,
        name: float(np.median(values)),
        f"{name}_lo": min(values),
        f"{name}_hi": max(values),
    }
