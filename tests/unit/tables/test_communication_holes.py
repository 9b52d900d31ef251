"""What the tables and figures of communication must not say: made-up captures, each with a flaw."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.made_up import Sweep, report
from tests.unit.tables.test_communication_tables import DATA, lines
from tpsweep.analysis.series import Source
from tpsweep.cli.main import main
from tpsweep.core.results_paths import capture_picture
from tpsweep.figures.communication import draw_communication
from tpsweep.results.load import load
from tpsweep.tables import communication as table
from tpsweep.traces import timeline_svg

GENUINE = {"synthetic": False}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def put_picture(sweep: Sweep, svg: str) -> None:
    """As the analysis leaves it beside the report of the last cell."""
    (sweep.root / capture_picture(sweep.manifest[-1]["path"])).write_text(svg, "utf-8")


def rendered(sweep: Sweep) -> str:
    sweep.tables()
    assert main(["page", str(sweep.root)]) == 0
    return (sweep.root / "report.html").read_text("utf-8")


@pytest.mark.parametrize("made_up", ["row", "report", "decode time"])
def test_one_made_up_part_makes_the_line_made_up(sweep: Sweep, made_up: str) -> None:
    sweep.add(2, tpot=3.5, measured={} if made_up == "decode time" else GENUINE)
    said = report(2, compute=3.0)
    sweep.capture(
        2,
        said if made_up == "report" else said | GENUINE,
        measured={} if made_up == "row" else GENUINE,
    )
    (line,) = lines(sweep)
    assert line["transfer_fraction"] and line["synthetic"]


def test_latency_cells_of_several_settings_are_not_mixed(sweep: Sweep) -> None:
    sweep.add(2, tpot=3.5, settings="16 sequences")
    sweep.add(2, tpot=9.5, settings="2 sequences")
    sweep.capture(2, report(2, compute=3.0))
    (line,) = lines(sweep)
    assert line["decode_ms"] is line["transfer_fraction"] is None
    assert line["note"] == "latency cells like it differ in their settings: none is taken"


def test_times_of_a_failed_self_check_are_not_taken(sweep: Sweep) -> None:
    said = report(2, compute=3.0)
    said["self_check"] |= {"ok": False, "found": {"all_reduce": [4, 5], "all_gather": 1}}
    sweep.capture(2, said)
    (line,) = lines(sweep)
    assert line["decode_steps"] == 15
    assert all(line[n] is None for n in ("transfer_ms", "step_ms", "compute_ms", "busbw_gb_s"))
    assert "all-reduces per step: 4 or 5, expected 5" in line["note"]


def test_what_the_analysis_warned_of_stands_in_the_note(sweep: Sweep) -> None:
    sweep.add(2, tpot=3.5)
    warning = "looks like communication but is not in the table, counted as compute: my_reduce"
    sweep.capture(2, report(2, compute=3.0) | {"warnings": [warning]})
    (line,) = lines(sweep)
    assert line["note"] == warning


def test_another_all_reduce_than_the_log_says_is_noted(sweep: Sweep) -> None:
    sweep.add(2, tpot=3.5)
    sweep.capture(2, report(2, compute=3.0) | {"backend": "nccl"})
    (line,) = lines(sweep)
    assert line["note"] == "vLLM's log says all-reduce custom, the capture has nccl"


def test_a_report_without_a_median_is_not_read(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    said = report(2, compute=3.0)
    said["phases"]["decode"]["step_ms"] = {"p10": 4.0}
    sweep.capture(2, said)
    (line,) = lines(sweep)
    assert "not analysed" in line["note"]
    assert "step_ms.p50" in capsys.readouterr().err


@pytest.mark.parametrize("value", [-5, True, 1e308, float("nan")])
def test_a_report_with_an_impossible_time_is_not_read(
    sweep: Sweep, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    found = report(2, compute=3.0)
    found["phases"]["decode"]["transfer_ms_per_step"] = value
    sweep.capture(2, found, allreduce_backend="auto")
    sweep.tables()
    assert sweep.read("communication")[0]["transfer_ms"] is None
    said = capsys.readouterr().err
    assert "not a report of tpsweep comm: phases.decode.transfer_ms_per_step" in said


def test_a_lower_bound_is_at_least_everywhere(sweep: Sweep) -> None:
    said = report(2, compute=3.0)
    said["phases"]["decode"] |= {"transfer_us": None, "transfer_lower_us": {"p50": 50.0}}
    sweep.add(1, tpot=4.87)
    sweep.add(2, tpot=3.61)
    sweep.capture(1, report(1, compute=4.8))
    sweep.capture(2, said)
    (line,) = lines(sweep, "terms")
    assert line["note"] == "communication is at least that, so that fixed is at most that"
    assert line["capture_fixed_ms"] < line["fixed_ms_lo"] and line["agrees"] is None
    shown = sweep.markdown("communication")
    for words in ("at least 50.00", "at least 0.2500", "at least 6.2 %", "at least 6.9 %"):
        assert words in shown


def test_terms_need_no_capture_where_there_is_no_communication(sweep: Sweep) -> None:
    sweep.add(1, tpot=4.87)
    sweep.add(2, tpot=3.61)
    sweep.capture(2, report(2, compute=3.0, transfer=0.24))
    (line,) = lines(sweep, "terms")
    assert line["scaling_ms"] == pytest.approx(3.02 / 2)
    assert line["fixed_ms"] == pytest.approx(1.85)
    assert line["compute_fixed_ms"] is None
    assert line["note"] == "its kernels need: an analysed capture at TP=1"


def test_a_failed_capture_does_not_hide_the_latency_cell(sweep: Sweep) -> None:
    sweep.add(1, tpot=4.87)
    sweep.add(2, tpot=3.61)
    sweep.fail(sweep.add(1, workload="capture"), "crash", "died")
    sweep.fail(sweep.add(2, workload="capture"), "crash", "died")
    (line,) = lines(sweep, "terms")
    assert (line["decode_baseline_ms"], line["decode_ms"]) == (4.87, 3.61)
    assert line["note"] == "needs: an analysed capture at TP=2"


def test_terms_are_not_solved_across_settings(sweep: Sweep) -> None:
    sweep.add(1, tpot=4.0, settings="other")
    sweep.add(2, tpot=3.0, settings="one")
    sweep.capture(1, report(1, compute=3.8))
    sweep.capture(2, report(2, compute=3.0))
    (line,) = lines(sweep, "terms")
    assert line["scaling_ms"] is line["ideal_ms"] is None
    assert line["note"] == "needs: latency cells of equal settings at TP=1 and TP=2"


def test_a_baseline_by_another_profiler_is_noted(sweep: Sweep) -> None:
    sweep.add(1, tpot=4.87)
    sweep.add(2, tpot=3.61)
    sweep.capture(1, report(1, compute=4.8), profiler="torch 2.11.0")
    sweep.capture(2, report(2, compute=3.17), profiler="nsys 2025.3.1")
    (line,) = lines(sweep, "terms")
    assert line["note"] == "its kernels at TP=1 are of a capture by torch 2.11.0"


def test_figures_take_the_median_over_runs(sweep: Sweep) -> None:
    for run, transfer in enumerate((0.2, 0.3, 0.9)):
        sweep.add(2, tpot=4.0, run=run)
        sweep.capture(2, report(2, compute=3.0, transfer=transfer), run=run)
    sweep.tables()
    share, bars = draw_communication(table.build(Source(load(sweep.root))).records, 9)[0]
    assert "of decode time: 7.500 % at batch 1;" in share.description
    assert bars.description.count("TP=2 batch 1") == 1
    assert "transfer and all-gather 0.3100 ms" in bars.description


def test_a_bar_that_the_profiler_stretched_says_so(sweep: Sweep) -> None:
    sweep.add(1, tpot=4.0)
    sweep.capture(1, report(1, compute=4.8))
    sweep.tables()
    ((bars,), _) = draw_communication(table.build(Source(load(sweep.root))).records, 9)
    assert "higher than the decode time of 4.000 ms" in bars.description


def test_only_a_picture_of_a_step_is_shown_as_one(sweep: Sweep) -> None:
    sweep.capture(2, report(2, compute=3.0), batch=4)
    put_picture(sweep, (DATA.parents[2] / "docs/decode-step.svg").read_text("utf-8"))
    broken = report(4, compute=3.0)
    broken["self_check"] |= {"ok": False}
    sweep.capture(4, broken)
    put_picture(sweep, timeline_svg.nothing("no picture: the self-check failed"))
    html = rendered(sweep)
    assert "One decode step of" in html and "TP=2, batch 4, as" in html
    assert "no picture" not in html


def test_a_picture_cut_short_does_not_cost_the_page(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.capture(2, report(2, compute=3.0))
    put_picture(sweep, "cut short")
    assert "One decode step of" not in rendered(sweep)
    assert "step.svg" in capsys.readouterr().err


def test_a_picture_too_large_for_a_page_is_left_out(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.capture(2, report(2, compute=3.0))
    put_picture(sweep, f"<svg>{' ' * 2_000_000}</svg>")
    assert len(rendered(sweep)) < 1_000_000
    assert "left out of the page" in capsys.readouterr().err
