"""Table ``capacity`` from synthetic rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.made_up import Record, Sweep
from tpsweep.analysis import prices

SLOS = {"chat": {"ttft_p99_ms": 500.0}, "bulk": {"e2e_p90_ms": 9000.0}}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def searched(
    sweep: Sweep,
    tp: int,
    rates: list[float | None],
    upper: list[float | None],
    notes: list[str | None] | None = None,
    verdicts: list[str] | None = None,
    **axes: Any,
) -> None:
    """A capacity cell with its row: for ``chat``, then for ``bulk``."""
    measured = {
        "slos": json.dumps(SLOS),
        "slo_names": list(SLOS),
        "capacity_request_s": rates,
        "capacity_upper_request_s": upper,
        "capacity_verdicts": verdicts or ["bracket", "bracket"],
        "capacity_limits": ["ttft_p99_ms", "saturated"],
        "capacity_notes": notes or [None, None],
        "capacity_output_tok_s": [rate and 100 * rate for rate in rates],
        "capacity_ttft_p50_ms": [80.0, 200.0],
        "capacity_ttft_p99_ms": [450.0, None],
        "capacity_tpot_p50_ms": [10.0, 20.0],
        "capacity_tpot_p99_ms": [15.0, None],
        "probe_request_s": [1.0] * 11,
    }
    sweep.add(tp, measured=measured, **{**CELL, **axes})


CELL: Record = {"workload": "capacity", "batch": None, "num_prompts": 1000}


def lines(sweep: Sweep) -> dict[tuple[int, int, str], Record]:
    sweep.tables()
    return {(line["tp"], line["replicas"], line["slo"]): line for line in sweep.read("capacity")}


def test_each_slo_of_each_layout_has_a_line(sweep: Sweep) -> None:
    searched(sweep, 1, [20.0, 30.0], [21.0, 31.5])
    searched(sweep, 2, [30.0, 66.0], [31.5, 69.3])
    searched(sweep, 1, [38.0, 60.0], [40.0, 63.0], replicas=2)
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
    assert "20 to 21" in text and "66 to 69.3" in text


def test_of_several_starts_the_lowest_capacity_counts(sweep: Sweep) -> None:
    for run, rate in enumerate((20.0, 19.0, 22.0)):
        searched(sweep, 1, [rate, 30.0], [rate + 1, 31.0], run=run)
    found = lines(sweep)[1, 1, "chat"]
    assert (found["capacity_request_s"], found["capacity_request_s_hi"]) == (19.0, 22.0)
    assert (found["capacity_upper_request_s"], found["probes"], found["runs"]) == (20.0, 33, 3)


def test_a_start_without_an_answer_leaves_none(sweep: Sweep) -> None:
    searched(sweep, 1, [20.0, 30.0], [21.0, None], verdicts=["bracket", "nothing fails"])
    searched(
        sweep,
        1,
        [None, 30.0],
        [1.0, None],
        verdicts=["nothing passes", "nothing fails"],
        notes=["the client used 97 % of a processor at 1/s and may have been the limit", None],
        run=2,
    )
    found = lines(sweep)
    chat = found[1, 1, "chat"]
    assert chat["capacity_request_s"] is None and chat["capacity_request_s_per_gpu"] is None
    assert chat["verdict"] == "bracket; nothing passes"
    assert "the client used 97 %" in chat["note"]
    text = sweep.markdown("capacity")
    assert "below 1" in text and "30 or more" in text


def test_layouts_without_a_row_are_lines_too(sweep: Sweep) -> None:
    searched(sweep, 1, [20.0, 30.0], [21.0, 31.0])
    sweep.add(2, **CELL)
    sweep.add(4, status="infeasible", reason="tp 4 > 2", **CELL)
    sweep.tables()
    states = {line["tp"]: line["state"] for line in sweep.read("capacity")}
    assert states == {1: "measured", 2: "missing", 4: "infeasible: tp 4 > 2"}


def test_what_a_million_tokens_cost_at_the_capacity(sweep: Sweep) -> None:
    searched(sweep, 1, [20.0, 30.0], [21.0, 31.0])
    sweep.manifest[-1]["gpu_hour_usd"] = 3.6
    found = lines(sweep)[1, 1, "chat"]
    assert found[prices.COST] == pytest.approx(1e6 / 2000 / 3600 * 3.6)
