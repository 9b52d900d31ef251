"""What a cell should show and how long it should take, from ``tpsweep.perfmodel.step_time``.

A static batch is what the constants were held against. Of request sets ``perfmodel.serving`` puts
the same steps together. Times are ms unless the name says seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from tpsweep.core.cell import Cell, Engine
from tpsweep.core.method import LEAST_ENERGY_S
from tpsweep.core.slo_counts import slos_of
from tpsweep.core.workloads import CAPACITY, LATENCY, SERVE, THROUGHPUT
from tpsweep.perfmodel.constants import NoExpectationError, document
from tpsweep.perfmodel.engine_steps import EngineSteps
from tpsweep.perfmodel.gpu_specs import card_by_name, unknown_card
from tpsweep.perfmodel.model_shape import Shape
from tpsweep.perfmodel.serving import Serving
from tpsweep.perfmodel.work import NoWorkError, work_of


@dataclass(frozen=True)
class CellExpectation:
    """Milliseconds and the whole cell's seconds on the engine; None with a ``note`` saying why.

    ``prefill_ms`` is of the static batch, of a request set that of one request alone; ``tpot_ms``
    is at the batch, or at the requests in flight.
    """

    prefill_ms: float | None = None
    tpot_ms: float | None = None
    seconds: float | None = None
    note: str | None = None


def expected_of(cell: Cell, shape: Shape | None, unknown: str | None = None) -> CellExpectation:
    """The expectation of a cell on the card that the site promises for it.

    ``unknown``: why the model has no shape, if its config.json is there.
    """
    engine = cell.engine
    if card_by_name(engine.gpu_card) is None:
        return CellExpectation(note=unknown_card(engine.gpu_card))
    if shape is None:
        said = f"the model's bytes cannot be counted: {unknown}"
        return CellExpectation(
            note=said if unknown else "the model's shape is not known before it is fetched"
        )
    if cell.input_len is None or cell.output_len is None:
        return CellExpectation(note=f"the lengths of {cell.dataset} are in its file")
    if cell.prefix_len is not None:
        return CellExpectation(note="prompts come from the prefix cache in part")
    try:
        step = EngineSteps.of(engine, shape)
        if cell.batch is not None:
            return _static(cell, step, cell.batch, cell.input_len, cell.output_len)
        return _requests(cell, step, shape)
    except (NoExpectationError, NoWorkError) as error:
        return CellExpectation(note=str(error))


def _static(
    cell: Cell, step: EngineSteps, batch: int, input_len: int, output_len: int
) -> CellExpectation:
    run = step.static(batch, input_len, output_len)
    first, each = step.prefill(run), step.decode(run)
    whole = first + (output_len - 1) * each
    repeats = cell.repeats * whole / 1e3
    seconds = cell.warmups * whole / 1e3 + repeats
    if cell.workload == LATENCY:  # it goes on for the energy; and its cross-check: one token each
        seconds += max(0.0, LEAST_ENERGY_S - repeats) + (1 + cell.repeats) * first / 1e3
    tpot = each if output_len > 1 else None
    return CellExpectation(step.known_prefill(first), tpot, seconds + cost("cell_gap_s"))


def _requests(cell: Cell, step: EngineSteps, shape: Shape) -> CellExpectation:
    """A set of requests, at a rate or all at once."""
    input_len, output_len = cell.input_len or 0, cell.output_len or 0
    if cell.workload == CAPACITY:
        return _search(cell, step, input_len, output_len)
    requests, rate = cell.num_prompts or 1, cell.request_rate
    # Cells at many rates and of many runs share what is known of the steps.
    engine = replace(step.engine, run=0).to_json()
    serving = _serving(engine, shape, input_len, output_len, cell.max_concurrency)
    times = cell.repeats + (cell.warmups if cell.workload == THROUGHPUT else 0)
    if rate is None or math.isinf(rate):
        waves = serving.at_once(requests, is_served=cell.workload == SERVE)
        duration, tpot = waves.seconds, waves.tpot_ms
    else:
        load = serving.at(rate)
        # A set of few requests ends before as many run as would if they came for ever.
        tpot = min(serving.most_tpot_ms(requests), load.tpot_ms if load else math.inf)
        duration = serving.seconds_of(requests, rate)
    seconds = times * duration + cost("cell_gap_s")
    if step.work.shape.experts:  # the prefills of others are a part of every token's time
        return CellExpectation(seconds=seconds)
    alone = step.prefill(step.static(1, input_len, output_len))
    return CellExpectation(alone, None if output_len == 1 else tpot, seconds)


@lru_cache(maxsize=64)
def _serving(
    engine: str, shape: Shape, input_len: int, output_len: int, most_running: int | None
) -> Serving:
    steps = EngineSteps.of(Engine.from_json(engine), shape)
    return Serving(steps, input_len, output_len, most_running=most_running)


PROBES, MORE_PROBES = 10, 4
"""Of a search for one SLO, and for each further one."""
PROBE_SHARE = 1.4
"""Of its judged time: a probe with its warm-up and its end. Hopeless ones are shorter."""
SEARCHED = 0.7
"""Of what the server can do: about where the probes are."""


def _search(cell: Cell, step: EngineSteps, input_len: int, output_len: int) -> CellExpectation:
    """A search for a capacity: so many probes of the time that their requests take to come."""
    most = Serving(step, input_len, output_len).calm
    slos = slos_of(cell.extra["slos"])
    rate, probes = SEARCHED * most, PROBES + MORE_PROBES * (len(slos) - 1)
    if rate >= cell.extra["max_request_rate"]:  # it holds, as does a lower one, and again
        rate, probes = cell.extra["max_request_rate"], 2 + cell.repeats
    least = max(cell.extra["probe_requests"], *(slo.least_requests for slo in slos))
    probe_s = PROBE_SHARE * max(cell.extra["probe_s"], least / rate)
    seconds = min(probes, cell.extra["max_probes"]) * probe_s
    return CellExpectation(seconds=seconds + cost("cell_gap_s"))


def saturation_request_s(cell: Cell, shape: Shape | None) -> float | None:
    """The most that a cell's engine should serve before it saturates or stalls, in requests/s; None
    where nothing is known."""
    if shape is None or cell.input_len is None or cell.output_len is None:
        return None
    try:
        steps = EngineSteps.of(cell.engine, shape)
        return Serving(steps, cell.input_len, cell.output_len).calm
    except (NoExpectationError, NoWorkError):
        return None


def start_seconds(engine: Engine, shapes: Mapping[str, Shape | None]) -> float:
    """An engine's start, by the bytes that it loads; reading them from a file system not counted.

    A model whose shape is not known counts as if it weighed nothing.
    """
    if engine.gpu_card == "CPU":
        return cost("engine_start_cpu_s")
    weight_gb = _weight_gb(engine, shapes.get(engine.model.name))
    return cost("engine_start_s") + weight_gb * cost("engine_start_s_per_gb")


def _weight_gb(engine: Engine, shape: Shape | None) -> float:
    try:
        return work_of(engine, shape).shape.weight_bytes(engine.model.dtype) / 1e9 if shape else 0.0
    except NoWorkError:
        return 0.0


@cache
def cost(name: str) -> float:
    """A constant of what a sweep costs, from data/expectation.yaml."""
    return float(document()["cost"][name]["value"])
