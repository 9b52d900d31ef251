"""The ladder that searches are held against: its rungs and its answer."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.bench.capacity_ladder import LEAST, MOST, RUNG, Rung, ladders_answer, rungs


def test_rungs_are_around_what_the_server_should_do() -> None:
    found = rungs(80.0)
    assert found[0] == pytest.approx(LEAST * 80) and found[-1] >= MOST * 80 > found[-2]
    ratios = [high / low for low, high in pairwise(found)]
    assert ratios == [pytest.approx(RUNG, rel=0.01)] * len(ratios)


@pytest.mark.parametrize(
    ("held", "answer"), [([1, 1, 1], 30), ([1, 0, 1], 10), ([0, 1, 1], None), ([1, 1, 0], 20)]
)
def test_the_answer_is_below_the_first_rung_that_fails(
    held: list[int], answer: float | None
) -> None:
    ladder = [Rung(10.0 * (k + 1), {"chat": bool(one)}, []) for k, one in enumerate(held)]
    assert ladders_answer("chat", ladder) == answer
