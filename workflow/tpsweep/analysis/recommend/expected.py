"""What the queueing model says of an engine: ``perfmodel.serving``, or why it says nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from tpsweep.analysis.recommend.evidence import EXPECTED, Capacity
from tpsweep.analysis.recommend.question import Traffic
from tpsweep.config.settings import Pins
from tpsweep.core.cell import Engine
from tpsweep.core.slo import Slo
from tpsweep.perfmodel import memory
from tpsweep.perfmodel.constants import NoExpectationError, document
from tpsweep.perfmodel.engine_steps import EngineSteps
from tpsweep.perfmodel.gpu_specs import card_by_name
from tpsweep.perfmodel.layout_problem import layout_problem
from tpsweep.perfmodel.model_shape import Shape
from tpsweep.perfmodel.serving import ServedLoad, Serving
from tpsweep.perfmodel.work import NoWorkError, work_of

LONG_STEPS = 0.05
"""Share of a busy moment's time in steps that wait for the host, from which on rows disagree with
the expectation: 8B at TP=2 and 64 requests/s has 1.5 times its TPOT (docs/expectation.md)."""
_PINNED = frozenset(Pins.model_fields)
STEADY = 0.9
"""Of capacity: up to here the queue is short, and the expectation was held against rows."""
HALF = 0.5 / STEADY
"""Half of capacity, as a part of ``STEADY``."""
_LOADS = (
    1e-3,
    *(0.01 * 50 ** (at / 15) for at in range(15)),
    *(0.5 + at / 60 for at in range(31)),
)
"""Loads that the model is asked for, as parts of ``STEADY``: hardly any, then rising by 30 % each,
and from half on by a sixtieth."""


@dataclass(frozen=True)
class Expectation:
    """An engine under a load of these lengths. ``shape``: None: not known; ``memory_gib``: of a
    GPU, None: as its datasheet says."""

    engine: Engine
    traffic: Traffic
    shape: Shape | None
    memory_gib: float | None = None

    @cached_property
    def _serving(self) -> Serving | str:
        """The model, or why there is none."""
        if misfit := self.misfit:
            return misfit
        if self.shape is None:
            return "the model's shape is not known"
        if unknown := sorted(_PINNED - self.engine.args.keys()):
            return f"not known of its rows: {', '.join(unknown)}"
        try:
            steps = EngineSteps.of(self.engine, self.shape)
            if self.memory_gib is not None:
                steps = replace(steps, card=replace(steps.card, memory_gib=self.memory_gib))
            if steps.work.shape.experts:
                return "no expectation for serving a mixture of experts"
            serving = Serving(steps, self.traffic.input_len, self.traffic.output_len)
            serving.at(0.0)  # curves and constants are looked up here
        except (NoExpectationError, NoWorkError) as error:
            return str(error)
        except KeyError as error:
            return f"the rows do not say the engine's {error.args[0]}"
        return serving

    @cached_property
    def misfit(self) -> str | None:
        """Why vLLM cannot split the model so, or the GPUs cannot hold it; None if nothing says
        so."""
        engine = self.engine
        length = self.traffic.input_len + self.traffic.output_len
        limit = engine.args.get("max_model_len")
        if limit is not None and length > int(limit):
            return f"max_model_len {limit} is shorter than a request"
        if self.shape is None:
            return None
        try:
            work = work_of(engine, self.shape)
        except NoWorkError:
            return None
        problem = work.tp_problem(engine.tp, ep=engine.ep)
        if problem := problem or layout_problem(engine.layout, work.shape):
            return problem
        card = card_by_name(engine.gpu_card)
        if card is None or work.no_fit or _PINNED - engine.args.keys():
            return None
        limits = memory.Limits.of(engine.args, self.memory_gib or card.memory_gib)
        load = memory.Load(
            work.shape,
            work.dtype,
            work.cache_dtype,
            batch=1,
            length=length,
            offloaded=work.offloaded,
        )
        found = memory.fit(load, limits, engine.layout)
        if not found.fits:
            weights = f"{found.weights / 1e9:.0f} GB of weights a GPU"
            if found.weights <= found.room:
                weights += ", activations and the KV cache of one request"
            return f"does not fit: {weights}, room for {found.room / 1e9:.0f} GB"
        return None

    @property
    def problem(self) -> str | None:
        """Why nothing can be expected, or the engine cannot run; None if all is well."""
        return self._serving if isinstance(self._serving, str) else None

    @cached_property
    def loads(self) -> tuple[ServedLoad, ...]:
        """What is expected at rising rates; in between, everything lies on lines. The page has
        these points, too, and so finds the same answers. Empty if nothing can be expected."""
        return tuple(self._loads())

    def _loads(self) -> Iterator[ServedLoad]:
        if isinstance(self._serving, str):
            return
        steady = STEADY * self._serving.calm
        for part in _LOADS:
            load = self._serving.at(_short(part * steady))
            if load is not None:
                values = {name: _short(value) for name, value in load.percentiles.items()}
                yield replace(load, percentiles=values)

    def capacity(self, slo: Slo | None, low: Mapping[str, float] | None = None) -> Capacity | None:
        """The expected capacity, with or without an SLO at most ``STEADY`` of what would saturate
        or stall; ``request_s`` 0: not even one request keeps the SLO. ``low``: by percentile, how
        many times what is expected rows have: so much less than its limit may be expected."""
        if not self.loads or (slo and not slo.is_of_percentiles):
            return None
        limits = slo.limits if slo else ()
        times = low or {}
        kept = (self._highest(name, limit / times.get(name, 1.0)) for name, limit in limits)
        return Capacity(min(kept, default=self.loads[-1].rate), EXPECTED)

    def _highest(self, name: str, limit: float) -> float:
        """The rate at which a percentile first meets its limit."""
        if self.loads[0].percentiles[name] > limit:
            return 0.0
        for low, high in pairwise(self.loads):
            left, right = low.percentiles[name], high.percentiles[name]
            if right > limit:
                return low.rate + (high.rate - low.rate) * (limit - left) / (right - left)
        return self.loads[-1].rate

    def at(self, rate: float) -> dict[str, float] | None:
        """Percentiles at a rate; None beyond ``STEADY`` of capacity, or of nothing."""
        if not self.loads or rate > self.loads[-1].rate:
            return None
        if rate <= self.loads[0].rate:
            return self.loads[0].percentiles
        low, high = next(pair for pair in pairwise(self.loads) if pair[1].rate >= rate)
        part = (rate - low.rate) / (high.rate - low.rate)
        return {
            name: left + (high.percentiles[name] - left) * part
            for name, left in low.percentiles.items()
        }

    def ttft_share(self, rate: float) -> float:
        """Expected over measured TTFT p99 of the published rows at such a load."""
        seen = document()["serving_seen"]
        is_light = rate <= HALF * self.loads[-1].rate
        return float(seen["ttft_p99_half" if is_light else "ttft_p99_most"])

    @property
    def busy_from(self) -> float:
        """The rate from which on so many steps are too long for CUDA graphs that the expectation is
        not to be trusted; the last one if it is at none."""
        long = (load.rate for load in self.loads if load.host_share > LONG_STEPS)
        return next(long, self.loads[-1].rate)


def _short(value: float) -> float:
    """To six digits: the model knows far fewer, and the page holds thousands."""
    return float(f"{value:.6g}")
