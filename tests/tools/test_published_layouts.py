"""Layouts measured on two H200s (results/published) beside today's expectation."""

from pathlib import Path

import pytest

from tools.fit_expectation import DTYPE, expected_prefill_ms, read_measured
from tpsweep.core.layout import Layout
from tpsweep.perfmodel.step_time import decode
from tpsweep.results.load import Results, load, records

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "results/published/h200x2-layouts"
MEASURED = [
    row for row in read_measured(ROOT / "tests/data/measured.yaml") if "layouts" in row.note
]


@pytest.fixture(scope="module")
def found() -> Results:
    return load(FOLDER)


def test_no_row_is_made_up(found: Results) -> None:
    assert len(found.rows) == 21
    assert not found.rows.synthetic.any()


def test_every_capture_passes_its_self_check(found: Results) -> None:
    checks = [[one.self_check.ok for one in reports] for reports in found.communication.values()]
    assert sorted(map(len, checks)) == [1, 1, 1, 1, 2, 2, 2]  # a report for each stage
    assert all(ok for one in checks for ok in one)


def test_decode_is_as_expected(found: Results) -> None:
    rows = {
        (row["model"], Layout.of(row), row["batch"]): row["tpot_ms"]
        for row in records(found.rows)
        if row["workload"] == "latency"
    }
    assert len(rows) == len(MEASURED) == 12
    for one in MEASURED:
        run = one.run
        layout = Layout(tp=run.tp, pp=run.pp, ep=run.ep)
        assert rows[one.model, layout, run.batch] == pytest.approx(one.decode_ms, rel=1e-3)
        assert decode(one.shape, DTYPE, one.card, run).ms == pytest.approx(one.decode_ms, rel=0.1)


def test_prefill_is_as_expected(found: Results) -> None:
    rows = {
        (row["model"], Layout.of(row), row["batch"]): row["prefill_ms"]
        for row in records(found.rows)
        if row["workload"] == "latency"
    }
    for one in MEASURED:
        run = one.run
        measured = rows[one.model, Layout(tp=run.tp, pp=run.pp, ep=run.ep), run.batch]
        assert measured == pytest.approx(one.prefill_ms, rel=1e-3)
        assert expected_prefill_ms(one) == pytest.approx(measured, rel=0.2)
