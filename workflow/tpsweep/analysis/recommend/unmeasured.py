"""The cells that were not measured and would change the answer, as a config that can be run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tpsweep.analysis.recommend.offers import Answer, Offer
from tpsweep.analysis.recommend.question import ENERGY, LATENCY, Question, key_of
from tpsweep.config.settings import Pins
from tpsweep.core.axes import ENGINE_AXES, Axis
from tpsweep.core.cell import Engine, slug
from tpsweep.core.slo import GOODPUT, Slo
from tpsweep.core.slo_counts import JudgedSlo
from tpsweep.core.workloads import CAPACITY, SERVE

MOST = 4
"""Engines that are named."""
STARTS = 2
"""Engine starts that a capacity is confirmed over."""
PARTS = (0.5, 0.75, 0.9)
"""Of the expected capacity: where to measure if nobody asks for a rate or an SLO."""
LADDER = (1.0, 4.0, 16.0)
"""The same where nothing is expected."""
SECONDS, LEAST_REQUESTS, SEEDS, SERVE_MINUTES = 20, 400, 3, 20
PROBE_S, LIMITS_LONG = 30.0, 5
"""Seconds of a probe, at least, and so many times the longest limit of the SLO."""
PROBES, LONGER, LEAST_MINUTES, MOST_MINUTES = 10, 2, 20, 240
"""A search has about ten probes, each longer than what it judges. One that runs into its limit goes
on at the next run."""
PINS = tuple(Pins.model_fields)
"""Engine arguments that a workload sets; others are a variant's."""
KEPT = ("hf_home", "engine_start_minutes", "one_start", "prices")
"""Keys of the config that was given which hold for these cells, too."""
_AT_LEAST = "no rate that was measured failed, and nothing is expected of it"
_BETTER = 0.95
"""A score below this share of the best one's would be another answer."""


@dataclass(frozen=True)
class Wanted:
    """An engine to measure, and why. ``rates``: of interest, requests/s."""

    engine: Engine
    label: str
    rates: tuple[float, ...]
    why: str


def wanted(answer: Answer) -> list[Wanted]:
    """What would change ``answer``, the most telling first; the page names the same."""
    best = answer.best
    return _together((*_of_best(best, answer.question), *_rivals(best, answer)))[:MOST]


def to_measure(answer: Answer) -> list[Wanted]:
    """The same, and engines of which nothing tells what they could do; of one vLLM version."""
    more = (*_at_least(answer), *_untold(answer.best, answer))
    cells = _together((*wanted(answer), *more))
    return [c for c in cells if c.engine.vllm_version == cells[0].engine.vllm_version][:MOST]


def _together(cells: Iterable[Wanted]) -> list[Wanted]:
    """One of each engine."""
    found: dict[Any, Wanted] = {}
    for one in cells:
        known = found.get(key_of(one.engine))
        rates = one.rates if known is None else tuple(sorted({*known.rates, *one.rates}))
        why = one.why if known is None else f"{known.why}; {one.why}"
        found[key_of(one.engine)] = replace(one, rates=rates, why=why)
    return list(found.values())


def _of_best(best: Offer | None, question: Question) -> Iterator[Wanted]:
    """What the recommendation itself rests on."""
    if best is None:
        return
    load = best.rate / best.engines
    if not best.capacity.is_measured:
        is_asked = question.rate is not None or question.objective == LATENCY
        rates = (load,) if is_asked else _parts(best.capacity.request_s)
        yield Wanted(best.engine, best.label, rates, "it is recommended, and only expected")
        return
    if best.capacity.starts < STARTS:
        rates = (best.capacity.request_s,)
        yield Wanted(best.engine, best.label, rates, "its capacity is of one engine start")


def _rivals(best: Offer | None, answer: Answer) -> Iterator[Wanted]:
    """Engines that should do better than a measured answer."""
    if best is None or not best.capacity.is_measured:
        return
    question = answer.question
    score = best.score(question.objective)
    rivals = [one for one in answer.offers if not one.capacity.is_measured]
    for rival in sorted(rivals, key=lambda one: one.score(question.objective)):
        if rival.score(question.objective) < _BETTER * score:
            rates: tuple[float, ...] = (rival.rate / rival.engines,)
            if question.rate is None and question.objective != LATENCY:
                rates = _parts(rival.capacity.request_s)
            why = f"expected to be better: {_gain(rival, best)}"
            yield Wanted(rival.engine, rival.label, rates, why)


def _at_least(answer: Answer) -> Iterator[Wanted]:
    """Lower bounds that nothing closes: of the best if it takes several, of others as small."""
    best = answer.best
    if best is None:
        return
    for one in answer.offers:
        is_small = best.engines > 1 if one is best else one.engine.gpus <= best.gpus
        if one.is_open and is_small:
            yield Wanted(one.engine, one.label, (one.rate,), _AT_LEAST)


