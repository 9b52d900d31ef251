"""Crossovers: of signs by hand, and of synthetic rows recomputed with numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.made_up import Record, Sweep
from tpsweep.analysis.crossing import LEVEL, Bracket, Point, find_crossing, observe

SIGNS = {"-": -1, "+": 1, "0": 0}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def points(signs: str) -> list[Point]:
    """At batches 1, 2, 4, ...; a dot is a hole."""
    return [
        Point(2**at, None, "missing") if sign == "." else Point(2**at, SIGNS[sign])  # type: ignore[arg-type]
        for at, sign in enumerate(signs)
    ]


@pytest.mark.parametrize(
    ("signs", "verdict", "brackets"),
    [
        ("+++", "at_most", []),
        ("+", "at_most", []),
        (".++", "at_most", []),
        ("+.+", "at_most", []),
        ("---", "none in range", []),
        (".--.", "none in range", []),
        ("-.-", "undecided", []),
        ("--+", "brackets", [(2, 4)]),
        ("-00+", "brackets", [(1, 8)]),
        ("-.+", "undecided", []),
        ("-0.+", "undecided", []),
        ("-.0+", "undecided", []),
        ("+-", "brackets", [(1, 2)]),
        ("-+-+", "brackets", [(1, 2), (2, 4), (4, 8)]),
        ("-+.-", "brackets", [(1, 2)]),
        ("-.-+", "brackets", [(4, 8)]),
        ("-+0", "brackets", [(1, 2)]),
        ("0++", "undecided", []),
        ("++0", "undecided", []),
        ("--0", "undecided", []),
        ("000", "undecided", []),
        ("...", "undecided", []),
        ("", "undecided", []),
    ],
)
def test_signs(signs: str, verdict: str, brackets: list[tuple[int, int]]) -> None:
    found = find_crossing(points(signs))
    assert found.verdict == verdict
    assert [(b.after, b.upto) for b in found.brackets] == brackets
    if verdict == "undecided":
        assert found.why


def test_what_limits_a_crossing_is_said() -> None:
    found = find_crossing(points("-+.-0"))
    assert found.brackets == (Bracket(1, 2, 1),)
    assert (found.smallest, found.largest) == (1, 16)
    assert found.why == (
        "batch 4 missing",
        "no bracket across the hole in (2, 8]",
        "not significant at batch 16",
    )


def lines(sweep: Sweep) -> dict[tuple[int, int, str], Record]:
    sweep.tables()
    found = sweep.read("crossover")
    return {(line["tp_from"], line["tp_to"], line["metric"]): line for line in found}


def measure(sweep: Sweep, tp: int, batch: int, tpot: float, runs: int = 3) -> None:
    for run in range(runs):
        time = tpot * (1 + 0.002 * run)
        sweep.add(tp, tpot=time, rate=1000 * batch / time, batch=batch, run=run)


def test_each_figure_has_its_own_crossover(sweep: Sweep) -> None:
    times = {1: [8.0, 9.0, 16.0, 30.0], 2: [8.8, 8.0, 7.9, 12.0]}
    batches = (1, 4, 16, 64)
    for tp, row in times.items():
        for batch, time in zip(batches, row, strict=True):
            measure(sweep, tp, batch, time)
    found = lines(sweep)
    # The runs differ by 0.4 %: every step of the times above is far beyond it.
    one, two = np.array(times[1]), np.array(times[2])
    faster, per_gpu = two < one, (1 / two) / 2 > 1 / one
    assert faster.tolist() == [False, True, True, True]
    assert per_gpu.tolist() == [False, False, True, True]
    assert found[1, 2, "decode time at equal batch"]["crossover"] == "(1, 4] to TP=2"
    assert found[1, 2, "output tok/s at equal batch"]["crossover"] == "(1, 4] to TP=2"
    line = found[1, 2, "output tok/s per GPU at equal batch"]
    assert line["crossover"] == "(4, 16] to TP=2"
    assert line["ahead"] == "1: TP=1, 4: TP=1, 16: TP=2, 64: TP=2"
    assert (line["smallest_batch"], line["largest_batch"], line["brackets"]) == (1, 64, 1)
    assert line["synthetic"] and line["why"] is None


def test_never_across_a_hole(sweep: Sweep) -> None:
    for batch, (one, two) in {1: (8.0, 9.0), 16: (16.0, 8.0)}.items():
        measure(sweep, 1, batch, one)
        measure(sweep, 2, batch, two)
    measure(sweep, 1, 4, 9.0)
    sweep.add(2, batch=4, status="infeasible", reason="no room")
    line = lines(sweep)[1, 2, "decode time at equal batch"]
    assert line["crossover"] == "undecided"
    assert line["ahead"] == "1: TP=1, 4: infeasible: no room (TP=2), 16: TP=2"
    assert line["why"] == (
        "batch 4 infeasible: no room (TP=2); no bracket across the hole in (1, 16]"
    )


def test_always_and_never(sweep: Sweep) -> None:
    for batch in (2, 8):
        for tp, time in ((1, 8.0), (2, 5.0), (4, 4.5)):
            measure(sweep, tp, batch, time)
    found = lines(sweep)
    assert found[1, 2, "decode time at equal batch"]["crossover"] == "<= 2"
    assert found[2, 4, "output tok/s at equal batch"]["crossover"] == "<= 2"
    assert found[1, 4, "output tok/s per GPU at equal batch"]["crossover"] == "none in range"


def test_without_three_runs_nothing_is_significant(sweep: Sweep) -> None:
    for batch in (1, 8):
        measure(sweep, 1, batch, 8.0, runs=2)
        measure(sweep, 2, batch, 4.0, runs=2)
    line = lines(sweep)[1, 2, "decode time at equal batch"]
    assert line["crossover"] == "undecided"
    assert line["why"] == "not significant at batch 1, 8; a side has fewer than 3 runs"


def test_a_batch_that_only_one_tp_has_is_a_hole(sweep: Sweep) -> None:
    measure(sweep, 1, 1, 8.0)
    measure(sweep, 2, 1, 5.0)
    measure(sweep, 2, 4, 5.0)
    measure(sweep, 4, 4, 3.0)
    line = lines(sweep)[1, 2, "decode time at equal batch"]
    assert line["crossover"] == "<= 1"
    assert line["why"] == "batch 4 not in the matrix at both TPs"
    assert (1, 4, "decode time at equal batch") not in lines(sweep)


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ([1.38, 1.1, 0.995, 0.9], "TP=2 ahead up to 4, level (within 2 %) at 8, behind at 16"),
        ([1.3, 1.2], "TP=2 ahead from 2 to 4"),
        ([0.8], "TP=2 behind at 2"),
        ([0.8, 1.2, 1.3], "TP=2 behind at 2, ahead from 4 on"),
        ([0.8, 1.2, 1.3, 0.9], "TP=2 behind at 2, ahead from 4 to 8, behind at 16"),
        ([1.2, None, 1.3, 0.9], "TP=2 ahead up to 8, behind at 16 (not known at 4)"),
        ([1 + 0.99 * LEVEL, 1 - 0.99 * LEVEL], "TP=2 level (within 2 %) from 2 to 4"),
        ([None], None),
        ([], None),
    ],
)
def test_what_the_values_show(ratios: list[float | None], said: str | None) -> None:
    found = [Point(2 ** (at + 1), None, "missing", ratio) for at, ratio in enumerate(ratios)]
    assert observe(found, "TP=2") == said


EQUAL = "output tok/s at equal sequences per node"


def rates(sweep: Sweep, tp: int, by_batch: dict[int, float], runs: int = 1, **axes: str) -> None:
    for batch, rate in by_batch.items():
        for run in range(runs):
            sweep.add(tp, tpot=5.0, rate=rate * (1 + 0.002 * run), batch=batch, run=run, **axes)


def test_at_equal_sequences_the_smaller_engines_share_the_batch(sweep: Sweep) -> None:
    rates(sweep, 1, {1: 100, 2: 190, 4: 300, 8: 400}, runs=3)
    rates(sweep, 2, {1: 150, 2: 280, 4: 420, 8: 500}, runs=3)
    line = lines(sweep)[1, 2, EQUAL]
    # 280 / 200, 420 / 380, 500 / 600: a batch of 1 cannot be shared out.
    assert line["ratios"] == "2: 1.400, 4: 1.105, 8: 0.8333"
    assert line["observed"] == "TP=2 ahead up to 4, behind at 8"
    assert line["crossover"] == "(4, 8] to TP=1"
    assert line["ahead"] == "2: TP=2, 4: TP=2, 8: TP=1"
    assert (line["smallest_batch"], line["largest_batch"], line["why"]) == (2, 8, None)
    at_batch = lines(sweep)[1, 2, "output tok/s at equal batch"]
    assert at_batch["observed"] == "TP=2 ahead from 1 to 8" and at_batch["crossover"] == "<= 1"


def test_one_start_is_told_and_not_tested(sweep: Sweep) -> None:
    rates(sweep, 1, {1: 100, 2: 190})
    rates(sweep, 2, {2: 280, 4: 375})
    line = lines(sweep)[1, 2, EQUAL]
    assert line["observed"] == (
        "TP=2 ahead at 2, level (within 2 %) at 4; one start per side, not tested"
    )
    assert line["crossover"] == "undecided"
    sweep.add(1, tpot=5.0, rate=101, batch=1, run=1)
    (line,) = [found for key, found in lines(sweep).items() if key[2] == EQUAL]
    assert line["observed"].endswith("; engine starts: 1 to 2 of TP=1, 1 of TP=2, not tested")


def test_larger_pairs_and_other_backends_share_the_batch_too(sweep: Sweep) -> None:
    rates(sweep, 1, {1: 100, 2: 190})
    for backend in ("custom", "nccl"):
        rates(sweep, 2, {2: 300}, allreduce_backend=backend)
        rates(sweep, 4, {4: 500}, allreduce_backend=backend)
    sweep.tables()
    found = {
        (line["allreduce_backend"], line["tp_from"], line["tp_to"]): line["ratios"]
        for line in sweep.read("crossover")
        if line["metric"] == EQUAL
    }
    # TP=1 has no all-reduce: its batch of 1 is the share of either backend's batch of 2.
    for backend in ("custom", "nccl"):
        assert found[backend, 1, 2] == "2: 1.500"
        assert found[backend, 1, 4] == "4: 1.250"
        assert found[backend, 2, 4] == "4: 0.8333"


def test_a_share_that_is_not_there_is_a_hole(sweep: Sweep) -> None:
    rates(sweep, 1, {1: 100, 4: 300})
    sweep.add(1, batch=2)
    rates(sweep, 2, {2: 280, 4: 420, 8: 500, 32: 900})
    line = lines(sweep)[1, 2, EQUAL]
    assert line["ahead"] == (
        "2: not significant, 4: missing (TP=1 at batch 2), 8: not significant,"
        " 32: not in the matrix (TP=1 at batch 16)"
    )
    assert line["observed"].startswith("TP=2 ahead at 2, behind at 8 (not known at 4, 32);")
