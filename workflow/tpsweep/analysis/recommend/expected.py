"""What the queueing model says of an engine: ``perfmodel.serving``, or why it says nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from tpsweep.analysis.recommend.evidence import EXPECTED, Capacity
from tpsweep.analysis.recommend.question import Traffic
from tpsweep.config.settings import Pins
from tpsweep.core.cell import Engine
from tpsweep.core.slo import Slo
from tpsweep.perfmodel import memory
from tpsweep.perfmodel.constants import NoExpectationError
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


@dataclass(frozen=True)
class Expectation:
    """An engine under a load of these lengths. ``shape``: None: not known."""

    engine: Engine
    traffic: Traffic
    shape: Shape | None

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
            if steps.known_prefill(1.0) is None:
                return "no expectation for the prefill of a mixture of experts"
            serving = Serving(steps, self.traffic.input_len, self.traffic.output_len)
            serving.at(0.0)  # curves and constants are looked up here
        except (NoExpectationError, NoWorkError) as error:
            return str(error)
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
        limits = memory.Limits.of(engine.args, card.memory_gib)
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
            return f"does not fit: {weights}, room for {found.room / 1e9:.0f} GB"
        return None

    @property
    def problem(self) -> str | None:
        """Why nothing can be expected, or the engine cannot run; None if all is well."""
        return self._serving if isinstance(self._serving, str) else None

    def capacity(self, slo: Slo | None) -> Capacity | None:
        """The expected capacity, with or without an SLO at most ``STEADY`` of what would saturate
        or stall; ``request_s`` 0: not even one request keeps the SLO."""
        if isinstance(self._serving, str) or (slo and not slo.is_of_percentiles):
            return None
        steady = STEADY * self._serving.calm
        kept = steady if slo is None else self._serving.highest_rate(slo) or 0.0
        return Capacity(min(kept, steady), EXPECTED)

    def at(self, rate: float) -> ServedLoad | None:
        """What to expect at a rate; None beyond capacity, or of nothing."""
        return None if isinstance(self._serving, str) else self._serving.at(rate)

    def has_long_steps(self, rate: float) -> bool:
        """Whether so many steps would be too long for CUDA graphs that the expectation is not to be
        trusted."""
        load = self.at(rate)
        return load is None or load.host_share > LONG_STEPS
