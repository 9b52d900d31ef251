"""Table ``capacity`` from synthetic rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.made_up import Record, Sweep
from tpsweep.analysis import prices
from tpsweep.analysis.builder import build_tables
from tpsweep.results.load import load
from tpsweep.tables import BUILDERS

ROOT = Path(__file__).parents[3]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def lines(sweep: Sweep) -> dict[tuple[int, int, str], Record]:
    sweep.tables()
    return {(line["tp"], line["replicas"], line["slo"]): line for line in sweep.read("capacity")}


def test_each_slo_of_each_layout_has_a_line(sweep: Sweep) -> None:
    sweep.searched(1, {"chat": (20.0, 21.0), "bulk": (30.0, 31.5)})
    sweep.searched(2, {"chat": (30.0, 31.5), "bulk": (66.0, 69.3)})
    sweep.searched(1, {"chat": (38.0, 40.0), "bulk": (60.0, 63.0)}, replicas=2)
    found = lines(sweep)
    assert len(found) == 6
    one, two = found[1, 1, "chat"], found[2, 1, "chat"]
    assert (one["capacity_request_s"], one["capacity_upper_request_s"]) == (20.0, 21.0)
    assert one["slo_limits"] == '{"ttft_p99_ms": 500.0}'
    assert (one["verdict"], one["limit"], one["probes"]) == ("bracket", "ttft_p99_ms", 11)
    assert one["per_gpu_ratio"] is None
    assert two["capacity_request_s_per_gpu"] == 15.0 and two["per_gpu_ratio"] == 0.75
    assert found[2, 1, "bulk"]["per_gpu_ratio"] == pytest.approx(1.1)
    assert found[1, 2, "chat"]["per_gpu_ratio"] == pytest.approx(0.95)
    assert (one["output_tok_s"], one["ttft_p99_ms"], one["tpot_p50_ms"]) == (2000.0, 450.0, 10.0)
    assert found[1, 1, "bulk"]["ttft_p99_ms"] is None
    text = sweep.markdown("capacity")
    assert "20.00 to 21.00" in text and "66.00 to 69.30" in text


def test_of_several_starts_the_lowest_capacity_counts(sweep: Sweep) -> None:
    for run, rate in enumerate((20.0, 19.0, 22.0)):
        sweep.searched(1, {"chat": (rate, rate + 1), "bulk": (30.0, 31.0)}, run=run)
    found = lines(sweep)[1, 1, "chat"]
    assert (found["capacity_request_s"], found["capacity_request_s_hi"]) == (19.0, 22.0)
    assert (found["capacity_upper_request_s"], found["probes"], found["runs"]) == (20.0, 33, 3)


def test_a_start_without_an_answer_leaves_none(sweep: Sweep) -> None:
    ends = ["bracket", "nothing fails"], ["nothing passes", "nothing fails"]
    sweep.searched(
        1,
        {"chat": (20.0, 21.0), "bulk": (30.0, None)},
        measured={"capacity_verdicts": ends[0]},
    )
    busy = "the client used 97% of a processor at 1/s and may have been the limit"
    sweep.searched(
        1,
        {"chat": (None, 1.0), "bulk": (30.0, None)},
        run=2,
        measured={"capacity_verdicts": ends[1], "capacity_notes": [busy, None]},
    )
    found = lines(sweep)
    chat = found[1, 1, "chat"]
    assert chat["capacity_request_s"] is None and chat["capacity_request_s_per_gpu"] is None
    assert chat["verdict"] == "bracket; nothing passes"
    assert "the client used 97%" in chat["note"]
    assert chat["output_tok_s"] is None and chat["ttft_p50_ms"] is None  # of no capacity
    text = sweep.markdown("capacity")
    assert "below 1.000" in text and "30.00 or more" in text


def test_a_capacity_that_is_only_a_lower_bound_has_no_ratio(sweep: Sweep) -> None:
    sweep.searched(1, {"chat": (10_000.0, 10_500.0), "bulk": (20_000.0, None)})
    sweep.searched(2, {"chat": (20_000.0, None), "bulk": (20_000.0, 21_000.0)})
    found = lines(sweep)
    assert found[2, 1, "chat"]["per_gpu_ratio"] is None
    assert found[2, 1, "bulk"]["per_gpu_ratio"] is None
    text = sweep.markdown("capacity")
    assert "| 20000 or more | n/a | 10000 or more |" in " ".join(text.split())
    assert "10000 to 10500" in text and "e+" not in text


def test_an_unfinished_search_leaves_no_capacity_and_says_so(sweep: Sweep) -> None:
    sweep.searched(
        1,
        {"chat": (None, 56.0), "bulk": (None, None)},
        measured={"capacity_verdicts": ["unfinished", "unfinished"]},
    )
    sweep.searched(2, {"chat": (30.0, 31.5), "bulk": (66.0, 69.3)})
    found = lines(sweep)
    assert found[1, 1, "chat"]["verdict"] == found[1, 1, "bulk"]["verdict"] == "unfinished"
    assert {one["per_gpu_ratio"] for one in found.values()} == {None}
    text = " ".join(sweep.markdown("capacity").split())
    assert (
        "| below 56.00 | n/a | n/a | unfinished |" in text
        and "| n/a | n/a | n/a | unfinished |" in text
    )


def test_layouts_without_a_row_are_lines_too(sweep: Sweep) -> None:
    sweep.searched(1, {"chat": (20.0, 21.0)})
    sweep.searched(2)
    sweep.searched(4, status="infeasible", reason="tp 4 > 2")
    sweep.tables()
    states = {line["tp"]: line["state"] for line in sweep.read("capacity")}
    assert states == {1: "measured", 2: "missing", 4: "infeasible: tp 4 > 2"}


def test_what_a_million_tokens_cost_at_the_capacity(sweep: Sweep) -> None:
    sweep.searched(1, {"chat": (20.0, 21.0)})
    sweep.manifest[-1]["gpu_hour_usd"] = 3.6
    found = lines(sweep)[1, 1, "chat"]
    assert found[prices.COST] == pytest.approx(1e6 / 2000 / 3600 * 3.6)


def test_published_searches_stand_beside_what_was_expected() -> None:
    """As docs/expectation.md has it, two engine starts to a line."""
    (builder,) = (one for one in BUILDERS if one.name == "capacity")
    found = build_tables(load(ROOT / "results/published/h200x2-capacity"), [builder])["capacity"]
    assert [
        (one["tp"], one["replicas"], one["slo"], round(one["expected_request_s"], 1))
        for one in found.records
    ] == [
        (1, 1, "chat", 62.0),
        (1, 1, "fast", 42.2),
        (1, 2, "chat", 95.2),
        (1, 2, "fast", 84.4),
        (2, 1, "chat", 56.8),
        (2, 1, "fast", 56.8),
    ]
