"""The ``capacity`` workload: the highest request rate at which a server keeps each SLO.

``capacity_search`` says which rate to probe next. A probe sends Poisson arrivals at that rate in
three parts: a warm-up until the server is as full as this rate makes it, the requests that are
judged, and more of the same behind them until they have ended.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from tpsweep.core import saturation
from tpsweep.core.cell import Cell
from tpsweep.core.failure import STOPPED
from tpsweep.core.slo_counts import PATIENCE, SATURATED, Counts, JudgedSlo, Stop, Times, slos_of
from tpsweep.core.stats import percentile
from tpsweep.engine.api_server import Counters
from tpsweep.engine.load_generator import Sent, times_of
from tpsweep.measure import measurement, serving
from tpsweep.measure.capacity_search import (
    CONFIRM,
    Answer,
    Ask,
    Probe,
    Spec,
    next_step,
    rounded,
)
from tpsweep.measure.measurement import Measurement
from tpsweep.measure.probe_log import Line, ProbeLog
from tpsweep.sweep.request_set import RequestSet

START_SHARE = 0.6
"""Of the most that the server should do, or did when all came at once: where the search starts."""
WARM_SHARE = 0.2
WARM_LATENCIES = 1.5
"""A warm-up takes this share of the judged time, and this many times a request's time, at least."""
LEAST_PATIENCE_S = 2.0
"""Seconds before a queue is called one, however short requests are."""
CLIENT_BUSY = 0.9
"""Of a processor: from here on the client may have been the limit."""
CLIENT_LATE = 0.95
"""Of the pace at which the requests were to be sent: what the client must have kept."""


class Send(Protocol):
    """Sends a request set once (see ``tpsweep.engine.load_generator.send``)."""

    def __call__(
        self,
        requests: RequestSet,
        rate: float | None,
        concurrency: int | None,
        seed: int,
        *,
        stop: Stop | None = None,
    ) -> Sent: ...


@dataclass(frozen=True)
class Probed:
    """A probe and what it showed, of its judged requests. ``queue``: mean requests in flight;
    ``client_pace``: the time in which they were to be sent over the time that it took."""

    probe: Probe
    requests: int
    duration_s: float
    e2e_p50_ms: float | None
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    tpot_p50_ms: float | None
    tpot_p99_ms: float | None
    sent_request_s: float | None
    served_request_s: float | None
    output_tok_s: float | None
    queue: float | None
    client_cpu_share: float
    client_pace: float | None
    engine_id: str

    def to_line(self) -> Line:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_line(cls, line: Line) -> Probed:
        """Inverse of ``to_line``; raises ``TypeError`` and ``KeyError`` for anything else."""
        probe = dict(line["probe"])
        probe["counts"] = {
            slo: {limit: Counts(**found) for limit, found in limits.items()}
            for slo, limits in probe["counts"].items()
        }
        return cls(**{**line, "probe": Probe(**probe)})

    @property
    def client_problem(self) -> str | None:
        """Why the client, not the server, may have been the limit; None if it was not."""
        at = f"at {self.probe.request_s:g}/s"
        if self.client_cpu_share > CLIENT_BUSY:
            return f"the client used {self.client_cpu_share:.0%} of a processor {at}"
        # Not by the rate of what was sent: that of a few Poisson arrivals is any.
        if self.client_pace is not None and self.client_pace < CLIENT_LATE:
            return f"the client sent {self.client_pace * self.probe.request_s:.3g}/s {at}"
        return None


@dataclass(frozen=True)
class Load:
    """What a probe sends; judged are the requests ``first`` to ``last`` (not included)."""

    requests: RequestSet
    first: int
    last: int

    @property
    def tokens(self) -> int:
        """Gaps between tokens of the judged answers, at most."""
        return sum(length - 1 for length in self.requests.output_lens[self.first : self.last])


