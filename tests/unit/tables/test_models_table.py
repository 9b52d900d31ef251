"""Table ``models`` from synthetic rows: its numbers recomputed, with numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import gmean

from tests.unit.made_up import Record, Sweep
from tpsweep.core import stats

SMALL, LARGE = "llama-8b", "llama-70b"
DECODE = {
    (SMALL, 1): [5.0, 5.1, 5.3],
    (SMALL, 2): [3.5, 3.6, 3.4],
    (SMALL, 4): [2.9, 3.0, 3.2],
    (LARGE, 2): [29.0, 30.0, 29.5],
    (LARGE, 4): [22.0, 22.6, 22.3],
}
TOO_BIG = "141.1 GB of weights do not fit on one GPU"


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def lines(sweep: Sweep) -> list[Record]:
    sweep.tables()
    return sweep.read("models")


def fill(sweep: Sweep) -> None:
    for (model, tp), times in DECODE.items():
        for run, time in enumerate(times):
            sweep.add(tp, tpot=time, rate=900 / time, model=model, run=run)
    for run in range(3):
        sweep.add(1, model=LARGE, status="infeasible", reason=TOO_BIG, run=run)


def test_every_number_against_numpy(sweep: Sweep) -> None:
    fill(sweep)
    found = {(line["model"], line["tp"]): line for line in lines(sweep)}
    assert found.keys() == {*DECODE, (LARGE, 1)}
    for (model, tp), times in DECODE.items():
        line, first = found[model, tp], 1 if model == SMALL else 2
        assert line["tpot_ms"] == pytest.approx(gmean(times))
        assert line["output_tok_s"] == pytest.approx(900 / np.median(times))
        assert line["output_tok_s_per_gpu"] == pytest.approx(900 / np.median(times) / tp)
        assert line["baseline_tp"] == first
        if tp == first:
            assert line["decode_speedup"] is None and line["efficiency"] is None
            continue
        speedup = gmean(DECODE[model, first]) / gmean(times)
        assert line["decode_speedup"] == pytest.approx(speedup)
        assert line["efficiency"] == pytest.approx(speedup * first / tp)
        assert line["decode_speedup_kind"] == "between runs"
        assert line["decode_verdict"] == stats.SIGNIFICANT
        assert line["decode_speedup_lo"] < speedup < line["decode_speedup_hi"]
        assert line["synthetic"]


def test_models_stand_beside_each_other_and_what_does_not_fit_says_so(sweep: Sweep) -> None:
    fill(sweep)
    found = lines(sweep)
    assert [(line["tp"], line["model"]) for line in found] == [
        (tp, model) for tp in (1, 2, 4) for model in (SMALL, LARGE)
    ]
    assert found[1]["state"] == f"infeasible: {TOO_BIG}"
    assert found[1]["tpot_ms"] is None
    assert TOO_BIG in sweep.markdown("models")


def test_one_run_is_within_the_session(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0, model=SMALL)
    sweep.add(2, tpot=5.0, model=SMALL)
    sweep.add(2, model=LARGE)
    found = {(line["model"], line["tp"]): line for line in lines(sweep)}
    assert found[SMALL, 2]["decode_verdict"] == stats.DIFFERS_WITHIN
    assert found[LARGE, 2]["state"] == "missing"
    assert found[LARGE, 2]["baseline_tp"] is None