def _untold(best: Offer | None, answer: Answer) -> Iterator[Wanted]:
    """Engines of which nothing tells whether they are better, on as many GPUs at most."""
    question = answer.question
    for one in sorted(answer.refused, key=lambda one: one.engine.order):
        most = question.limit(one.engine.gpu) if best is None else best.gpus
        if one.would_tell and (most is None or one.engine.gpus <= most):
            rates = LADDER if question.rate is None else (question.rate,)
            yield Wanted(one.engine, one.label, rates, one.reason)


def _gain(rival: Offer, best: Offer) -> str:
    if rival.gpus != best.gpus and rival.rate == best.rate:
        noun = "GPU" if rival.gpus == 1 else "GPUs"
        return f"{rival.gpus:,} {noun}, not {best.gpus:,}"
    one, other = (offer.percentiles.get("e2e_p50_ms") for offer in (rival, best))
    if rival.rate == best.rate and one is not None and other is not None:
        return f"{one:.3g} ms a request, not {other:.3g}"
    one, other = (offer.rate / offer.gpus for offer in (rival, best))
    return f"{one:.3g} requests/s a GPU, not {other:.3g}"


def _parts(rate: float) -> tuple[float, ...]:
    return tuple(part * rate for part in PARTS)


def has_search(question: Question) -> bool:
    """Whether a search tells: there is an SLO to search for."""
    return question.slo is not None


def has_rates(question: Question) -> bool:
    """Whether rows at given rates tell: without an SLO, or of what a search does not measure."""
    return question.slo is None or question.objective in (LATENCY, ENERGY)


def config_of(
    cells: Sequence[Wanted],
    question: Question,
    model: Mapping[str, Any],
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A config.yaml that measures ``cells``; ``model``: the model's entry; ``given``: the config
    that was asked with."""
    variants: dict[str, Any] = {}
    workloads: dict[str, Any] = {}
    for number, one in enumerate(cells, 1):
        engine = one.engine
        variants[engine.variant] = {k: v for k, v in engine.args.items() if k not in PINS}
        common = {
            **_axes(engine),
            "dataset": "random",
            "input_len": [question.traffic.input_len],
            "output_len": [question.traffic.output_len],
            "engine": {name: engine.args[name] for name in PINS if name in engine.args},
        }
        if question.slo is not None:
            search = _search(one, question.slo)
            workloads[f"capacity-{number}"] = {"kind": CAPACITY, **common, **search}
        if has_rates(question):
            workloads[f"serve-{number}"] = {"kind": SERVE, **common, **_served(one.rates)}
    usual = [axis for axis in ENGINE_AXES if axis.added and _is_usual(axis, cells)]
    for axis in usual:
        for entry in workloads.values():
            del entry[str(axis.config_key)]
    lists = {
        key: list(dict.fromkeys(value for entry in workloads.values() for value in entry[key]))
        for axis in ENGINE_AXES
        if axis.is_sweep_wide and axis not in usual
        if (key := str(axis.config_key)) not in ("models", "variants")  # mappings of their own
    }
    slo = question.slo
    return {
        "results": f"results/recommend-{slug(question.model)}",
        "vllm_version": (given or {}).get("vllm_version", cells[0].engine.vllm_version),
        **{key: given[key] for key in KEPT if given and key in given},
        "models": {question.model: dict(model)},
        "variants": variants,
        **lists,
        "runs": STARTS,
        **({} if slo is None else {"slos": {_slo_name(slo): slo.by_name}}),
        "workloads": workloads,
    }


def _search(one: Wanted, slo: Slo) -> dict[str, Any]:
    """What a workload of kind ``capacity`` has beside its engine and lengths."""
    longest = max(limit for name, limit in slo.limits if name != GOODPUT) / 1e3
    probe_s = max(PROBE_S, math.ceil(LIMITS_LONG * longest))
    least = JudgedSlo.of(slo.name, slo.by_name).least_requests
    seconds = PROBES * LONGER * max(probe_s, least / max(one.rates))
    minutes = min(MOST_MINUTES, max(LEAST_MINUTES, math.ceil(seconds / 60)))
    return {"probe_s": probe_s, "minutes": minutes}


def _served(rates: Sequence[float]) -> dict[str, Any]:
    """The same of kind ``serve``."""
    requests = max(LEAST_REQUESTS, math.ceil(SECONDS * max(rates)))
    return {
        "request_rate": [float(f"{rate:.4g}") for rate in rates],
        "num_prompts": [requests],
        "warmups": 10,
        "repeats": SEEDS,
        "minutes": SERVE_MINUTES,
    }


def _slo_name(slo: Slo) -> str:
    """The name that was asked for; limits have none."""
    return "asked" if "=" in slo.name else slo.name


def _is_usual(axis: Axis, cells: Sequence[Wanted]) -> bool:
    """Whether all cells have the default: then the config need not name the axis."""
    return all(axis.is_default(getattr(one.engine, axis.name)) for one in cells)


def _axes(engine: Engine) -> dict[str, list[Any]]:
    """The lists that narrow a workload to one engine."""
    values = engine.columns()
    if not engine.has_allreduce:
        values["allreduce_backend"] = "auto"
    return {str(axis.config_key): [values[axis.name]] for axis in ENGINE_AXES}
