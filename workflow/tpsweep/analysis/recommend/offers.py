"""Offers: an engine, how many of it, what that costs and how fast it is, best first.

What is measured comes before what is only expected; within both, by the objective.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tpsweep.analysis.recommend.evidence import Capacity, Evidence
from tpsweep.analysis.recommend.expected import Expectation
from tpsweep.analysis.recommend.question import (
    COST,
    ENERGY,
    LATENCY,
    NodeClass,
    Question,
    Traffic,
    key_of,
    labels_of,
    place_of,
)
from tpsweep.core.cell import Engine
from tpsweep.core.slo import Slo
from tpsweep.perfmodel.model_shape import Shape

_SLACK = 1e-9
LIGHT = 0.05
"""Of capacity: hardly a request meets another."""
_HOUR, _MILLION = 3600, 1e6
TTFT = "ttft_p99_ms"
"""What the expectation is known to have too low."""


@dataclass(frozen=True)
class Offer:
    """``engines`` of one kind behind a load balancer, each with an equal part of the rate.

    ``rate``: of all together. ``headroom``: share of the capacity that is left. ``percentiles``:
    at the load, ms; ``latency_at``: the rate per engine at which rows have them, None: expected.
    ``request_ms``: what a request takes. USD and joules are per million output tokens. None where
    nothing tells. ``has_long_steps``: see ``expected``. ``ttft_share``: expected over measured TTFT
    p99 of published rows at such a load, None if rows tell it here. ``is_open``: it may do more,
    and neither a rate that failed nor an expectation says how much.
    """

    engine: Engine
    label: str
    capacity: Capacity
    engines: int
    rate: float
    nodes: int | None
    usd: float | None
    joules: float | None
    percentiles: Mapping[str, float]
    latency_at: float | None
    request_ms: float | None
    has_long_steps: bool
    ttft_share: float | None
    is_open: bool

    @property
    def gpus(self) -> int:
        """GPUs of all engines."""
        return self.engines * self.engine.gpus

    @property
    def headroom(self) -> float:
        """Of capacity; of a lower bound at least that."""
        return 1 - self.rate / (self.engines * self.capacity.request_s)

    def may_fail(self, slo: Slo | None) -> bool:
        """Whether the limit of TTFT p99 is within the known error of what is expected."""
        limit = slo.by_name.get(TTFT) if slo else None
        expected = self.percentiles.get(TTFT)
        if limit is None or expected is None or self.ttft_share is None:
            return False
        return expected / self.ttft_share > limit

    def score(self, objective: str) -> float:
        """What the objective wants small; infinite where nothing tells."""
        asked = {
            COST: self.usd,
            ENERGY: self.joules,
            LATENCY: self.request_ms,
        }.get(objective, self.gpus / self.rate)
        return math.inf if asked is None else asked


@dataclass(frozen=True)
class Refused:
    """An engine that is no answer, and why. ``is_open``: a measurement could make it one;
    ``is_of_objective``: of what the objective asks for. ``is_expected``: something is of others."""

    engine: Engine
    label: str
    reason: str
    is_open: bool = False
    is_of_objective: bool = False
    is_expected: bool = False

    @property
    def would_tell(self) -> bool:
        """Whether it is worth a measurement."""
        return self.is_open and (self.is_of_objective or not self.is_expected)


@dataclass(frozen=True)
class Answer:
    """``offers`` best first. ``errors``: expected over measured TPOT, of the rows at hand that have
    an expectation, up to 0.9 of the expected capacity."""

    question: Question
    offers: list[Offer]
    refused: list[Refused]
    errors: list[float]

    @property
    def best(self) -> Offer | None:
        """The recommendation."""
        return self.offers[0] if self.offers else None


@dataclass(frozen=True)
class Candidates:
    """What may answer: engines with rows, and others of which only an expectation is known."""

    evidence: Mapping[Any, Evidence]
    others: Sequence[Engine]
    classes: Mapping[str, NodeClass]
    shape: Shape | None

    def label(self, engine: Engine) -> str:
        """``TP=2 on H200``, different of any two engines."""
        return self._labels[key_of(engine)]

    def expectation(self, engine: Engine, traffic: Traffic) -> Expectation:
        """Of one of them, with the memory that its node class has."""
        known = self.classes.get(engine.gpu)
        return Expectation(engine, traffic, self.shape, known.memory_gib if known else None)

    @cached_property
    def _labels(self) -> dict[Any, str]:
        engines = [one.engine for one in self.evidence.values()]
        places = {place_of(engine) for engine in engines}
        return labels_of([*engines, *(e for e in self.others if place_of(e) not in places)])


def answer(question: Question, candidates: Candidates) -> Answer:
    """Every engine that can answer, ranked; pure."""
    found = Answer(question, [], [], [])
    measured, is_expected = set(), False
    for evidence in candidates.evidence.values():
        if not question.allows(evidence.engine.gpu):
            continue
        expectation = candidates.expectation(evidence.engine, question.traffic)
        found.errors.extend(errors_of(evidence, expectation))
        capacity = evidence.capacity(question.slo)
        if capacity is None:
            continue
        measured.add(place_of(evidence.engine))
        _offer(found, evidence, expectation, capacity, candidates)
        if (higher := _higher(question, evidence, expectation, capacity)) is not None:
            _offer(replace(found, refused=[]), evidence, expectation, higher, candidates)
    for engine in unmeasured(candidates):
        if not question.allows(engine.gpu) or place_of(engine) in measured:
            continue
        measured.add(place_of(engine))
        expectation = candidates.expectation(engine, question.traffic)
        evidence = candidates.evidence.get(key_of(engine), Evidence(engine))
        expected = _expected(expectation, evidence, question)
        if expected is None:
            said = "not measured; of a share of requests nothing is expected"
            reason, is_open = expectation.problem or said, expectation.misfit is None
            found.refused.append(Refused(engine, candidates.label(engine), reason, is_open))
            continue
        is_expected = True
        _offer(found, evidence, expectation, expected, candidates)
    if found.offers and is_expected:  # one of which nothing is does not stand out
        found.refused[:] = [replace(one, is_expected=True) for one in found.refused]
    found.offers.sort(key=lambda offer: _order(offer, question))
    return found


def _order(offer: Offer, question: Question) -> tuple[Any, ...]:
    score = offer.score(question.objective)
    more = -offer.headroom, offer.percentiles.get("e2e_p50_ms", math.inf)
    return (not offer.capacity.is_measured, score, offer.gpus, *more, offer.label)


def unmeasured(candidates: Candidates) -> list[Engine]:
    """Every engine, in the order in which it speaks for its layout if no capacity of that is known:
    those with rows first, most served ones before others."""
    with_rows = sorted(
        candidates.evidence.values(),
        key=lambda one: (-len(one.served), one.engine.variant != "default", -one.rows),
    )
    places = {place_of(one.engine) for one in with_rows}
    others = (engine for engine in candidates.others if place_of(engine) not in places)
    return [*(one.engine for one in with_rows), *others]


def _higher(
    question: Question, evidence: Evidence, expectation: Expectation, capacity: Capacity
) -> Capacity | None:
    """What is expected of an engine above a lower bound, if fewer engines would be enough."""
    if not capacity.is_least or capacity.request_s <= 0:
        return None
    expected = _expected(expectation, evidence, question)
    if expected is None or question.rate is None or question.objective == LATENCY:
        return None
    fewer = _engines(question, evidence.engine, expected) if expected.request_s else math.inf
    return expected if fewer < _engines(question, evidence.engine, capacity) else None


def _expected(expectation: Expectation, evidence: Evidence, question: Question) -> Capacity | None:
    """What is expected where rows do not refute it: as far as they are slower than expected, limits
    are met earlier; and no rate that is known to fail is expected to hold."""
    expected = expectation.capacity(question.slo, _times(evidence, expectation))
    failed = evidence.fails_at(question.slo)
    if expected is None or failed is None:
        return expected
    below = min(expected.request_s, failed * (1 - _SLACK))
    return replace(expected, request_s=below, fails_at=failed)


def _times(evidence: Evidence, expectation: Expectation) -> dict[str, float]:
    """How many times what is expected rows have of each percentile, at most; 1 and more."""
    found: dict[str, float] = {}
    for one in evidence.rates:
        expected = None if one.is_saturated else expectation.at(one.rate)
        if expected is not None:
            for name, value in one.percentiles.items():
                found[name] = max(found.get(name, 1.0), value / expected[name])
    return found


def errors_of(evidence: Evidence, expectation: Expectation) -> list[float]:
    """Expected over measured TPOT of each served row."""
    found: list[float] = []
    for rate in evidence.served:
        expected = expectation.at(rate)
        if expected is not None:
            found += evidence.error(rate, expected["tpot_p50_ms"])
    return found


def _offer(
    found: Answer,
    evidence: Evidence,
    expectation: Expectation,
    capacity: Capacity,
    candidates: Candidates,
) -> None:
    """Add to the offers of ``found``, or to what is refused."""
    question, engine = found.question, evidence.engine
    label = candidates.label(engine)
    known = candidates.classes.get(engine.gpu) or NodeClass(engine.gpu, engine.gpu_card)

    def refuse(reason: str, *, is_open: bool = False) -> None:
        found.refused.append(Refused(engine, label, reason, is_open, is_of_objective=is_open))

    if capacity.request_s <= 0:
        refuse(_too_slow(question, evidence, expectation, capacity))
        return
    engines = _engines(question, engine, capacity)
    rate = _rate(question, evidence, capacity)
    limit = question.limit(engine.gpu)
    gpus = engines * engine.gpus
    if limit is not None and gpus > limit:
        refuse(f"{gpus} GPUs for {rate:g} requests/s, allowed: {limit}")
        return
    nodes: int | None = engines * engine.nodes
    if engine.nodes == 1:
        nodes = known.nodes(engine.gpus, engines)
        if nodes is None and known.per_node is not None:
            refuse(f"{engine.product} > {known.per_node} on a node")
            return
    load = rate / engines
    percentiles, latency_at = _latency(evidence, expectation, load, capacity, question)
    tokens_s = rate * question.traffic.output_len
    watts, price = evidence.watts(load), known.gpu_hour_usd
    is_seen = capacity.is_measured or latency_at is not None
    offer = Offer(
        engine=engine,
        label=label,
        capacity=capacity,
        engines=engines,
        rate=rate,
        nodes=nodes,
        usd=None if price is None else gpus * price / _HOUR / tokens_s * _MILLION,
        joules=None if watts is None else watts * engines / tokens_s * _MILLION,
        percentiles=percentiles,
        latency_at=latency_at,
        request_ms=_request_ms(percentiles, question.traffic.output_len),
        has_long_steps=not capacity.is_measured and load > expectation.busy_from,
        ttft_share=None if is_seen else expectation.ttft_share(load),
        is_open=_is_open(capacity, expectation),
    )
    if math.isinf(offer.score(question.objective)):
        is_open = question.objective != COST
        refuse(_UNTOLD[question.objective].format(engine.gpu), is_open=is_open)
        return
    found.offers.append(offer)


def _is_open(capacity: Capacity, expectation: Expectation) -> bool:
    is_bound = capacity.is_least and capacity.fails_at is None
    return is_bound and expectation.problem is not None


_UNTOLD = {
    COST: "no price of {} (`prices` of the config)",
    ENERGY: "no row tells its power at such a load",
    LATENCY: "its latency at that load is not known",
}
"""Why an engine cannot be ranked by an objective."""


def _request_ms(percentiles: Mapping[str, float], output_len: int) -> float | None:
    """Median time of a request; where rows lack it, by the medians of its parts."""
    names = "e2e_p50_ms", "ttft_p50_ms", "tpot_p50_ms"
    whole, first, each = (percentiles.get(name) for name in names)
    if whole is not None or first is None:
        return whole
    if output_len == 1:
        return first
    return None if each is None else first + (output_len - 1) * each


def _engines(question: Question, engine: Engine, capacity: Capacity) -> int:
    """As few as carry the rate; for latency as many as are allowed."""
    if question.rate is None:
        return 1
    least = max(1, math.ceil(question.rate / capacity.request_s - _SLACK))
    limit = question.limit(engine.gpu)
    if question.objective != LATENCY or limit is None:
        return least
    return max(least, limit // engine.gpus)


def _rate(question: Question, evidence: Evidence, capacity: Capacity) -> float:
    """What all engines carry; without a rate one engine's capacity, or for latency a light load."""
    if question.rate is not None:
        return question.rate
    if question.objective != LATENCY:
        return capacity.request_s
    lowest = evidence.lowest_rate() if capacity.is_measured else None
    return min(lowest or LIGHT * capacity.request_s, capacity.request_s)


