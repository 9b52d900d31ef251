"""The table ``validity``: what was refused, and what differs inside a comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.made_up import Record, Sweep

SAME: Record = {
    "driver_version": "580.1",
    "torch_version": "2.11.0",
    "hostname": "node1",
    "gpu_names": ["NVIDIA H200"],
    "gpu_sm_clock_mhz": [1980.0],
}
PARALLEL: Record = {
    **SAME,
    "gpu_names": ["NVIDIA H200", "NVIDIA H200"],
    "allreduce_backend_ran": "custom",
    "gpu_link": "NV18",
    "gpu_sm_clock_mhz": [1980.0, 1965.0],
}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def lines(sweep: Sweep) -> list[Record]:
    sweep.tables()
    return sweep.read("validity")


def test_nothing_that_differs_is_said_too(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0, measured=SAME)
    sweep.add(2, tpot=4.0, measured=PARALLEL)
    (line,) = lines(sweep)
    assert (line["kind"], line["tp"], line["cells"]) == ("alike", "1, 2", 2)
    assert line["could_explain"] is False and line["synthetic"]


def test_what_differs_is_told_with_its_tps(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0, measured={**SAME, "driver_version": "570.0", "hostname": "node2"})
    sweep.add(2, tpot=4.0, measured=PARALLEL)
    sweep.add(4, tpot=3.0, measured={**PARALLEL, "allreduce_backend_ran": "nccl"})
    found = {line["what"]: line for line in lines(sweep)}
    assert found.keys() == {"driver", "node", "all-reduce that ran"}
    assert found["driver"]["values"] == "570.0 (TP=1); 580.1 (TP=2, 4)"
    assert found["all-reduce that ran"]["values"] == "custom (TP=2); nccl (TP=4)"
    assert all(line["kind"] == "differs" and line["could_explain"] for line in found.values())


def test_clocks_are_compared_at_equal_batch(sweep: Sweep) -> None:
    for tp, batch, clock in ((1, 1, 1980.0), (2, 1, 1900.0), (1, 64, 1500.0), (2, 64, 1800.0)):
        base = SAME if tp == 1 else PARALLEL
        sweep.add(tp, tpot=8.0, batch=batch, measured={**base, "gpu_sm_clock_mhz": [clock] * tp})
    (line,) = lines(sweep)
    assert line["what"] == "SM clock (MHz)"
    at = "at batch 64, input_len 512, output_len 128"
    assert line["values"] == f"{at}: 1500 (TP=1); 1800 (TP=2)"


def test_each_backend_is_a_comparison_with_the_one_tp_1(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0, measured={**SAME, "torch_version": "2.10.0"})
    for backend in ("custom", "nccl"):
        measured = {**PARALLEL, "allreduce_backend_ran": backend}
        sweep.add(2, tpot=4.0, allreduce_backend=backend, measured=measured)
    sweep.add(1, tpot=9.0, model="alone", measured=SAME)
    found = [(line["allreduce_backend"], line["what"], line["cells"]) for line in lines(sweep)]
    assert found == [("custom", "torch", 2), ("nccl", "torch", 2), ("none", None, 1)]


def test_refused_rows_stand_first_with_their_rule(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0, measured=SAME)
    refused = sweep.add(2)
    sweep.fail(refused, "invalid", "faster than the floor: 1.2 ms < 1.56 ms")
    sweep.fail(sweep.add(4), "crash", "gone")
    first, second = lines(sweep)
    assert (first["kind"], first["what"], first["tp"]) == ("refused", "faster than the floor", "2")
    assert first["values"] == "1.2 ms < 1.56 ms" and first["cell_id"] == refused
    assert second["kind"] == "alike"
    assert "faster than the floor" in sweep.markdown("validity")


def test_nothing_measured(sweep: Sweep) -> None:
    sweep.add(1)
    assert lines(sweep) == []
    assert "Nothing is measured yet." in sweep.markdown("validity")
