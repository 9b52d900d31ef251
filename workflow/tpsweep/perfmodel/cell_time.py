"""What a cell should show and how long it should take, from ``tpsweep.perfmodel.step_time``.

A static batch is what the constants were held against. For request sets the same steps are put
together as a queue would: an estimate of the time that they cost, no expectation of a latency
under load. Times are ms unless the name says seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from tpsweep.core.cell import Cell, Engine
from tpsweep.core.method import LEAST_ENERGY_S
from tpsweep.core.slo_counts import slos_of
from tpsweep.core.workloads import CAPACITY, LATENCY, THROUGHPUT
from tpsweep.perfmodel.constants import NoExpectationError, document
from tpsweep.perfmodel.engine_steps import EngineSteps
from tpsweep.perfmodel.gpu_specs import card_by_name, unknown_card
from tpsweep.perfmodel.model_shape import Shape
from tpsweep.perfmodel.serving import Serving
from tpsweep.perfmodel.work import NoWorkError, work_of

SETTLED = 30
"""Rounds after which the requests in flight at a rate no longer change."""


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
        return _requests(cell, step, cell.input_len, cell.output_len)
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
    return CellExpectation(step.known_prefill(run, first), tpot, seconds + cost("cell_gap_s"))


def _requests(cell: Cell, step: EngineSteps, input_len: int, output_len: int) -> CellExpectation:
    """A set of requests: as many in flight as the rate, or the limits, make of it."""
    replicas = cell.engine.replicas
    requests = math.ceil((cell.num_prompts or 1) / replicas)
    most = step.sequences(input_len + output_len)
    if cell.workload == CAPACITY:
        return _search(cell, step, input_len, output_len)
    most = min(requests, most)
    if cell.max_concurrency is not None:
        most = min(most, max(1, cell.max_concurrency // replicas))
    first, full = _each(step, input_len, output_len, most)
    rate = math.inf if cell.request_rate is None else cell.request_rate / replicas
    if rate >= 1e3 / full:
        duration, tpot = requests * full / 1e3, full * most / output_len
    else:
        tpot = _in_flight(step, input_len, output_len, rate, first, most)
        duration = requests / rate + output_len * tpot / 1e3
    times = cell.repeats + (cell.warmups if cell.workload == THROUGHPUT else 0)
    seconds = times * duration + cost("cell_gap_s")
    if step.work.shape.experts:  # the prefills of others are a part of every token's time
        return CellExpectation(seconds=seconds)
    return CellExpectation(step.prefill(step.static(1, input_len, output_len)), tpot, seconds)


def _each(step: EngineSteps, input_len: int, output_len: int, most: int) -> tuple[float, float]:
    """Engine time of a request's prefill, and of all of it, when ``most`` run at a time."""
    # Waiting prompts share a step up to max_num_batched_tokens: their prefill is that much cheaper.
    together = max(1, min(most, int(step.engine.args["max_num_batched_tokens"]) // input_len))
    # Of requests that come and go, all stages of a pipeline have some.
    stages = step.engine.pp
    first = step.prefill(step.served(together, input_len, output_len)) / together / stages
    return first, first + output_len * step.decode(step.served(most, input_len, output_len)) / most


PROBES, MORE_PROBES = 10, 4
"""Of a search for one SLO, and for each further one."""
PROBE_SHARE = 1.4
"""Of its judged time: a probe with its warm-up and its end. Hopeless ones are shorter."""
SEARCHED = 0.7
"""Of what the server can do: about where the probes are."""


def _search(cell: Cell, step: EngineSteps, input_len: int, output_len: int) -> CellExpectation:
    """A search for a capacity: so many probes of the time that their requests take to come."""
    most = Serving(step, input_len, output_len).capacity
    slos = slos_of(cell.extra["slos"])
    rate = min(SEARCHED * most, cell.extra["max_request_rate"])
    least = max(cell.extra["probe_requests"], *(slo.least_requests for slo in slos))
    probe_s = PROBE_SHARE * max(cell.extra["probe_s"], least / rate)
    seconds = (PROBES + MORE_PROBES * (len(slos) - 1)) * probe_s
    return CellExpectation(seconds=seconds + cost("cell_gap_s"))


def saturation_request_s(cell: Cell, shape: Shape | None) -> float | None:
    """The most that a cell's engine should serve, in requests/s; None where nothing is known."""
    if shape is None or cell.input_len is None or cell.output_len is None:
        return None
    try:
        steps = EngineSteps.of(cell.engine, shape)
        return Serving(steps, cell.input_len, cell.output_len).capacity
    except (NoExpectationError, NoWorkError):
        return None


def _in_flight(
    step: EngineSteps, input_len: int, output_len: int, rate: float, first: float, most: int
) -> float:
    """Decode time per token at ``rate`` requests/s: requests in flight by Little's law, and the
    prefills of others in between."""
    share = min(rate * first / 1e3, 0.99)
    tpot = step.decode(step.served(1, input_len, output_len))
    for _ in range(SETTLED):
        flying = min(most, max(1, round(rate * (first + output_len * tpot) / 1e3)))
        now = step.decode(step.served(flying, input_len, output_len)) / (1 - share)
        if now == tpot:
            break
        tpot = now
    return tpot


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
