"""Questions and expectations: sentences from made-up tables, and from the committed smoke rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.made_up import Sweep, report
from tpsweep.analysis.builder import build_tables
from tpsweep.cli.tables import BUILDERS
from tpsweep.lab.answers import answer_questions, check_expectations, lines_of
from tpsweep.lab.answers.expectations import FAILS, HOLDS, PARTLY, UNKNOWN
from tpsweep.lab.answers.questions import NO_CAPTURE, NO_PAIR
from tpsweep.results.load import load

SMOKE = Path(__file__).parents[3] / "results" / "smoke"


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def sentences(sweep: Sweep) -> list[str]:
    return [" ".join(a.sentences) for a in answer_questions(lines_of(sweep.built()))]


def verdicts(sweep: Sweep) -> list[str]:
    return [check.verdict for check in check_expectations(lines_of(sweep.built()))]


def test_what_is_not_measured_is_said_with_what_it_needs(sweep: Sweep) -> None:
    sweep.add(1, tpot=5.0)
    sweep.add(2)
    assert sentences(sweep) == [NO_PAIR, NO_CAPTURE, NO_PAIR, NO_CAPTURE]
    assert verdicts(sweep) == [UNKNOWN] * 5


def test_expectations_that_hold(sweep: Sweep) -> None:
    for batch, rate in ((1, 160.0), (32, 105.0)):
        sweep.add(1, tpot=4.8, prefill=100.0, rate=100.0, batch=batch)
        sweep.add(2, tpot=3.0, prefill=80.0, rate=rate, batch=batch)
        sweep.capture(
            2,
            report(2, compute=2.0, transfer=0.6),
            allreduce_backend="auto",
            batch=batch,
            measured={"nvlink_share": 0.01},
        )
    assert verdicts(sweep) == [HOLDS] * 5


def test_expectations_that_do_not(sweep: Sweep) -> None:
    for batch in (1, 32):
        sweep.add(1, tpot=4.8, prefill=80.0, rate=100.0, batch=batch)
        sweep.add(2, tpot=4.7, prefill=100.0, rate=50.0, batch=batch)
        sweep.capture(
            2,
            report(2, compute=2.0, transfer=0.1),
            allreduce_backend="auto",
            batch=batch,
            measured={"nvlink_share": 0.2},
        )
    assert verdicts(sweep) == [FAILS] * 5


def test_large_batches_alone_say_nothing_of_small_ones(sweep: Sweep) -> None:
    sweep.add(1, tpot=4.8, rate=100.0, batch=32)
    sweep.add(2, tpot=3.0, rate=150.0, batch=32)
    assert verdicts(sweep)[2] == UNKNOWN


def test_the_answers_have_the_tables_numbers(sweep: Sweep) -> None:
    for batch in (1, 8):
        sweep.add(1, tpot=4.87, rate=200.0, batch=batch)
        sweep.add(2, tpot=3.61, rate=260.0 if batch == 1 else 410.0, batch=batch)
        sweep.capture(1, report(1, compute=4.8), batch=batch)
        sweep.capture(
            2,
            report(2, compute=3.0, transfer=0.24 * batch),
            allreduce_backend="auto",
            batch=batch,
        )
    halving, share, crossover, nvlink = sentences(sweep)
    assert "at batch 1 1.349 times as fast" in halving
    assert "1.510 ms are what TP divides, 1.850 ms what it does not, 0.2500 ms" in halving
    assert "at batch 1 6.6 % of the decode time (5 all-reduces, together 0.2400 ms)" in share
    assert share.endswith("From batch 1 to 8 it grows.")
    assert "more tokens per second at batch 1, 8 (measured: 1, 8); more per GPU at batch 8" in (
        crossover
    )
    assert "at batch 1 2.100 GB/s, 0.5 % of the link's peak" in nvlink


def test_every_number_of_the_smoke_rows_is_in_a_table() -> None:
    lines = lines_of(build_tables(load(SMOKE), BUILDERS))
    halving, share, *_ = (" ".join(a.sentences) for a in answer_questions(lines))
    assert "1.405 times as fast" in halving  # results/smoke/README.md: 4.936 / 3.513 ms
    assert "65 all-reduces" in share
    assert [check.verdict for check in check_expectations(lines)] == [
        *(FAILS, PARTLY, PARTLY, FAILS, PARTLY)
    ]
