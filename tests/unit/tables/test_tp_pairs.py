"""Table ``tp_pairs`` from synthetic rows: every number recomputed, with numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import gmean

from tests.unit.made_up import Record, Sweep
from tpsweep.core import stats

PAIRS = [(1, 2), (1, 4), (1, 8), (2, 4), (2, 8), (4, 8)]
T_DF_4 = 2.7764
"""97.5 % point of Student's t at 4 degrees of freedom, the most for three runs per side."""


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def lines(sweep: Sweep) -> dict[tuple[int, int, int], Record]:
    sweep.tables()
    found = sweep.read("tp_pairs")
    return {(line["tp_from"], line["tp_to"], line["batch"]): line for line in found}


def test_every_number_of_every_pair(sweep: Sweep) -> None:
    rng = np.random.default_rng(7)
    names = ("decode", "prefill", "rate")
    figures: dict[str, dict[tuple[int, int], list[float]]] = {name: {} for name in names}
    for tp in (1, 2, 4, 8):
        for batch in (1, 16):
            decode = (8 / tp + 1 + 0.02 * batch) * rng.uniform(0.98, 1.02, 3)
            prefill = 100 * batch / tp * rng.uniform(0.8, 1.2, 3)
            rate = 900 * batch / decode
            for name, values in zip(names, (decode, prefill, rate), strict=True):
                figures[name][tp, batch] = values.tolist()
            for run in range(3):
                sweep.add(
                    tp,
                    tpot=float(decode[run]),
                    prefill=float(prefill[run]),
                    rate=float(rate[run]),
                    batch=batch,
                    run=run,
                )
    found = lines(sweep)
    assert sorted(found) == sorted((*pair, batch) for pair in PAIRS for batch in (1, 16))
    for (low, high, batch), line in found.items():
        for name in ("decode", "prefill"):
            before, after = figures[name][low, batch], figures[name][high, batch]
            value = gmean(before) / gmean(after)
            assert line[f"{name}_speedup"] == pytest.approx(value)
            assert line[f"{name}_efficiency"] == pytest.approx(value * low / high)
            assert line[f"{name}_speedup_kind"] == "between runs"
            lo, hi = line[f"{name}_speedup_lo"], line[f"{name}_speedup_hi"]
            assert lo * hi == pytest.approx(value**2)
            variance = sum(np.var(np.log(side), ddof=1) / 3 for side in (before, after))
            assert np.log(hi / value) >= T_DF_4 * np.sqrt(variance) * (1 - 1e-4)
            verdict = stats.SIGNIFICANT if lo > 1 or hi < 1 else stats.NOT_SIGNIFICANT
            assert line[f"{name}_speedup_verdict"] == verdict
        rates = np.median(figures["rate"][high, batch]) / np.median(figures["rate"][low, batch])
        assert line["output_ratio"] == pytest.approx(rates)
        assert line["per_gpu_ratio"] == pytest.approx(rates * low / high)
        assert line["synthetic"] and line["note"] is None


def test_one_run_a_side_is_within_the_session(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0)
    sweep.add(2, tpot=5.0)
    line = lines(sweep)[1, 2, 1]
    assert line["decode_speedup"] == pytest.approx(1.6)
    assert line["decode_efficiency"] == pytest.approx(0.8)
    assert line["decode_speedup_kind"] == "within session"
    assert line["decode_speedup_verdict"] == stats.DIFFERS_WITHIN
    assert line["prefill_speedup_verdict"] == stats.SAME_WITHIN


def test_a_pair_with_a_hole_is_a_line_that_names_it(sweep: Sweep) -> None:
    sweep.add(1, status="infeasible", reason="too big")
    lost = sweep.add(2)
    sweep.fail(lost, "out_of_memory", "no room")
    sweep.add(4, tpot=5.0)
    found = lines(sweep)
    assert sorted(found) == [(1, 2, 1), (1, 4, 1), (2, 4, 1)]
    assert found[1, 4, 1]["state_from"] == "infeasible: too big"
    assert found[1, 4, 1]["state_to"] == "measured"
    assert found[2, 4, 1]["state_from"] == "failed: out_of_memory"
    assert {line["decode_speedup"] for line in found.values()} == {None}
    assert "infeasible: too big" in sweep.markdown("tp_pairs")


def test_software_that_differs_is_noted_and_no_allreduce_is_no_difference(sweep: Sweep) -> None:
    ran = {"driver_version": "550.1", "allreduce_backend_ran": "none"}
    sweep.add(1, tpot=8.0, measured=ran)
    sweep.add(2, tpot=5.0, measured={**ran, "allreduce_backend_ran": "custom"})
    sweep.add(4, tpot=4.0, measured={"driver_version": "560.2", "allreduce_backend_ran": "nccl"})
    found = lines(sweep)
    assert found[1, 2, 1]["note"] is None
    assert found[1, 4, 1]["note"] == "unlike: driver"
    assert found[2, 4, 1]["note"] == "unlike: driver, all-reduce that ran"


def test_no_pairs(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0)
    assert lines(sweep) == {}
    assert "no latency cells at two TPs" in sweep.markdown("tp_pairs")


def test_at_equal_sequences_smaller_engines_share_the_batch(sweep: Sweep) -> None:
    for tp, rates in ((1, {1: 100, 2: 180}), (2, {2: 250, 4: 400}), (4, {4: 600, 6: 700})):
        for batch, rate in rates.items():
            sweep.add(tp, tpot=5.0, rate=float(rate), batch=batch)
    found = {pair: line["equal_sequences_ratio"] for pair, line in lines(sweep).items()}
    assert found == {
        (1, 2, 2): pytest.approx(250 / 200),
        (2, 4, 4): pytest.approx(600 / 500),
    }
    sweep.add(1, tpot=5.0, rate=190.0, batch=4)
    # Four engines at batch 1, not two at batch 2.
    assert lines(sweep)[1, 4, 4]["equal_sequences_ratio"] == pytest.approx(600 / 400)
