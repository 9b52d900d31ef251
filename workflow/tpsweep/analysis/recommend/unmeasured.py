"""The cells that were not measured and would change the answer, as a config that can be run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tpsweep.analysis.recommend.offers import Answer, Offer
from tpsweep.analysis.recommend.question import ENERGY, LATENCY, Question, key_of, label_of
from tpsweep.config.settings import Pins
from tpsweep.core.axes import ENGINE_AXES, Axis
from tpsweep.core.cell import Engine, slug
from tpsweep.core.workloads import SERVE

MOST = 4
"""Engines that are named."""
STARTS = 2
"""Engine starts that a capacity is confirmed over."""
PARTS = (0.5, 0.75, 0.9)
"""Of the expected capacity: where to measure if nobody asks for a rate."""
SECONDS, LEAST_REQUESTS, SEEDS = 20, 400, 3
PINS = tuple(Pins.model_fields)
"""Engine arguments that a workload sets; others are a variant's."""
_BETTER = 0.95
"""A score below this share of the best one's would be another answer."""


@dataclass(frozen=True)
class Wanted:
    """Rates to measure on an engine, and why."""

    engine: Engine
    rates: tuple[float, ...]
    why: str

    @property
    def label(self) -> str:
        """``TP=2 on H200``."""
        return label_of(self.engine)


def wanted(answer: Answer) -> list[Wanted]:
    """What would change ``answer``, the most telling first."""
    best = answer.best
    if best is None:
        return []
    found: dict[Any, Wanted] = {}
    for one in (*_of_best(best, answer.question), *_rivals(best, answer)):
        known = found.get(key_of(one.engine))
        rates = one.rates if known is None else tuple(sorted({*known.rates, *one.rates}))
        why = one.why if known is None else f"{known.why}; {one.why}"
        found[key_of(one.engine)] = Wanted(one.engine, rates, why)
    return list(found.values())[:MOST]


def _of_best(best: Offer, question: Question) -> Iterator[Wanted]:
    """What the recommendation itself rests on."""
    load = best.rate / best.engines
    if not best.capacity.is_measured:
        is_asked = question.rate is not None or question.objective == LATENCY
        rates = (load,) if is_asked else _parts(best.capacity.request_s)
        yield Wanted(best.engine, rates, "it is recommended, and only expected")
        return
    if best.capacity.starts < STARTS:
        rates = (best.capacity.request_s,)
        yield Wanted(best.engine, rates, "its capacity is of one engine start")


def _rivals(best: Offer, answer: Answer) -> Iterator[Wanted]:
    """Engines that should do better than a measured answer, or of which it is not known."""
    question = answer.question
    score = best.score(question.objective)
    rivals = [one for one in answer.offers if not one.capacity.is_measured]
    for rival in sorted(rivals, key=lambda one: one.score(question.objective)):
        if rival is best:
            continue
        if best.capacity.is_measured and rival.score(question.objective) < _BETTER * score:
            rates: tuple[float, ...] = (rival.rate / rival.engines,)
            if question.rate is None and question.objective != LATENCY:
                rates = _parts(rival.capacity.request_s)
            yield Wanted(rival.engine, rates, f"expected to be better: {_gain(rival, best)}")
        elif question.objective == ENERGY and math.isinf(rival.score(ENERGY)):
            yield Wanted(rival.engine, (rival.rate / rival.engines,), "its energy is not known")


def _gain(rival: Offer, best: Offer) -> str:
    if rival.gpus != best.gpus and rival.rate == best.rate:
        noun = "GPU" if rival.gpus == 1 else "GPUs"
        return f"{rival.gpus} {noun}, not {best.gpus}"
    one, other = (offer.percentiles.get("e2e_p50_ms") for offer in (rival, best))
    if rival.rate == best.rate and one is not None and other is not None:
        return f"{one:.3g} ms a request, not {other:.3g}"
    one, other = (offer.rate / offer.gpus for offer in (rival, best))
    return f"{one:.3g} requests/s a GPU, not {other:.3g}"


def _parts(rate: float) -> tuple[float, ...]:
    return tuple(part * rate for part in PARTS)


def config_of(
    cells: Sequence[Wanted], question: Question, model: Mapping[str, Any], version: str
) -> dict[str, Any]:
    """A config.yaml that measures ``cells``; ``model``: the model's entry."""
    variants: dict[str, Any] = {}
    workloads: dict[str, Any] = {}
    for number, one in enumerate(cells, 1):
        engine = one.engine
        variants[engine.variant] = {k: v for k, v in engine.args.items() if k not in PINS}
        rates = [float(f"{rate:.4g}") for rate in one.rates]
        workloads[f"measure-{number}"] = {
            "kind": SERVE,
            **_axes(engine),
            "dataset": "random",
            "input_len": [question.traffic.input_len],
            "output_len": [question.traffic.output_len],
            "request_rate": rates,
            "num_prompts": [max(LEAST_REQUESTS, math.ceil(SECONDS * max(rates)))],
            "warmups": 10,
            "repeats": SEEDS,
            "minutes": 20,
            "engine": {name: engine.args[name] for name in PINS if name in engine.args},
        }
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
    return {
        "results": f"results/recommend-{slug(question.model)}",
        "vllm_version": version,
        "models": {question.model: dict(model)},
        "variants": variants,
        **lists,
        "runs": STARTS,
        "workloads": workloads,
    }


def _is_usual(axis: Axis, cells: Sequence[Wanted]) -> bool:
    """Whether all cells have the default: then the config need not name the axis."""
    return all(axis.is_default(getattr(one.engine, axis.name)) for one in cells)


def _axes(engine: Engine) -> dict[str, list[Any]]:
    """The lists that narrow a workload to one engine."""
    values = engine.columns()
    if not engine.has_allreduce:
        values["allreduce_backend"] = "auto"
    return {str(axis.config_key): [values[axis.name]] for axis in ENGINE_AXES}