def run(
    cell: Cell,
    requests: RequestSet,
    send: Send,
    counters: Callable[[], Counters],
    log: ProbeLog,
    expected_request_s: float | None,
    engine_id: str,
    clock: Callable[[], float] = time.monotonic,
) -> Measurement:
    """Measure a cell. ``expected_request_s``: the most that the server should do, if that is known.

    ``log`` has the probes of a search that was killed, and gets those of this one. It is for the
    caller to remove, once there is a row or a refusal.
    """
    slos = slos_of(cell.extra["slos"])
    began = clock()
    before = counters()
    look, reasons = _first_look(cell, requests, send)
    sent_count = len(look.errors)
    start, probed = _resume(log)
    if start is None:
        most = expected_request_s or len(look.errors) / look.duration_s
        start = min(rounded(START_SHARE * most), cell.extra["max_request_rate"])
    spec = Spec(slos, start, cell.extra["max_request_rate"], cell.repeats, cell.extra["max_probes"])
    log.begin(start, [one.to_line() for one in probed])
    look_ms = 1e3 * float(np.median(look.e2e_s)) if not reasons else 0.0
    measured = clock()
    answers: list[Answer] = []
    while not reasons:
        step = next_step(spec, [one.probe for one in probed])
        if not isinstance(step, Ask):
            answers = step
            break
        judged = judged_requests(cell, slos, step.request_s)
        latency_ms = _latency_ms(probed, look_ms)
        load = make_load(step, requests, judged, latency_ms)
        open_slos = tuple(slo for slo in slos if slo.name in step.wanted)
        patience_s = max(LEAST_PATIENCE_S, PATIENCE * latency_ms / 1e3)
        # One seed of several that confirm may have more beyond a limit than its own share.
        runs = spec.seeds if step.purpose == CONFIRM else 1
        stop = Stop(open_slos, load.first, load.last, load.tokens, patience_s, runs)
        sent = send(load.requests, step.request_s, None, step.seed, stop=stop)
        sent_count += len(sent.errors)
        reasons = problems(load.requests, sent)
        if not reasons:
            probed.append(judge(step, load, slos, sent, engine_id))
            log.append(probed[-1].to_line())
    times = measurement.Times(began, measured, clock())
    after = counters()
    if (hits := after.prefix_hits - before.prefix_hits) > 0:
        reasons.append(f"{hits:.0f} prompt tokens came from the prefix cache")
    if (finished := after.finished - before.finished) > sent_count:
        said = f"the server answered {finished:.0f} requests, {sent_count} were sent"
        reasons.append(f"{said}: someone else used it")
    made = {} if reasons else figures(cell, slos, probed, answers)
    made |= {"request_set_digest": requests.digest} if made else {}
    return Measurement(times, made, reasons, output_tokens=0)


def judged_requests(cell: Cell, slos: Sequence[JudgedSlo], rate: float) -> int:
    """How many requests of a probe are judged: those of ``probe_s`` seconds, but ``probe_requests``
    and what the SLOs' shares need at least (``core.slo_counts.TAIL``)."""
    least = max(slo.least_requests for slo in slos)
    count = math.ceil(rate * float(cell.extra["probe_s"]))
    return max(count, int(cell.extra["probe_requests"]), least)


