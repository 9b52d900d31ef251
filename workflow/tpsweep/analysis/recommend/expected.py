"""What the queueing model says of an engine: ``perfmodel.serving``, or why it says nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from tpsweep.analysis.recommend.evidence import EXPECTED, Capacity
from tpsweep.analysis.recommend.question import Traffic
from tpsweep.core.cell import Engine
from tpsweep.core.slo import Slo
from tpsweep.perfmodel import memory
from tpsweep.perfmodel.constants import NoExpectationError
from tpsweep.perfmodel.engine_steps import EngineSteps
from tpsweep.perfmodel.layout_problem import layout_problem
from tpsweep.perfmodel.model_shape import Shape
from tpsweep.perfmodel.serving import ServedLoad, Serving
from tpsweep.perfmodel.work import NoWorkError

BUSY_SERVER = 0.5
"""Share of what the HTTP server can do from which on rows disagree with the expectation: 8B at TP=2
has 1.6 times its TPOT at 0.76 (docs/expectation.md)."""


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
        if self.shape is None:
            return "the model's shape is not known"
        try:
            steps = EngineSteps.of(self.engine, self.shape)
            if problem := self._misfit(steps):
                return problem
            if steps.work.shape.experts:
                return "no expectation for serving a mixture of experts"
            serving = Serving(steps, self.traffic.input_len, self.traffic.output_len)
            serving.at(0.0)  # curves and constants are looked up here
        except (NoExpectationError, NoWorkError) as error:
            return str(error)
        return serving

    def _misfit(self, steps: EngineSteps) -> str | None:
        """Why vLLM cannot split the model so, or the GPUs cannot hold it."""
        engine, work = self.engine, steps.work
        problem = work.tp_problem(engine.tp, ep=engine.ep)
        if problem := problem or layout_problem(engine.layout, work.shape):
            return problem
        if self.traffic.input_len + self.traffic.output_len > int(engine.args["max_model_len"]):
            return f"max_model_len {engine.args['max_model_len']} is shorter than a request"
        limits = memory.Limits.of(engine.args, steps.card.memory_gib)
        load = memory.Load(
            work.shape,
            work.dtype,
            work.cache_dtype,
            batch=1,
            length=self.traffic.input_len + self.traffic.output_len,
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
        """The expected capacity, with or without an SLO at most ``STEADY`` of what would saturate;
        ``request_s`` 0: not even one request keeps the SLO."""
        if isinstance(self._serving, str) or (slo and not slo.is_of_percentiles):
            return None
        steady = STEADY * self._serving.capacity
        kept = steady if slo is None else self._serving.highest_rate(slo) or 0.0
        return Capacity(min(kept, steady), EXPECTED)

    def at(self, rate: float) -> ServedLoad | None:
        """What to expect at a rate; None beyond capacity, or of nothing."""
        return None if isinstance(self._serving, str) else self._serving.at(rate)

    def is_server_busy(self, rate: float) -> bool:
        """Whether the HTTP server would be so busy that the expectation is not to be trusted."""
        load = self.at(rate)
        return load is None or load.server_share > BUSY_SERVER
