"""What a served load should show: TPOT and TTFT at a request rate, and the rate that can be served.

A queue over the steps of ``perfmodel.step_time``. With r requests running, each of which takes m
steps, r / m prompts begin in a step (Poisson): the mean step follows, and by Little's law the rate
that keeps r running, r / (m x step). The HTTP server is another station, whatever the GPUs are.
Requests that come all at once are computed in waves (``at_once``). docs/expectation.md says how
good that is. Pure; ms and requests/s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tpsweep.core.slo import METRICS, PERCENTILES
from tpsweep.perfmodel.constants import ServingConstants, serving_constants
from tpsweep.perfmodel.engine_steps import EngineSteps

ROUNDS = 40
"""Halvings of an interval: the rest is far below what the model knows."""
LEAST = 1e-3
"""Requests running at the lowest load that is asked for."""
TAIL = 1e-6
"""Probability of more prompts in a step, left out."""
_LEVEL = 1e-3
"""Of a rate: less than that is no fall."""
_Z = {50: 0.0, 90: 1.2816, 95: 1.6449, 99: 2.3263}
"""Standard deviations above the mean, of a normal distribution."""
SERVER, RUNNING, PROMPTS = "HTTP server", "requests running at a time", "tokens of a step"
"""What limits the rate. The HTTP server's limit is the most that one was seen to send."""
PARTS = 32
"""Of the requests that may run: where the rate is looked at before an interval is halved."""


@dataclass(frozen=True)
class Part:
    """A part of a latency: its median, and how far its 99th percentile is above that."""

    p50: float
    spread: float = 0.0


@dataclass(frozen=True)
class ServedLoad:
    """What is expected at ``rate`` requests/s. ``running``: per engine; ``server_share``: of what
    the HTTP server can do; ``host_share``: of the time of its busiest hundredth, in steps too long
    for CUDA graphs that wait for the host. ``percentiles``: by name, ``ttft_p99_ms`` and so on."""

    rate: float
    running: float
    server_share: float
    host_share: float
    percentiles: dict[str, float]

    @property
    def tpot_ms(self) -> float:
        """Median time per output token."""
        return self.percentiles["tpot_p50_ms"]


@dataclass(frozen=True)
class Waves:
    """A request set of which all comes at once: ``seconds`` in all; ``tpot_ms``: the mean time per
    output token of a wave."""

    seconds: float
    tpot_ms: float


@dataclass(frozen=True)
class _Point:
    """Steps with ``running`` requests: (probability, ms) by number of prompts, from none on.
    ``host_ms``: of the mean step, what is in those that wait for the host."""

    running: float
    steps: tuple[tuple[float, float], ...]
    host_ms: float

    @property
    def mean(self) -> float:
        return math.fsum(share * ms for share, ms in self.steps)

    @property
    def deviation(self) -> float:
        mean = self.mean
        return math.sqrt(math.fsum(share * (ms - mean) ** 2 for share, ms in self.steps))


