"""Table ``batch_scaling`` from synthetic rows: every number recomputed, with numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import gmean

from tests.unit.made_up import Record, Sweep
from tpsweep.core import stats

H100, H200, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA A100-SXM4-80GB"
TB_S = {H100: 3.352, H200: 4.8, A100: 2.039}
"""As the datasheets have it, not as the program reads it."""
T_DF_4 = 2.7764
"""97.5 % point of Student's t at 4 degrees of freedom, the most for three runs per side."""


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def lines(sweep: Sweep) -> dict[tuple[str, int, int], Record]:
    sweep.tables()
    found = sweep.read("batch_scaling")
    assert all(line["synthetic"] for line in found if line["runs"])
    return {(line["gpu"], line["tp"], line["batch"]): line for line in found}


def test_every_number_of_the_full_matrix(sweep: Sweep) -> None:
    rng = np.random.default_rng(5)
    times: dict[tuple[str, int, int], list[float]] = {}
    rates: dict[tuple[str, int, int], list[float]] = {}
    for gpu, card in (("h100", H100), ("h200", H200), ("a100", A100)):
        for tp in (1, 2, 4):
            for batch in (1, 4, 16, 64):
                base = 30 / TB_S[card] / tp + 0.5 + 0.02 * batch
                at = (gpu, tp, batch)
                times[at] = [base * float(part) for part in rng.uniform(0.97, 1.03, 3)]
                rates[at] = [900 * batch / time for time in times[at]]
                for run, (time, rate) in enumerate(zip(times[at], rates[at], strict=True)):
                    axes = {"gpu": gpu, "gpu_card": card, "batch": batch, "run": run}
                    sweep.add(tp, tpot=time, rate=rate, **axes)
    found = lines(sweep)
    assert found.keys() == times.keys()
    for (gpu, tp, batch), line in found.items():
        here, first, best = (gpu, tp, batch), (gpu, tp, 1), ("h200", tp, batch)
        time, rate = gmean(times[here]), np.median(rates[here])
        assert line["tpot_ms"] == pytest.approx(time)
        assert line["tpot_ms_lo"] < time < line["tpot_ms_hi"]
        assert line["output_tok_s"] == pytest.approx(rate)
        assert line["output_tok_s_per_gpu"] == pytest.approx(rate / tp)
        assert line["smallest_batch"] == 1 and line["reference_gpu"] == "h200"
        _check(line, "decode", "growth", times, here, None if batch == 1 else first)
        _check(line, "decode", "ratio", times, here, None if gpu == "h200" else best)
        growth = None if batch == 1 else pytest.approx(rate / np.median(rates[first]))
        assert line["output_growth"] == growth
        against = None if gpu == "h200" else pytest.approx(rate / np.median(rates[best]))
        assert line["output_ratio"] == against
        assert line["bandwidth_ratio"] == pytest.approx(4.8 / TB_S[line["gpu_card"]])


def _check(
    line: Record,
    name: str,
    what: str,
    times: dict[tuple[str, int, int], list[float]],
    here: tuple[str, int, int],
    other: tuple[str, int, int] | None,
) -> None:
    column = f"{name}_{what}"
    if other is None:
        assert line[column] is None and line[f"{column}_verdict"] is None
        return
    value = gmean(times[here]) / gmean(times[other])
    lo, hi = line[f"{column}_lo"], line[f"{column}_hi"]
    assert line[column] == pytest.approx(value)
    assert line[f"{column}_kind"] == "between runs"
    # Symmetric on the logarithm, and at least as wide as with the most degrees of freedom (4).
    assert lo * hi == pytest.approx(value**2)
    variance = sum(np.var(np.log(times[at]), ddof=1) / 3 for at in (here, other))
    assert np.log(hi / value) >= T_DF_4 * np.sqrt(variance) * (1 - 1e-4)
    apart = lo > 1 or hi < 1
    assert line[f"{column}_verdict"] == (stats.SIGNIFICANT if apart else stats.NOT_SIGNIFICANT)


def test_the_smallest_measured_batch_is_named_and_holes_are_lines(sweep: Sweep) -> None:
    lost = sweep.add(2, batch=1)
    sweep.fail(lost, "crash", "engine died")
    sweep.add(2, tpot=5.0, rate=800.0, batch=4)
    sweep.add(2, batch=8, status="infeasible", reason="no room for the KV cache")
    sweep.add(2, batch=16)
    sweep.add(2, tpot=7.5, rate=2400.0, batch=32)
    found = {batch: line for (_, _, batch), line in lines(sweep).items()}
    assert [found[batch]["state"] for batch in (1, 8, 16)] == [
        "failed: crash",
        "infeasible: no room for the KV cache",
        "missing",
    ]
    assert all(line["smallest_batch"] == 4 for line in found.values())
    assert all(found[batch]["decode_growth"] is None for batch in (1, 4, 8, 16))
    assert found[32]["decode_growth"] == pytest.approx(1.5)
    assert found[32]["output_growth"] == pytest.approx(3.0)
    assert found[32]["decode_growth_verdict"] == stats.DIFFERS_WITHIN
    assert "Smallest batch: 4" in sweep.markdown("batch_scaling")


def test_a_hole_of_the_reference_gives_no_ratio_but_the_reference_stays(sweep: Sweep) -> None:
    for gpu, card, time in (("h100", H100, 6.0), ("h200", H200, 4.0)):
        sweep.add(1, tpot=time, gpu=gpu, gpu_card=card, batch=1)
    sweep.add(1, tpot=8.0, gpu="h100", gpu_card=H100, batch=2)
    sweep.add(1, gpu="h200", gpu_card=H200, batch=2)
    found = lines(sweep)
    assert found["h100", 1, 1]["decode_ratio"] == pytest.approx(1.5)
    hole = found["h100", 1, 2]
    assert (hole["reference_gpu"], hole["decode_ratio"]) == ("h200", None)
    assert hole["bandwidth_ratio"] == pytest.approx(4.8 / 3.352)


def test_without_a_datasheet_there_is_no_reference(sweep: Sweep) -> None:
    sweep.add(1, tpot=6.0, gpu="cpu", gpu_card="some processor")
    sweep.add(1, tpot=4.0, gpu="h200", gpu_card=H200, variant="eager")
    found = lines(sweep)
    assert found["cpu", 1, 1]["reference_gpu"] is None
    assert found["cpu", 1, 1]["bandwidth_ratio"] is None
    assert found["h200", 1, 1]["reference_gpu"] == "h200"


def test_another_driver_than_that_of_the_other_side_is_noted(sweep: Sweep) -> None:
    sweep.add(1, tpot=5.0, measured={"driver_version": "550.1"})
    sweep.add(1, tpot=5.0, batch=2, measured={"driver_version": "560.2"})
    assert lines(sweep)["H200", 1, 2]["note"] == "unlike the smallest batch: driver"
