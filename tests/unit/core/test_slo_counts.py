"""Limits as shares of requests, and when a run has lost one."""

from __future__ import annotations

import pytest

from tpsweep.core.slo import Slo
from tpsweep.core.slo_counts import SATURATED, JudgedSlo, Stop, Times, Watch, slos_of

FAST = Times(ttft=10.0, tpot=2.0, e2e=30.0, itl=[2.0] * 10)
LATE = Times(ttft=600.0, tpot=2.0, e2e=620.0, itl=[2.0] * 10)
JERKY = Times(ttft=10.0, tpot=7.0, e2e=80.0, itl=[2.0] * 5 + [12.0] * 5)


def counts(slo: JudgedSlo, *times: Times) -> dict[str, tuple[int, int]]:
    found = {}
    for limit in slo.limits:
        counted = [limit.count(one) for one in times]
        found[limit.name] = (sum(k for k, _ in counted), sum(n for _, n in counted))
    return found


def test_limits_count_requests_and_itl_counts_gaps() -> None:
    mapping = {
        "ttft_p99_ms": 500,
        "tpot_p50_ms": 5,
        "itl_p90_ms": 10,
        "e2e_p95_ms": 100,
        "goodput_share": 0.9,
        "ttft_ms": 500,
        "tpot_ms": 5,
    }
    (slo,) = slos_of({"all": mapping})
    assert [(limit.name, limit.share) for limit in slo.limits] == [
        ("ttft_p99_ms", 0.99),
        ("tpot_p50_ms", 0.5),
        ("itl_p90_ms", 0.9),
        ("e2e_p95_ms", 0.95),
        ("goodput_share", 0.9),
    ]
    assert counts(slo, FAST, LATE, JERKY) == {
        "ttft_p99_ms": (2, 3),
        "tpot_p50_ms": (2, 3),
        "itl_p90_ms": (25, 30),
        "e2e_p95_ms": (2, 3),
        "goodput_share": (1, 3),  # only the fast one keeps both
    }
    assert slo.least_requests == 2000


@pytest.mark.parametrize(
    ("name", "of", "allowed", "least"),
    [("ttft_p50_ms", 40, 20, 40), ("ttft_p90_ms", 200, 20, 200), ("ttft_p99_ms", 1000, 10, 2000)],
)
def test_so_many_may_be_beyond_a_limit(name: str, of: int, allowed: int, least: int) -> None:
    (limit,) = JudgedSlo.of("x", {name: 500.0}).limits
    assert limit.allowed(of) == allowed and limit.least_requests == least
    assert limit.is_kept(of - allowed, of)
    assert not limit.is_kept(of - allowed - 1, of)
    assert not limit.is_kept(0, 0)
    assert limit.strain(of - 2 * allowed, of) == pytest.approx(2.0)


def test_a_limit_that_is_given_twice_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="ttft_p99_ms: given twice, allowed: once"):
        Slo.parse("ttft_p99_ms=500,tpot_p50_ms=9,ttft_p99_ms=50")


def watch(*slos: JudgedSlo, first: int = 10, last: int = 110, runs: int = 1) -> Watch:
    return Watch(Stop(slos, first, last, tokens=1000, patience_s=5.0, runs=runs))


def test_a_run_is_hopeless_once_every_slo_has_lost() -> None:
    chat, bulk = (
        JudgedSlo.of("chat", {"ttft_p90_ms": 500.0}),
        JudgedSlo.of("bulk", {"ttft_p50_ms": 500.0}),
    )
    seen = watch(chat, bulk)
    for place in range(200):
        seen.add(place, LATE, sent=place + 1, elapsed_s=1.0)
        assert ("chat" in seen.lost) == (place >= 20)  # the 11th of 100 judged ones
        assert seen.is_hopeless == (place >= 60)
    assert seen.lost == {"chat": "ttft_p90_ms", "bulk": "ttft_p50_ms"}


def test_of_runs_that_are_counted_together_one_may_have_what_all_may_have() -> None:
    seen = watch(JudgedSlo.of("chat", {"ttft_p90_ms": 500.0}), runs=2)
    for place in range(10, 110):
        seen.add(place, LATE, sent=place + 1, elapsed_s=1.0)
        assert seen.is_hopeless == (place >= 30)  # the 21st of 200 that two runs judge


def test_requests_that_are_not_judged_and_good_ones_lose_nothing() -> None:
    seen = watch(JudgedSlo.of("chat", {"ttft_p90_ms": 500.0}))
    for place in range(10):
        seen.add(place, LATE, sent=200, elapsed_s=1.0)
    for place in range(110, 200):
        seen.add(place, LATE, sent=200, elapsed_s=1.0)
    for place in range(10, 110):
        seen.add(place, FAST, sent=200, elapsed_s=1.0)
    assert not seen.is_hopeless and seen.lost == {}


def test_gaps_are_lost_against_all_that_can_come() -> None:
    seen = watch(JudgedSlo.of("chat", {"itl_p90_ms": 10.0}))  # 100 of 1,000 gaps may be longer
    for place in range(10, 30):
        seen.add(place, JERKY, sent=200, elapsed_s=1.0)
    assert not seen.is_hopeless
    seen.add(30, JERKY, sent=200, elapsed_s=1.0)
    assert seen.lost == {"chat": "itl_p90_ms"}


def test_more_under_way_than_ended_is_hopeless_after_a_while() -> None:
    seen = watch(JudgedSlo.of("chat", {"ttft_p90_ms": 500.0}))
    seen.add(0, FAST, sent=50, elapsed_s=4.9)
    assert not seen.is_hopeless
    seen.add(1, FAST, sent=4, elapsed_s=5.1)
    assert not seen.is_hopeless
    seen.add(2, FAST, sent=8, elapsed_s=5.2)
    assert seen.lost == {"chat": SATURATED}


def test_answers_that_take_long_are_no_queue() -> None:
    seen = watch(JudgedSlo.of("chat", {"ttft_p90_ms": 500.0}))
    long = Times(ttft=10.0, tpot=10.0, e2e=3010.0, itl=[10.0] * 300)
    seen.add(0, long, sent=60, elapsed_s=17.9)  # 3 s of decode: to be called a queue after 18 s
    assert not seen.is_hopeless
    seen.add(1, long, sent=60, elapsed_s=18.1)
    assert seen.lost == {"chat": SATURATED}
