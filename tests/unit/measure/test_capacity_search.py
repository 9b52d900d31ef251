"""The search for a capacity, on simulated servers of which it is known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from statistics import median

import numpy as np
import pytest

from tests.unit.measure.simulated import Array, Batching, Fixed, Server, arrivals_at, capacity
from tpsweep.core.slo_counts import Counts, JudgedSlo, Limit
from tpsweep.measure import capacity_search as search
from tpsweep.measure.capacity_search import Answer, Ask, Probe, Spec, next_step

RESOLUTION = 1 + search.RESOLUTION
STRICT = JudgedSlo.of("strict", {"ttft_p99_ms": 400.0})
LOOSE = JudgedSlo.of("loose", {"ttft_p90_ms": 200.0})
CHAT = JudgedSlo.of("chat", {"ttft_p99_ms": 150.0, "tpot_p99_ms": 30.0})
TYPICAL = JudgedSlo.of("typical", {"tpot_p50_ms": 20.0})
QUEUES = tuple(Fixed(100.0, servers) for servers in (2, 4, 8))
PROBE_S = 30.0
At = Callable[[float], bool]


def values(limit: Limit, ttft: Array, tpot: Array) -> tuple[Array, float]:
    """What a limit is about, and its milliseconds."""
    ((metric, most),) = limit.most_ms.items()
    return {"ttft": ttft, "tpot": tpot}[metric], most


def probe(server: Server, slos: Sequence[JudgedSlo], ask: Ask, salt: int) -> Probe:
    count = max(400, math.ceil(PROBE_S * ask.request_s), *(slo.least_requests for slo in slos))
    warm = count // 4
    arrivals = arrivals_at(ask.request_s, warm + count, 1000 * salt + ask.seed)
    ttft, tpot = (times[warm:] for times in server(arrivals, ask.seed))
    counts = {}
    for slo in slos:
        found = [(limit, *values(limit, ttft, tpot)) for limit in slo.limits]
        counts[slo.name] = {
            limit.name: Counts(
                int((times <= most).sum()), count, float(np.percentile(times, 100 * limit.share))
            )
            for limit, times, most in found
        }
    return Probe(ask.request_s, ask.seed, ask.purpose, counts, {}, stopped=False)


def run(
    slos: Sequence[JudgedSlo],
    probe_at: Callable[[Ask], Probe],
    start: float,
    most: float = 1e4,
    max_probes: int = 40,
) -> tuple[list[Answer], list[Probe]]:
    spec = Spec(tuple(slos), search.rounded(start), most, 2, max_probes)
    probes: list[Probe] = []
    while isinstance(step := next_step(spec, probes), Ask):
        assert len(probes) < max_probes
        probes.append(probe_at(step))
    return step, probes


def scripted(holds: At, stopped: bool = False) -> Callable[[Ask], Probe]:
    """A server that keeps ``STRICT`` at some rates, whatever the seed."""

    def probe_at(ask: Ask) -> Probe:
        kept = 2000 if holds(ask.request_s) else 0
        counts = {"strict": {"ttft_p99_ms": Counts(kept, 2000, 50.0 if kept else 5000.0)}}
        lost = {"strict": "ttft_p99_ms"} if stopped and not kept else {}
        return Probe(ask.request_s, ask.seed, ask.purpose, counts, lost, stopped=bool(lost))

    return probe_at


@dataclass(frozen=True)
class Case:
    server: Server
    slo: JudgedSlo


CASES = [
    *(Case(queue, slo) for queue in QUEUES for slo in (STRICT, LOOSE)),
    *(Case(Batching(), slo) for slo in (CHAT, TYPICAL)),
]


@cache
def known(number: int) -> float:
    """The capacity of a case, by a long run."""
    case = CASES[number]
    count, low, high = (
        (20_000, 3.0, 120.0) if isinstance(case.server, Batching) else (300_000, 5.0, 90.0)
    )

    def kept(ttft: Array, tpot: Array) -> bool:
        found = [(values(limit, ttft, tpot), limit.share) for limit in case.slo.limits]
        return all(np.percentile(times, 100 * share) <= most for (times, most), share in found)

    return capacity(case.server, kept, low, high, count)


def test_200_searches_find_the_known_capacity() -> None:
    random = np.random.default_rng(5)
    right, probes, verdicts = [], [], Counter[str]()
    for number in range(200):
        case = CASES[number % len(CASES)]
        true = known(number % len(CASES))
        start = true * math.exp(random.uniform(math.log(0.4), math.log(1.6)))
        (found,), made = run(
            [case.slo], lambda ask, n=number, c=case: probe(c.server, [c.slo], ask, n), start
        )  # type: ignore[misc]
        assert found.request_s is not None and found.upper_request_s is not None
        assert found.limit in {limit.name for limit in case.slo.limits}
        # Confirmed at a rate that the server can do, failing at one that it cannot, to the
        # resolution; and near to each other, so that neither is right by being far away.
        low, high = found.request_s / true, found.upper_request_s / true
        narrow = high / low < RESOLUTION + search.ROUNDING
        right.append(low <= RESOLUTION and high >= 1 / RESOLUTION and narrow)
        probes.append(len(made))
        verdicts[found.verdict] += 1
    print(f"right: {sum(right)} of 200; probes: median {median(probes)}, most {max(probes)}")
    assert sum(right) >= 190
    assert median(probes) <= 10
    assert verdicts[search.BRACKET] >= 198


def test_one_search_answers_for_several_slos() -> None:
    slos, server = [STRICT, LOOSE], QUEUES[0]
    answers, made = run(slos, lambda ask: probe(server, slos, ask, 3), 8.0)
    assert [answer.slo for answer in answers] == ["strict", "loose"]
    for answer, slo in zip(answers, slos, strict=True):
        assert answer.request_s == pytest.approx(known(CASES.index(Case(server, slo))), rel=0.15)
    assert len(made) <= 18


def test_the_answer_is_confirmed_on_seeds_of_its_own() -> None:
    (found,), made = run([STRICT], scripted(lambda rate: rate < 30), 10.0)
    confirming = [one for one in made if one.purpose == search.CONFIRM]
    assert [one.request_s for one in confirming] == [found.request_s] * 2
    assert len({one.seed for one in made}) == len(made)
    assert found.request_s is not None and found.upper_request_s is not None
    assert found.request_s < 30 <= found.upper_request_s < found.request_s * RESOLUTION
    assert found.verdict == search.BRACKET


def test_what_does_not_hold_again_is_stepped_down() -> None:
    def probe_at(ask: Ask) -> Probe:
        limit = 25 if ask.purpose == search.CONFIRM else 30  # the seeds that searched were lucky
        return scripted(lambda rate: rate < limit)(ask)

    (found,), made = run([STRICT], probe_at, 10.0)
    assert found.request_s is not None and found.upper_request_s is not None
    tried = list(dict.fromkeys(one.request_s for one in made if one.purpose == search.CONFIRM))
    down = tried[: next(k for k, rate in enumerate(tried) if rate < 25) + 1]
    steps = [high / low for high, low in pairwise(down)]
    assert steps[0] == pytest.approx(RESOLUTION, rel=1e-3)  # then by 10 %, by 16 %
    assert steps == sorted(steps) and len(set(steps)) == len(steps) > 2
    # What the last step has left open is searched: the answer is as narrow as any other.
    assert down[-1] < found.request_s < 25 <= found.upper_request_s
    assert found.upper_request_s / found.request_s < RESOLUTION + search.ROUNDING


def test_a_search_that_stepped_down_and_ran_out_of_probes_has_what_was_confirmed() -> None:
    def probe_at(ask: Ask) -> Probe:
        limit = 25 if ask.purpose == search.CONFIRM else 30
        return scripted(lambda rate: rate < limit)(ask)

    _, made = run([STRICT], probe_at, 10.0)
    confirmed = [k for k, one in enumerate(made) if one.purpose == search.CONFIRM]
    first = next(k for k in confirmed if made[k].request_s < 25)
    (found,), _ = run([STRICT], probe_at, 10.0, max_probes=first + 2)
    assert (found.request_s, found.verdict) == (made[first].request_s, search.UNFINISHED)


@pytest.mark.parametrize("stopped", [False, True])
def test_nothing_passes_and_nothing_fails(stopped: bool) -> None:
    (none,), made = run([STRICT], scripted(lambda _: False, stopped), 32.0)
    assert (none.request_s, none.upper_request_s) == (None, 1.0)
    assert (none.verdict, none.limit, len(made)) == (search.NOTHING_PASSES, "ttft_p99_ms", 7)
    (every,), _ = run([STRICT], scripted(lambda _: True, stopped), 32.0, most=100.0)
    assert (every.request_s, every.upper_request_s) == (100.0, None)
    assert (every.verdict, every.limit) == (search.NOTHING_FAILS, None)


def test_a_cliff_is_told() -> None:
    (found,), _ = run([STRICT], scripted(lambda rate: rate < 30), 10.0)
    assert found.note is not None and found.note.startswith("cliff: ttft_p99_ms 50 at 2")

    def gentle(ask: Ask) -> Probe:
        made = scripted(lambda rate: rate < 30)(ask)
        counts = {"ttft_p99_ms": Counts(made.counts["strict"]["ttft_p99_ms"].kept, 2000, 50.0)}
        return Probe(ask.request_s, ask.seed, ask.purpose, {"strict": counts}, {}, stopped=False)

    (found,), _ = run([STRICT], gentle, 10.0)
    assert found.note is None


def test_a_rate_that_fails_below_one_that_passes_is_told() -> None:
    # Good from 20 to 40/s and below 5/s: what is reached from below counts, the rest is shown.
    (found,), made = run([STRICT], scripted(lambda rate: rate < 5 or 20 < rate < 40), 30.0)
    assert found.verdict == search.NOT_MONOTONIC
    assert found.request_s is not None and 4.7 < found.request_s < 5
    assert found.note is not None and "passes at" in found.note
    assert len(made) <= 30


def test_one_unlucky_seed_is_no_cliff() -> None:
    unlucky = {0}

    def probe_at(ask: Ask) -> Probe:
        return scripted(lambda rate: rate < 30 and ask.seed not in unlucky, stopped=True)(ask)

    (found,), _ = run([STRICT], probe_at, 10.0)  # a host that stalls fails the first probe
    assert found.verdict == search.BRACKET
    assert found.request_s is not None and 28 < found.request_s < 30


def test_a_search_without_further_probes_is_unfinished() -> None:
    (found,), made = run([STRICT], scripted(lambda rate: rate < 30), 10.0, max_probes=4)
    assert len(made) == 4
    assert (found.request_s, found.verdict) == (None, search.UNFINISHED)
    assert found.upper_request_s == 56.56


def test_a_probe_says_nothing_of_slos_that_it_was_not_for() -> None:
    # Stopped for one SLO: of the other one there are only the requests until then.
    counts = {
        "strict": {"ttft_p99_ms": Counts(0, 40, 900.0)},
        "loose": {"ttft_p90_ms": Counts(40, 40, 100.0)},
    }
    stopped = Probe(40.0, 0, search.SEARCH, counts, {"strict": "ttft_p99_ms"}, stopped=True)
    step = next_step(Spec((STRICT, LOOSE), 40.0, 1e4, 2, 40), [stopped])
    assert isinstance(step, Ask)
    assert (step.request_s, step.wanted) == (28.28, ("strict", "loose"))
    again = Spec((LOOSE,), 40.0, 1e4, 2, 40)
    assert next_step(again, [stopped]) == Ask(40.0, 1, search.SEARCH, ("loose",))