def make_load(ask: Ask, requests: RequestSet, judged: int, latency_ms: float) -> Load:
    """The requests of a probe: those of the set in an order of its seed, at Poisson arrivals.

    Each part has exactly the asked mean rate: its count is no part of the chance.
    """
    rate, latency_s = ask.request_s, latency_ms / 1e3
    warm = math.ceil(max(WARM_SHARE * judged, WARM_LATENCIES * latency_s * rate))
    behind = math.ceil(latency_s * rate) + 1
    random = np.random.default_rng([ask.seed, len(requests.prompts)])
    gaps = [random.exponential(size=count) for count in (warm, judged, behind)]
    scaled = np.concatenate([part * part.size / part.sum() for part in gaps]) / rate
    arrivals = np.cumsum(scaled) - scaled[0]
    turns = -(-arrivals.size // len(requests.prompts))
    order = np.concatenate([random.permutation(len(requests.prompts)) for _ in range(turns)])
    chosen = order[: arrivals.size].tolist()
    sent = RequestSet(
        [requests.prompts[k] for k in chosen],
        [requests.output_lens[k] for k in chosen],
        arrivals.tolist(),
    )
    return Load(sent, warm, warm + judged)


def problems(requests: RequestSet, sent: Sent) -> list[str]:
    """Why a run says nothing of the server (measuring rule 2); what was cut off is not in it."""
    ended = [place for place, error in enumerate(sent.errors) if error != STOPPED]

    def of(values: Sequence[Any]) -> list[Any]:
        return [values[place] for place in ended]

    asked = RequestSet(of(requests.prompts), of(requests.output_lens))
    found = replace(
        sent,
        input_lens=of(sent.input_lens),
        output_lens=of(sent.output_lens),
        errors=of(sent.errors),
    )
    return serving.refusals(asked, [found])


def judge(ask: Ask, load: Load, slos: Sequence[JudgedSlo], sent: Sent, engine_id: str) -> Probed:
    """What a run says of each SLO."""
    ended = range(load.first, min(load.last, len(sent.errors)))
    places = [place for place in ended if not sent.errors[place]]
    times = [
        times_of(sent.ttft_s[place], sent.itl_s[place], sent.output_lens[place]) for place in places
    ]
    lost = dict(sent.lost or {})
    stopped = sent.lost is not None
    if not stopped:
        verdict = saturation.judge([serving.seed_of(sent)]).verdict
        lost = {slo.name: SATURATED for slo in slos} if verdict == saturation.YES else {}
    probe = Probe(
        ask.request_s,
        ask.seed,
        ask.purpose,
        {slo.name: {one.name: _counts(one, times) for one in slo.limits} for slo in slos},
        lost,
        stopped,
    )
    ttft, tpot = [one.ttft for one in times], [one.tpot for one in times]
    window = _window(load, sent)
    rates = serving.steady_rates(sent, *window) if window else None
    return Probed(
        probe=probe,
        requests=len(places),
        duration_s=sent.duration_s,
        e2e_p50_ms=float(np.median([one.e2e for one in times])) if times else None,
        ttft_p50_ms=percentile(ttft, 50),
        ttft_p99_ms=percentile(ttft, 99),
        tpot_p50_ms=percentile(tpot, 50),
        tpot_p99_ms=percentile(tpot, 99),
        sent_request_s=(len(ended) - 1) / (window[1] - window[0]) if window else None,
        served_request_s=rates.request_s if rates else None,
        output_tok_s=rates.output_tok_s if rates else None,
        queue=_in_flight(sent, *window) if window else None,
        client_cpu_share=sent.client_cpu_s / sent.duration_s,
        client_pace=_pace(load, len(ended), window[1] - window[0]) if window else None,
        engine_id=engine_id,
    )


def figures(
    cell: Cell, slos: Sequence[JudgedSlo], probed: Sequence[Probed], answers: Sequence[Answer]
) -> dict[str, Any]:
    """The row's columns: the answers by SLO, and every probe."""
    probes = [one.probe for one in probed]
    at = [_at(probed, answer) for answer in answers]
    return {
        "slos": json.dumps(cell.extra["slos"]),
        "slo_names": [answer.slo for answer in answers],
        "capacity_request_s": [answer.request_s for answer in answers],
        "capacity_upper_request_s": [answer.upper_request_s for answer in answers],
        "capacity_verdicts": [answer.verdict for answer in answers],
        "capacity_limits": [answer.limit for answer in answers],
        "capacity_notes": [_note(answer, probed) for answer in answers],
        "capacity_output_tok_s": [_mean(found, "output_tok_s") for found in at],
        "capacity_ttft_p50_ms": [_mean(found, "ttft_p50_ms") for found in at],
        "capacity_ttft_p99_ms": [_mean(found, "ttft_p99_ms") for found in at],
        "capacity_tpot_p50_ms": [_mean(found, "tpot_p50_ms") for found in at],
        "capacity_tpot_p99_ms": [_mean(found, "tpot_p99_ms") for found in at],
        "probe_request_s": [one.request_s for one in probes],
        "probe_seeds": [one.seed for one in probes],
        "probe_purposes": [one.purpose for one in probes],
        "probe_verdicts": [_verdicts(one, slos) for one in probes],
        "probe_counts": [_counts_json(one) for one in probes],
        "probe_stopped": [one.stopped for one in probes],
        **{f"probe_{name}": [getattr(one, name) for one in probed] for name in _KEPT},
        "client_cpu_share": max((one.client_cpu_share for one in probed), default=None),
    }


_KEPT = (
    "requests",
    "duration_s",
    "ttft_p50_ms",
    "ttft_p99_ms",
    "tpot_p50_ms",
    "tpot_p99_ms",
    "sent_request_s",
    "served_request_s",
    "output_tok_s",
    "queue",
    "client_cpu_share",
    "engine_id",
)
"""Fields of ``Probed`` that are columns of the row, one element per probe."""


def _first_look(cell: Cell, requests: RequestSet, send: Send) -> tuple[Sent, list[str]]:
    """The warm-up, all at once: what it shows is where to begin."""
    chosen = [place % len(requests.prompts) for place in range(max(1, cell.warmups))]
    few = RequestSet(
        [requests.prompts[k] for k in chosen], [requests.output_lens[k] for k in chosen]
    )
    sent = send(few, None, None, 0)
    return sent, serving.refusals(few, [sent])


def _resume(log: ProbeLog) -> tuple[float | None, list[Probed]]:
    """Where the search started, and its probes; None and none if they are not as we write them."""
    try:
        start, lines = log.read()
        return start, [Probed.from_line(line) for line in lines]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None, []


def _latency_ms(probed: Sequence[Probed], look_ms: float) -> float:
    """What a request should take: the median of the last probe that ran to its end."""
    known = [one.e2e_p50_ms for one in probed if one.e2e_p50_ms and not one.probe.stopped]
    return max([look_ms, *known[-1:]])


def _counts(limit: Any, times: Sequence[Times]) -> Counts:
    """Answers of one token have no gap: they keep an ITL, as they keep every TPOT."""
    if limit.is_per_token and times and not any(one.itl for one in times):
        return Counts(len(times), len(times))
    counted = [limit.count(one) for one in times]
    return Counts(
        sum(kept for kept, _ in counted), sum(of for _, of in counted), _value(limit, times)
    )


def _value(limit: Any, times: Sequence[Times]) -> float | None:
    """The percentile that a limit is about."""
    if len(limit.most_ms) != 1 or not limit.name.endswith("_ms"):
        return None
    (metric,) = limit.most_ms
    values = [getattr(one, metric) for one in times]
    if limit.is_per_token:
        values = [gap for gaps in values for gap in gaps]
    return float(np.percentile(values, 100 * limit.share)) if values else None


def _window(load: Load, sent: Sent) -> tuple[float, float] | None:
    """From the send of the first judged request to that of the last; None if too few were sent."""
    last = min(load.last, len(sent.start_s)) - 1
    if last <= load.first or sent.start_s[last] <= sent.start_s[load.first]:
        return None
    return sent.start_s[load.first], sent.start_s[last]


def _pace(load: Load, count: int, took_s: float) -> float:
    """When the first ``count`` of the judged requests were to be sent, over when they were."""
    due_s = load.requests.arrivals_s
    assert due_s is not None
    return (due_s[load.first + count - 1] - due_s[load.first]) / took_s


def _in_flight(sent: Sent, since: float, until: float) -> float:
    """Mean number of requests that were sent and had not ended."""
    end = [
        start + e2e if not error else until
        for start, e2e, error in zip(sent.start_s, sent.e2e_s, sent.errors, strict=True)
    ]
    inside = np.clip(end, since, until) - np.clip(sent.start_s, since, until)
    return float(inside.sum() / (until - since))


def _at(probed: Sequence[Probed], answer: Answer) -> list[Probed]:
    """The probes that confirmed an answer."""
    found = [one for one in probed if one.probe.request_s == answer.request_s]
    return [one for one in found if one.probe.purpose == CONFIRM]


def _mean(found: Sequence[Probed], name: str) -> float | None:
    values = [value for one in found if (value := getattr(one, name)) is not None]
    return float(np.mean(values)) if values else None


def _note(answer: Answer, probed: Sequence[Probed]) -> str | None:
    """What else people must know of an answer: a cliff, or that the client was the limit."""
    rate = answer.upper_request_s or answer.request_s
    client = [one.client_problem for one in probed if one.probe.request_s == rate]
    busy = next((one for one in client if one), None)
    notes = [answer.note, f"{busy} and may have been the limit" if busy else None]
    return "; ".join(one for one in notes if one) or None


def _verdicts(probe: Probe, slos: Sequence[JudgedSlo]) -> str:
    """``chat: passes; batch: fails (tpot_p99_ms)``."""
    words = []
    for slo in slos:
        counts = probe.counts[slo.name]
        beyond = [
            one.name
            for one in slo.limits
            if not one.is_kept(counts[one.name].kept, counts[one.name].of)
        ]
        if slo.name in probe.lost:
            words.append(f"{slo.name}: fails ({probe.lost[slo.name]})")
        elif probe.stopped:
            words.append(f"{slo.name}: not known")
        else:
            words.append(
                f"{slo.name}: {'fails (' + ', '.join(beyond) + ')' if beyond else 'passes'}"
            )
    return "; ".join(words)


def _counts_json(probe: Probe) -> str:
    return json.dumps(
        {
            slo: {limit: [found.kept, found.of] for limit, found in limits.items()}
            for slo, limits in probe.counts.items()
        }
    )