def _latency(
    evidence: Evidence,
    expectation: Expectation,
    load: float,
    capacity: Capacity,
    question: Question,
) -> tuple[Mapping[str, float], float | None]:
    """Percentiles at the load of one engine, and the measured rate that they are of: one that does
    not fail."""
    found, fails_at = evidence.latency(load, question.slo), capacity.fails_at
    if found is not None and (fails_at is None or found[0] < fails_at):
        return found[1], found[0]
    return expectation.at(load) or {}, None


def _too_slow(
    question: Question, evidence: Evidence, expectation: Expectation, capacity: Capacity
) -> str:
    """Which limits do not hold at the lightest load, with the values."""
    slo = question.slo
    if slo is None:
        return f"saturated at {capacity.fails_at:g} requests/s, the lowest rate measured"
    if capacity.is_measured:
        lowest = evidence.lowest_rate()
        if lowest is None:
            return "the search: nothing passes"
        found = evidence.latency(lowest)
        return f"{_missed(slo, found[1] if found else {})} at {lowest:g} requests/s, measured"
    alone = expectation.at(0.0) or {}
    if not slo.failed(alone):
        return "rows are slower than expected: not even one request would keep the limits"
    return f"{_missed(slo, alone)} for a single request, expected"


def _missed(slo: Any, percentiles: Mapping[str, float]) -> str:
    limits = slo.by_name
    said = (
        f"{name.removesuffix('_ms')} {percentiles[name]:.3g} > {limits[name]:g} ms"
        for name in slo.failed(percentiles)
    )
    return ", ".join(said) or "saturated"