@dataclass
class Serving:
    """Requests of ``input_len`` and ``output_len`` tokens on an engine, or a group of replicas."""

    steps: EngineSteps
    input_len: int
    output_len: int
    constants: ServingConstants = field(default_factory=serving_constants)
    most_running: int | None = None
    """Requests that the client lets run at a time, over all replicas; None: any number."""
    _known: dict[tuple[int, int], tuple[float, bool]] = field(default_factory=dict, repr=False)

    @cached_property
    def capacity(self) -> float:
        """The highest rate that is served without an ever longer queue."""
        return min(self.engines_capacity, self._server_capacity)

    @property
    def limited_by(self) -> str:
        """What the capacity ends at."""
        if self._server_capacity < self.engines_capacity:
            return SERVER
        return PROMPTS if self._most_running < self._slots else RUNNING

    def at(self, rate: float) -> ServedLoad | None:
        """What to expect at ``rate``; None at or above capacity."""
        if rate >= self.capacity:
            return None
        point = self._at(self._running(rate / self._replicas))
        share = rate / self._server_capacity
        tpot, step = self._tpot(point), self._step_part(point)
        ttft = self._ttft(point, rate, share)
        whole = _sum(ttft, Part(*((self.output_len - 1) * ms for ms in (tpot.p50, tpot.spread))))
        found = {"ttft": ttft, "tpot": tpot, "itl": step, "e2e": whole}
        # Waits have exponential tails, means of many steps normal ones.
        tails = {name: _waits if name in ("ttft", "itl") else _normal for name in METRICS}
        percentiles = {
            f"{name}_p{p}_ms": found[name].p50 + found[name].spread * tails[name](p)
            for name in METRICS
            for p in PERCENTILES
        }
        busy = self._at(self._busy(point))
        return ServedLoad(rate, point.running, share, busy.host_ms / busy.mean, percentiles)

    @cached_property
    def calm(self) -> float:
        """The highest rate below which more requests that run always serve a higher one. Beyond it
        steps too long for CUDA graphs make more of themselves: rates that hold once fail again."""
        rates = self._rates
        falls = [i for i in range(1, len(rates)) if rates[i] < rates[i - 1] * (1 - _LEVEL)]
        least = min(rates[falls[0] :], default=math.inf) if falls else math.inf
        return min(self.capacity, least * self._replicas)

    def most_tpot_ms(self, requests: int) -> float:
        """Mean step when a set of ``requests`` comes faster than it is served: as many run as can,
        and no more than an engine's part of the set."""
        return self._at(min(self._most_running, math.ceil(requests / self._replicas))).mean

    def at_once(self, requests: int, *, is_served: bool) -> Waves:
        """A set of ``requests`` that come all at once: as many as may run are one wave, whose
        prompts come first, and which ends together. ``is_served``: over HTTP."""
        each = math.ceil(requests / self._replicas)
        wave = min(each, self._slots)
        prompts, last = self._prompts_ms(wave), max(0, self.output_len - 1)
        step = self.steps.decode(self.steps.served(wave, self.input_len, self.output_len))
        # The last wave has fewer requests; its steps are hardly shorter.
        seconds = each / wave * (prompts + last * step) / 1e3
        if is_served:
            seconds = max(seconds, requests * self.output_len / self.constants.server_tok_s)
        # On average a request waits for the prompts of half of its wave.
        return Waves(seconds, step + prompts / 2 / last if last else 0.0)

    def seconds_of(self, requests: int, rate: float) -> float:
        """Until ``requests`` that come at ``rate`` have ended."""
        load = self.at(rate)
        if load is not None:
            return requests / rate + load.percentiles["e2e_p50_ms"] / 1e3
        # Half of a request's time lies in the beginning and the end, when fewer run.
        half = self._steps_each * self.most_tpot_ms(requests) / 2e3
        return requests / self.capacity + half

    def _prompts_ms(self, wave: int) -> float:
        """The prompts of a wave, in steps as long as the engine allows."""
        together = max(1, min(wave, self.steps.batched_tokens // self.input_len))
        run = self.steps.served(together, self.input_len, self.output_len)
        of_step = self.steps.prefill(run) / together
        return wave * of_step / self._groups

    @property
    def _replicas(self) -> int:
        return self.steps.engine.replicas

    @cached_property
    def _slots(self) -> int:
        """Requests of an engine that run at a time, by its limit, its KV cache and the client."""
        held = self.steps.sequences(self.input_len + self.output_len)
        if self.most_running is None:
            return held
        return max(1, min(held, self.most_running // self._replicas))

    @cached_property
    def _chunks(self) -> int:
        """Steps of a prompt; each has an equal part of it."""
        return math.ceil(self.input_len / self.steps.batched_tokens)

    @property
    def _steps_each(self) -> int:
        """Steps of a request."""
        return self._chunks + self.output_len - 1

    @property
    def _groups(self) -> int:
        """Stages of a pipeline: so many parts of the requests are in different steps."""
        return self.steps.engine.pp

    def _most_chunks(self, running: float) -> int:
        """Parts of prompts that a step has room for beside the decodes."""
        room = self.steps.batched_tokens - running / self._groups
        return max(1, int(room * self._chunks / self.input_len))

    def _began(self, running: float) -> float:
        """Parts of prompts that come to a step, in the mean."""
        return running * self._chunks / self._steps_each / self._groups

    @cached_property
    def _most_running(self) -> float:
        """As many as find slots, and as have their prompts computed in time."""
        if self._began(self._slots) < self._most_chunks(self._slots):
            return self._slots
        return _last(lambda n: self._began(n) < self._most_chunks(n), self._slots)

    @cached_property
    def engines_capacity(self) -> float:
        """What the engines could serve if HTTP took no time."""
        return self._rate(self._most_running) * self._replicas

    @property
    def _server_capacity(self) -> float:
        """One server takes the requests of all replicas."""
        return self.constants.server_tok_s / self.output_len

    def _rate(self, running: float) -> float:
        """Of one engine, by Little's law."""
        return 1e3 * running / (self._steps_each * self._at(running).mean)

    def _running(self, rate: float) -> float:
        """Requests that run at ``rate`` on one engine: of several numbers the highest. Longer steps
        let more prompts come to the next one, and where that makes them too long for CUDA graphs,
        fewer requests/s are served by more that run. A busy moment leads there."""
        found = 0
        for place, known in enumerate(self._rates):
            if known <= rate:
                found = place
        parts = self._parts
        if found + 1 == len(parts):
            return parts[-1]
        return _last(lambda n: self._rate(n) <= rate, parts[found + 1], parts[found])

    @cached_property
    def _parts(self) -> list[float]:
        """Where the rate is looked at: in equal parts, and where a step becomes too long for CUDA
        graphs, from which on the rate is lower."""
        most, per_request = self._most_running, self._steps_each / max(1, self.output_len - 1)
        found = {most * part / PARTS for part in range(PARTS + 1)}
        left = self.steps.graph_tokens
        while (left := left - self.input_len / self._chunks) > 0:
            decoding = math.floor(left) * self._groups + 1
            found.add(min(most, decoding * per_request))
        return sorted(max(LEAST, running) for running in found)

    @cached_property
    def _rates(self) -> list[float]:
        return [self._rate(running) for running in self._parts]

    def _at(self, running: float) -> _Point:
        decoding = max(1.0, running * (self.output_len - 1) / self._steps_each)
        shares = _poisson(self._began(running), self._most_chunks(running))
        steps = tuple((share, self._step(decoding, count)) for count, share in enumerate(shares))
        waiting = (
            share * ms
            for count, (share, ms) in enumerate(steps)
            if self._whole_step(math.floor(decoding), count)[1]
        )
        return _Point(running, steps, math.fsum(waiting))

    def _step(self, decoding: float, chunks: int) -> float:
        """A step of so many decodes and parts of prompts."""
        low = math.floor(decoding)
        part = decoding - low
        found = self._whole_step(low, chunks)[0]
        return found + part * (self._whole_step(low + 1, chunks)[0] - found) if part else found

    def _whole_step(self, decoding: int, chunks: int) -> tuple[float, bool]:
        """Its ms, and whether it is too long for CUDA graphs and waits for the host."""
        key = decoding, chunks
        if key not in self._known:
            tokens = chunks * self.input_len / self._chunks
            run = self.steps.served(decoding, self.input_len, self.output_len, tokens)
            whole = self.steps.step(run)
            gpu = whole.gpu + (self._prompt_ms if chunks else 0.0)
            self._known[key] = max(gpu, whole.host), whole.host > gpu and not self._is_eager
        return self._known[key]

    @property
    def _is_eager(self) -> bool:
        return bool(self.steps.engine.args.get("enforce_eager"))

    @property
    def _prompt_ms(self) -> float:
        """What a step with a prompt in it takes longer, beside the prompt's own work: it is not one
        CUDA graph. An eager engine has none to lose."""
        if self._is_eager:
            return 0.0
        return self.steps.work.shape.layers * self.constants.prompt_layer_us / 1e3

    def _tpot(self, point: _Point) -> Part:
        """The mean of a request's steps; the busiest hundredth has more beside it."""
        if self.output_len == 1:
            return Part(0.0)
        mean = point.mean
        of_steps = _Z[99] * point.deviation / math.sqrt(self.output_len - 1)
        return Part(mean, math.hypot(self._at(self._busy(point)).mean - mean, of_steps))

    def _busy(self, point: _Point) -> float:
        """Requests that run in the busiest hundredth."""
        return min(point.running + _Z[99] * math.sqrt(point.running), self._most_running)

    def _step_part(self, point: _Point) -> Part:
        """One step: what lies between two tokens."""
        p50 = _quantile(point.steps, 0.5)
        return Part(p50, _quantile(point.steps, 0.99) - p50)

    def _ttft(self, point: _Point, rate: float, server_share: float) -> Part:
        """The rest of a step, the prompt's own steps, a slot and the HTTP server."""
        mean = point.mean
        seen = tuple((share * ms / mean, ms) for share, ms in point.steps)
        rest = Part(_rest(seen, 0.5), _rest(seen, 0.99) - _rest(seen, 0.5))
        decoding = max(1.0, point.running * (self.output_len - 1) / self._steps_each)
        own = tuple(
            (share, self._step(decoding, min(count + 1, self._most_chunks(point.running))))
            for count, (share, _) in enumerate(point.steps)
        )
        first = self._chunks * _quantile(own, 0.5)
        prompt = Part(first, self._chunks * _quantile(own, 0.99) - first)
        busy = self._began(point.running) / self._most_chunks(point.running)
        queue = _wait(mean * busy / (2 * (1 - busy)) if busy < 1 else math.inf, busy)
        http = self.constants.http_ms
        server = _wait(http * server_share / (1 - server_share), 1.0)
        return _sum(rest, prompt, queue, self._slot(point, rate), Part(http), server)

    def _slot(self, point: _Point, rate: float) -> Part:
        """The wait for one of the slots, which are free as often as Erlang's formula says."""
        waits = _erlang_c(self._slots, point.running)
        left = self.engines_capacity - rate
        # All requests take about the same time: half of what random ones would wait.
        return _wait(1e3 / left / 2, waits)


def _wait(mean: float, share: float) -> Part:
    """An exponential wait of ``mean`` ms that ``share`` of the requests have."""
    p50, p99 = (mean * math.log(share / (1 - q)) if share > 1 - q else 0.0 for q in (0.5, 0.99))
    return Part(p50, p99 - p50)


def _sum(*parts: Part) -> Part:
    """Parts that are long together: a busy moment is one for all of them."""
    return Part(math.fsum(p.p50 for p in parts), math.fsum(p.spread for p in parts))


def _normal(percentile: int) -> float:
    """Share of the spread at which a percentile lies."""
    return _Z[percentile] / _Z[99]


def _waits(percentile: int) -> float:
    return math.log(50 / (100 - percentile)) / math.log(50)


def _last(holds: Callable[[float], bool], most: float, least: float = 0.0) -> float:
    """The largest number up to ``most`` of which ``holds`` is true, which it is of small ones."""
    if holds(most):
        return most
    low, high = least, most
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(max(middle, LEAST)) else (low, middle)
    return max(low, LEAST)


def _poisson(mean: float, most: int) -> list[float]:
    """Probabilities of 0, 1, … up to ``most``; what comes beyond waits, and the mean stays."""
    drawn, shares = _truncated(mean, most), []
    share = math.exp(-drawn)
    for count in range(most):
        shares.append(share)
        share *= drawn / (count + 1)
        if count >= drawn and share < TAIL:
            return [*shares, share]
    return [*shares, max(0.0, 1 - math.fsum(shares))]


def _truncated(mean: float, most: int) -> float:
    """The mean of a Poisson variable that, cut off at ``most``, has ``mean``."""
    if mean < most / 4 or most > 30:
        return mean
    return _last(lambda drawn: _mean_of(drawn, most) <= mean, 20.0 * most)


def _mean_of(drawn: float, most: int) -> float:
    share, found, seen = math.exp(-drawn), 0.0, 0.0
    for count in range(most):
        found, seen = found + count * share, seen + share
        share *= drawn / (count + 1)
    return found + most * (1 - seen)


def _quantile(shares: Sequence[tuple[float, float]], q: float) -> float:
    """Of (probability, value)."""
    seen, ordered = 0.0, sorted(shares, key=lambda pair: pair[1])
    for share, value in ordered:
        seen += share
        if seen >= q:
            return value
    return ordered[-1][1]


def _rest(seen: Sequence[tuple[float, float]], q: float) -> float:
    """Quantile of what is left of a step when a request comes, by (probability, ms) of the step."""
    longest = max(ms for _, ms in seen)

    def below(x: float) -> float:
        return math.fsum(share * min(1.0, x / ms) for share, ms in seen)

    return _last(lambda x: below(x) <= q, longest)


def _erlang_c(servers: int, load: float) -> float:
    """Share of the requests that find all of ``servers`` busy at an offered load of so many."""
    if load >= servers:
        return 1.0
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = load * blocked / (count + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))
