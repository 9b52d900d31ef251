"""Table ``floors`` from synthetic rows: every ratio recomputed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.made_up import Record, Sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def floors(tpot: float, prefill: float, decode: float, kv: float, pre: float) -> Record:
    """What a row would say of floors of ``decode``, ``kv`` and ``pre`` ms."""
    return {
        "decode_floor_ms": decode,
        "decode_floor_ratio": tpot / decode,
        "decode_floor_kv_ms": kv,
        "decode_floor_kv_ratio": tpot / kv,
        "prefill_floor_ms": pre,
        "prefill_floor_ratio": prefill / pre,
    }


def lines(sweep: Sweep) -> dict[tuple[int, int], Record]:
    sweep.tables()
    return {(line["tp"], line["run"]): line for line in sweep.read("floors")}


def test_every_row_has_its_ratios(sweep: Sweep) -> None:
    for tp in (1, 2, 4):
        for run in (1, 2):
            tpot, prefill = 3.5 / tp + 1 + 0.01 * run, 40 / tp + run
            made = floors(tpot, prefill, 3.13 / tp, 3.2 / tp, 17 / tp)
            sweep.add(tp, tpot=tpot, prefill=prefill, run=run, measured=made)
    found = lines(sweep)
    assert len(found) == 6
    for (tp, run), line in found.items():
        tpot, prefill = 3.5 / tp + 1 + 0.01 * run, 40 / tp + run
        assert (line["tpot_ms"], line["prefill_ms"]) == (tpot, prefill)
        assert line["decode_floor_ratio"] == pytest.approx(tpot * tp / 3.13)
        assert line["decode_floor_kv_ratio"] == pytest.approx(tpot * tp / 3.2)
        assert line["prefill_floor_ratio"] == pytest.approx(prefill * tp / 17)
        assert line["decode_floor_ms"] == pytest.approx(3.13 / tp)
        assert line["note"] is None and line["synthetic"]


def test_holes_absent_floors_and_impossible_rows(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0, measured={"floor_note": "no GPU"})
    lost = sweep.add(2)
    sweep.fail(lost, "crash", "engine died")
    sweep.add(4, tpot=1.0, measured=floors(1.0, 100.0, 2.0, 2.5, 200.0))
    sweep.add(8, status="infeasible", reason="no node has 8 GPUs")
    found = lines(sweep)
    assert (found[1, 1]["decode_floor_ratio"], found[1, 1]["note"]) == (None, "no GPU")
    assert (found[2, 1]["state"], found[2, 1]["reason"]) == ("failed", "engine died")
    assert found[4, 1]["note"] == (
        "decode is faster than its floor: no valid row; "
        "prefill is faster than its floor: no valid row"
    )
    assert (found[8, 1]["state"], found[8, 1]["tpot_ms"]) == ("infeasible", None)
    assert not found[8, 1]["synthetic"]
