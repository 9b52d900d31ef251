"""How often claims are wrong: a small version of `make bench-claims`, by the same code."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.bench import claims
from tpsweep.core import stats
from tpsweep.core.saturation import NO, YES


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "REPEATS", (5,))
    monkeypatch.setattr(claims, "STARTS", (3, 8))


def test_null_experiments_are_seldom_significant(few: None) -> None:
    found = list(claims.between(150))
    assert len(found) == 2 * len(claims.CASES)
    for one in found:  # of 150 tries at 5 %, more than 18 come once in 10,000
        assert one.false <= 0.12, one
        assert one.covered is None or one.covered >= 0.88, one
    alone = [one for one in found if one.case == "per node: a node a side"]
    assert [(one.false, one.covered) for one in alone] == [(0, None)] * 2
    assert sum(one.false for one in found) / len(found) > 0.01


def test_nodes_that_are_not_known_make_false_claims(few: None) -> None:
    """Why starts need their node: without it a node a side is called a difference."""
    case = next(case for case in claims.CASES if case.name == "per node: a node a side")
    rng = claims.np.random.default_rng(1)
    found = claims._between(replace(case, nodes=None), 100, 5, 5, rng)
    assert found.false > 0.5


def test_saturated_is_told_when_it_shows_and_only_then() -> None:
    found = list(claims.loads(20, (200,)))
    assert len(found) == len(claims.SERVERS) * len(claims.LOADS)
    for one in found:
        assert one.shares[NO if one.load > 1 else YES] <= 0.05, one
    by = {(one.server, one.load): one.shares for one in found}
    assert by["slots, one length", 0.5][NO] > 0.9
    assert by["slots, one length", 1.3][YES] > 0.9
    assert by["batching, one length", 1.3][YES] > 0.5


def test_medians_within_a_start_are_covered() -> None:
    for one in claims.within(400):
        few = one.repeats < stats.MIN_REPEATS
        assert (one.covered is None) if few else (one.covered or 0) > 0.88, one


def test_the_page_has_every_case() -> None:
    starts = [
        claims.Between(case.name, n, k, 0.04, 0.95)
        for case in claims.CASES
        for n in claims.STARTS
        for k in claims.REPEATS
    ]
    verdicts = [
        claims.Verdicts(server.name, n, load, dict.fromkeys((YES, NO), 0.5))
        for server in claims.SERVERS
        for n in claims.REQUESTS
        for load in claims.LOADS
    ]
    text = claims.page(1, 1, starts, [claims.Within("Gaussian", 5, None)], verdicts)
    assert all(case.name in text for case in claims.CASES)
    assert text.count("50.0 % / 50.0 %") == len(verdicts)
    assert not claims.Between("x", 3, 5, 0.07, 0.95).holds
    assert not claims.Between("x", 3, 5, 0.01, 0.91).holds
