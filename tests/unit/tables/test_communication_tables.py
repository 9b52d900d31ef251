"""Tables and figures of communication, from made-up captures and from the real one."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.made_up import Record, Sweep, report
from tpsweep import traces
from tpsweep.analysis.series import Source
from tpsweep.analysis.three_terms import Point, Timed, fit, solve
from tpsweep.core import capture_report, stats
from tpsweep.figures import plot
from tpsweep.figures.communication import draw_communication, step_picture
from tpsweep.results.load import load
from tpsweep.tables import communication as table

DATA = Path(__file__).parents[2] / "data" / "captures"
REAL = DATA / "llama8b-tp2-bs1-h200x2.sqlite.xz"


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def lines(sweep: Sweep, name: str = "communication") -> list[Record]:
    sweep.tables()
    return sweep.read(name)


def test_the_share_is_that_of_the_decode_time_without_a_profiler(sweep: Sweep) -> None:
    sweep.add(2, tpot=3.5, output_len=128)
    sweep.capture(2, report(2, compute=3.0, transfer=0.28, step=4.0), output_len=16)
    (line,) = lines(sweep)
    assert line["transfer_fraction"] == pytest.approx(0.28 / 3.5)
    assert line["transfer_fraction_profiled"] == pytest.approx(0.28 / 4.0)
    assert (line["decode_ms"], line["decode_output_len"]) == (3.5, 128)
    assert (line["self_check"], line["all_reduce_per_step"]) == ("ok", 5)
    assert (line["wait_ms_least"], line["wait_ms_most"]) == (0.0, 0.1)
    assert (line["gap_ms_least"], line["gap_ms_most"]) == (0.3, 0.4)
    assert line["nvlink_gb_s"] == 3.0
    assert line["note"] is None
    assert line["synthetic"]


def test_of_several_lengths_the_nearest_and_over_runs_the_median(sweep: Sweep) -> None:
    for run, tpot in enumerate((3.0, 3.2, 9.0)):
        sweep.add(2, tpot=tpot, output_len=32, run=run)
    sweep.add(2, tpot=5.0, output_len=128)
    sweep.capture(2, report(2, compute=2.0), output_len=16)
    (line,) = lines(sweep)
    assert (line["decode_ms"], line["decode_output_len"]) == (3.2, 32)


@pytest.mark.parametrize("other", [{"batch": 4}, {"variant": "eager"}, {"input_len": 64}])
def test_an_unlike_latency_cell_is_no_match(sweep: Sweep, other: Record) -> None:
    sweep.add(2, tpot=3.5, **other)
    sweep.capture(2, report(2, compute=3.0))
    (line,) = lines(sweep)
    assert line["transfer_fraction"] is line["decode_ms"] is None
    assert line["note"] == "no latency cell like it is measured"


def test_holes_are_named_and_keep_their_lines(sweep: Sweep, capsys: Any) -> None:
    sweep.add(2, tpot=3.5, batch=1)
    sweep.add(2, workload="capture", batch=1, status="infeasible", reason="too large")
    failed = sweep.add(2, workload="capture", batch=2)
    sweep.capture(2, batch=4)
    broken = report(2, compute=3.0)
    broken["self_check"] |= {"ok": False, "found": {"all_reduce": [4, 5], "all_gather": 1}}
    broken["phases"] = {"decode": {"steps": 15}}
    sweep.capture(2, broken, batch=8)
    sweep.capture(2, {"ranks": "many"}, batch=16)
    sweep.fail(failed, "crash", "died")
    found = lines(sweep)
    states = [(line["batch"], line["state"], line["note"]) for line in found]
    counts = "all-reduces per step: 4 or 5, expected 5"
    unlike = "no latency cell like it is measured"
    assert states == [
        (1, "infeasible", None),
        (2, "failed", None),
        (4, "measured", f"not analysed; {unlike}"),
        (8, "measured", f"the self-check failed, no times: {counts}; {unlike}"),
        (16, "measured", f"not analysed; {unlike}"),
    ]
    marked = found[3]
    assert (marked["self_check"], marked["all_reduce_per_step"]) == ("failed", None)
    assert marked["transfer_ms"] is marked["compute_ms"] is None
    assert "ranks" in capsys.readouterr().err
    assert "INCOMPLETE 4/5" in sweep.markdown("communication").splitlines()[0]


def test_data_files_hold_no_lists(sweep: Sweep) -> None:
    sweep.add(2, tpot=3.5)
    sweep.capture(2, report(2, compute=3.0))
    sweep.tables()
    for name in ("communication", "terms"):
        with (sweep.root / f"tables/{name}.csv").open() as file:
            assert list(csv.DictReader(file))


def test_the_three_terms_by_hand(sweep: Sweep) -> None:
    # facts: T(1) = 4.87, T(2) = 3.61, C(2) = 0.25 -> S = 2 (4.87 - 3.61 + 0.25), F = T(1) - S.
    sweep.add(1, tpot=4.87)
    sweep.add(2, tpot=3.61)
    sweep.capture(1, report(1, compute=4.8))
    sweep.capture(2, report(2, compute=3.0, transfer=0.24), allreduce_backend="auto")
    (line,) = lines(sweep, "terms")
    assert line["communication_ms"] == pytest.approx(0.25)
    assert line["scaling_ms"] == pytest.approx(3.02 / 2)
    assert line["fixed_ms"] == pytest.approx(1.85)
    total = line["scaling_ms"] + line["fixed_ms"] + line["communication_ms"]
    assert total == pytest.approx(line["decode_ms"])
    assert line["ideal_ms"] == pytest.approx(4.87 / 2)
    # The kernels' own split: 4.8 and 3.0 ms of compute.
    assert line["compute_scaling_ms"] == pytest.approx(1.8)
    assert line["compute_fixed_ms"] == pytest.approx(1.2)
    assert "torch 2.11.0 capture" in line["source"]


def test_early_steps_are_told_beside_those_that_count(sweep: Sweep) -> None:
    found = report(2, compute=3.0)
    found["phases"]["early"] = {"steps": 31}
    sweep.capture(2, {**found, "steady_from": 31})
    sweep.tables()
    assert "15 of 46, without the first 31 of each batch" in sweep.markdown("communication")


def test_the_fixed_part_has_the_interval_of_the_decode_times(sweep: Sweep) -> None:
    # F = 2 T(2) - T(1) - 2 C: 1 % of each T, one start a side, in quadrature.
    sweep.add(1, tpot=4.87)
    sweep.add(2, tpot=3.61)
    sweep.capture(1, report(1, compute=4.8))
    sweep.capture(2, report(2, compute=3.0, transfer=0.24), allreduce_backend="auto")
    (line,) = lines(sweep, "terms")
    off = np.hypot(2 * 0.0361, 0.0487)
    assert line["fixed_ms_lo"] == pytest.approx(1.85 - off)
    assert line["fixed_ms_hi"] == pytest.approx(1.85 + off)
    assert line["spread"] == ("TP=1: 1.0 % (assumed, 1 start); TP=2: 1.0 % (assumed, 1 start)")
    # 1.2 ms of kernels that did not scale and 0.3 ms of gaps, against 1.85 +- 0.09.
    assert line["capture_fixed_ms"] == pytest.approx(1.5)
    assert line["agrees"] is False
    assert (
        "the captures show 1.500 ms that TP does not divide, the decode times 1.850"
        in (line["note"])
    )


def test_with_three_starts_the_spread_is_measured(sweep: Sweep) -> None:
    for run, tpot in enumerate((4.9, 5.0, 5.1)):
        sweep.add(1, tpot=tpot, run=run)
    sweep.add(2, tpot=3.6)
    sweep.capture(1, report(1, compute=4.7))
    sweep.capture(2, report(2, compute=3.0, transfer=0.24), allreduce_backend="auto")
    (line,) = lines(sweep, "terms")
    start = stats.median_of_runs([[4.9], [5.0], [5.1]])
    assert start.hi is not None
    assert line["fixed_ms_hi"] - line["fixed_ms"] == pytest.approx(
        np.hypot(2 * 0.036, 5.0 * (start.hi / start.value - 1))
    )
    assert line["spread"].startswith(
        f"TP=1: {100 * (start.hi / start.value - 1):.1f} % (3 starts); TP=2: 1.0"
    )
    # 2 x 3.0 - 4.7 of kernels, 0.3 of gaps; 2 x 3.6 - 5 - 2 x 0.25 of decode times.
    assert line["capture_fixed_ms"] == pytest.approx(1.6)
    assert line["fixed_ms"] == pytest.approx(1.7)
    assert line["agrees"] is True and line["note"] is None


@pytest.mark.parametrize(("extra", "holds"), [(0.0, True), (0.4, False)])
def test_a_third_tp_makes_it_a_fit(sweep: Sweep, extra: float, holds: bool) -> None:
    for tp in (1, 2, 4):
        moved = 0.0 if tp == 1 else 0.25
        time = 4.0 / tp + 1.0 + moved + (extra if tp == 2 else 0.0)
        sweep.add(tp, tpot=time)
        sweep.capture(tp, report(tp, compute=4.0 / tp + 0.7, transfer=0.24))
    found = {line["tp"]: line for line in lines(sweep, "terms")}
    assert {line["fit_tps"] for line in found.values()} == {"1, 2, 4"}
    for line in found.values():
        assert (line["fit_p"] > 0.05) is holds
        assert ("three terms do not describe TP=1, 2, 4" in (line["note"] or "")) is not holds
    if holds:
        assert found[4]["fit_fixed_ms"] == pytest.approx(1.0)
        assert found[4]["fit_residual_ms"] == pytest.approx(0.0, abs=1e-9)
    else:
        assert found[2]["fit_residual_ms"] > 0.1 > 0 > found[4]["fit_residual_ms"]


def test_two_tps_are_no_fit(sweep: Sweep) -> None:
    for tp, tpot in ((1, 5.0), (2, 3.5)):
        sweep.add(tp, tpot=tpot)
        sweep.capture(tp, report(tp, compute=3.0))
    (line,) = lines(sweep, "terms")
    assert line["fit_tps"] is line["fit_p"] is None


def test_a_baseline_above_tp1_has_communication_too() -> None:
    # T(2) = 8/2 + 1 + 0.5, T(4) = 8/4 + 1 + 0.7
    found = solve(Point(2, Timed(5.5), 0.5), Point(4, Timed(3.7), 0.7))
    assert (found.scaling, found.fixed) == (pytest.approx(8.0), pytest.approx(1.0))
    assert found.fixed_off == pytest.approx(np.hypot(4 * 0.037, 2 * 0.055) / 2)


def test_a_fit_weighs_by_the_spread() -> None:
    points = [Point(tp, Timed(8 / tp + 1, 0.01)) for tp in (1, 2, 4)]
    off = Point(8, Timed(3.0, 0.5))  # 1 ms above the rest, and known to be worth nothing
    assert fit([*points, off]).terms.fixed == pytest.approx(1.0, abs=1e-2)
    with pytest.raises(ValueError, match="three TPs"):
        fit(points[:2])


def test_what_the_terms_lack_is_named(sweep: Sweep) -> None:
    sweep.add(1, tpot=4.87)
    sweep.capture(1, report(1, compute=4.8))
    sweep.capture(2, report(2, compute=3.0), allreduce_backend="auto")
    sweep.capture(2, report(2, compute=3.0), allreduce_backend="auto", batch=7)
    first, alone = lines(sweep, "terms")
    assert first["note"] == "needs: a latency cell like it at TP=2"
    assert first["scaling_ms"] is None
    assert first["compute_fixed_ms"] is not None
    assert alone["note"] == (
        "needs: a latency cell like it at a smaller TP, a latency cell like it at TP=2"
    )


def test_a_model_that_does_not_hold_says_so(sweep: Sweep) -> None:
    sweep.add(1, tpot=4.0)
    sweep.add(2, tpot=1.5)
    sweep.capture(1, report(1, compute=3.0))
    sweep.capture(2, report(2, compute=1.5), allreduce_backend="auto")
    (line,) = lines(sweep, "terms")
    assert line["fixed_ms"] < 0
    # 2 x 1.5 - 4 - 2 x 0.26; kernels that all scale, and 0.3 ms of gaps.
    assert line["note"] == (
        "fixed below zero: the model does not hold; the captures show 0.3000 ms that TP does not"
        " divide, the decode times -1.520: they disagree"
    )


def test_the_capture_by_the_same_profiler_is_the_baseline(sweep: Sweep) -> None:
    for tp, tpot in ((1, 5.0), (2, 3.5)):
        sweep.add(tp, tpot=tpot)
    for profiler, compute in (("torch 2", 4.0), ("nsys 2025.3.1", 4.5)):
        sweep.capture(1, report(1, compute=compute), profiler=profiler)
        sweep.capture(2, report(2, compute=3.0), profiler=profiler, allreduce_backend="auto")
    found = {line["profiler_ran"]: line["compute_baseline_ms"] for line in lines(sweep, "terms")}
    assert found == {"torch 2": 4.0, "nsys 2025.3.1": 4.5}


def test_the_real_capture_beside_the_decode_time_of_the_same_host(sweep: Sweep) -> None:
    # 8B, TP=2, batch 1 on 2x H200; 3.6 ms without a profiler, see tests/data/captures/README.md.
    sweep.add(2, tpot=3.6)
    sweep.capture(2, {**traces.analyse([REAL]).to_dict(), "synthetic": True})
    (line,) = lines(sweep)
    assert line["all_reduce_per_step"] == 65
    assert line["transfer_us"] == pytest.approx(3.87, rel=0.01)
    assert line["transfer_fraction_profiled"] == pytest.approx(0.058, abs=0.002)
    assert line["transfer_fraction"] == pytest.approx(0.070, abs=0.001)


def test_figures_say_their_numbers_in_words(sweep: Sweep) -> None:
    for batch in (1, 8):
        sweep.add(1, tpot=4.87, batch=batch)
        sweep.add(2, tpot=3.61, batch=batch)
        sweep.capture(1, report(1, compute=4.8), batch=batch)
        sweep.capture(2, report(2, compute=3.0), allreduce_backend="auto", batch=batch)
    sweep.tables()
    share, parts = draw_communication(table.build(Source(load(sweep.root))).records, 9)[0]
    assert "TP=2, auto, torch: of decode time: 6.925 % at batch 1" in share.description
    assert "TP=2 batch 8 auto: compute 3.000 ms, transfer and all-gather 0.2600 ms" in (
        parts.description
    )
    assert "Decode step (ms)" in plot.draw(parts).svg


def test_a_bar_is_never_higher_than_its_parts(sweep: Sweep) -> None:
    sweep.add(1, tpot=4.0)
    sweep.capture(1, report(1, compute=4.8))  # stretched by the profiler
    sweep.tables()
    ((only,), more) = draw_communication(table.build(Source(load(sweep.root))).records, 9)
    assert "rest 0 ms" in only.description
    assert more == 0


def test_the_picture_of_a_step_is_that_of_the_largest_tp(sweep: Sweep, tmp_path: Path) -> None:
    small = sweep.capture(1, report(1, compute=4.8))
    large = sweep.capture(2, report(2, compute=3.0), batch=4)
    sweep.tables()
    (tmp_path / "step.svg").write_text("<svg><script>alert(1)</script></svg>")
    pictures = dict.fromkeys((small, large), tmp_path / "step.svg")
    (drawing,) = step_picture(table.build(Source(load(sweep.root))).records, pictures)
    assert "TP=2, batch 4" in drawing.caption
    assert drawing.svg.startswith('<img class="wide" alt="One decode step of llama on H200')
    assert "<script" not in drawing.svg
    assert step_picture(table.build(Source(load(sweep.root))).records, {}) == []


def test_a_report_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    place = tmp_path / "captures/x.comm.json"
    place.parent.mkdir()
    assert capture_report.read(tmp_path, "cells/capture/x.parquet") == []
    place.write_text(json.dumps({"ranks": 2}))
    with pytest.raises(ValueError, match=r"x\.comm\.json: not a report of tpsweep comm: backend"):
        capture_report.read(tmp_path, "cells/capture/x.parquet")
    place.write_text("3")
    with pytest.raises(ValueError, match="not a report of tpsweep comm"):
        capture_report.read(tmp_path, "cells/capture/x.parquet")
    place.write_text("{")
    with pytest.raises(ValueError, match="not a report of tpsweep comm"):
        capture_report.read(tmp_path, "cells/capture/x.parquet")
