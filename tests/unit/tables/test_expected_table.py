"""Table ``expected`` from synthetic rows: ratios, flags and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.made_up import Record, Sweep
from tpsweep.tables.expected import FASTER, OLD, SLOWER


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def add(sweep: Sweep, tp: int, expected: float | None, tpot: float | None, **more: Any) -> str:
    cell_id = sweep.add(tp, tpot=tpot, **{"measured": {}, **more} if tpot else more)
    wanted = {"expected_tpot_ms": expected, "expected_prefill_ms": expected and 120.0}
    sweep.manifest[-1].update(wanted)
    return cell_id


def lines(sweep: Sweep) -> dict[tuple[int, int], Record]:
    sweep.tables()
    return {(line["tp"], line["batch"]): line for line in sweep.read("expected")}


def test_a_ratio_for_every_row_and_no_flag_within_the_factor(sweep: Sweep) -> None:
    add(sweep, 1, 5.0, 6.0, prefill=130.0)
    add(sweep, 2, 4.0, 3.3, prefill=100.0)
    found = lines(sweep)
    assert found[1, 1]["tpot_ratio"] == pytest.approx(1.2)
    assert found[1, 1]["prefill_ratio"] == pytest.approx(130 / 120)
    assert found[2, 1]["tpot_ratio"] == pytest.approx(0.825)
    assert {line["flag"] for line in found.values()} == {None}
    assert all(line["synthetic"] for line in found.values())
    assert "never measured" in sweep.markdown("expected")


def test_what_is_off_is_flagged_with_what_to_look_for(sweep: Sweep) -> None:
    add(sweep, 1, 5.0, 5.0)
    add(sweep, 2, 3.5, 4.9)
    add(sweep, 1, 5.0, 20.0, batch=4)
    add(sweep, 2, 3.5, 2.0, batch=4)
    found = lines(sweep)
    assert found[1, 1]["flag"] is None
    assert found[2, 1]["flag"] == (
        "decode is 1.400 x what is expected: it is what TP=1 should take: TP not applied?"
    )
    assert found[1, 4]["flag"] == f"decode is 4.000 x what is expected: look for {SLOWER}"
    assert found[2, 4]["flag"] == f"decode is 0.5714 x what is expected: look for {FASTER}"


def test_what_the_row_says_comes_first(sweep: Sweep) -> None:
    seen = {"gpu_names": ["H100", "H100"], "tp_ran": 1}
    add(sweep, 2, 3.5, 7.0, measured=seen)
    eager = {"engine_args": '{"dtype": "bfloat16", "enforce_eager": true}'}
    add(sweep, 1, 19.0, 13.0, batch=2, measured=eager)
    add(sweep, 1, 3.5, 3.5, prefill=400.0, measured={"prefill_chunked": True})
    found = lines(sweep)
    said = "decode is 2.000 x what is expected: the GPUs are H100, TP=1 ran"
    assert found[2, 1]["flag"] == said
    assert str(found[1, 2]["flag"]).endswith("eager mode, which the host bounds, and hosts differ")
    assert found[1, 1]["flag"] == (
        "prefill is 3.333 x what is expected: the prefill went in chunks"
    )


def test_a_short_prefill_scatters_and_is_not_flagged(sweep: Sweep) -> None:
    add(sweep, 1, 5.0, 5.0, prefill=40.0)
    sweep.manifest[-1]["expected_prefill_ms"] = 10.0
    assert lines(sweep)[1, 1]["flag"] is None
    assert lines(sweep)[1, 1]["prefill_ratio"] == pytest.approx(4)


def test_every_workload_has_its_seconds_and_serving_its_decode(sweep: Sweep) -> None:
    times = {
        "started_at": "2026-11-23T10:00:00.500+00:00",
        "measured_at": "2026-11-23T10:00:02.000+00:00",
        "ended_at": "2026-11-23T10:00:12.500+00:00",
    }
    sweep.online(1, 20.0, measured={**times, "tpot_p50_ms": 9.0})
    sweep.manifest[-1] |= {"expected_s": 8.0, "expected_tpot_ms": 6.0}
    sweep.offline(2, 3.0)
    sweep.manifest[-1]["expected_s"] = 8.0
    sweep.tables()
    served, offline = sorted(sweep.read("expected"), key=lambda line: line["tp"])
    assert (served["seconds"], served["seconds_ratio"]) == (12.0, 1.5)
    assert (served["tpot_ms"], served["tpot_ratio"]) == (9.0, 1.5)
    assert served["flag"] is None, "near saturation it is known to be off"
    assert (offline["seconds"], offline["expected_s"], offline["seconds_ratio"]) == (
        None,
        8.0,
        None,
    )
    assert offline["note"] is None


def test_holes_and_what_has_no_expectation(sweep: Sweep) -> None:
    add(sweep, 1, None, 5.0)
    add(sweep, 2, None, 5.0)
    sweep.manifest[-1]["expectation_note"] = "no curve"
    sweep.fail(add(sweep, 4, 2.0, None), "crash", "engine died")
    add(sweep, 8, None, None, status="infeasible", reason="no node")
    found = lines(sweep)
    assert (found[1, 1]["note"], found[1, 1]["tpot_ratio"]) == (OLD, None)
    assert found[2, 1]["note"] == "no curve"
    assert (found[4, 1]["state"], found[4, 1]["expected_tpot_ms"]) == ("failed", 2.0)
    assert (found[8, 1]["state"], found[8, 1]["note"]) == ("infeasible", None)
