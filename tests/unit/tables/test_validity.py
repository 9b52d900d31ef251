"""Table ``validity`` from synthetic rows: what is refused, what differs in a comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.made_up import Record, Sweep, report
from tpsweep.analysis.provenance_diff import ALIKE, CLOCK_TOLERANCE


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def lines(sweep: Sweep, kind: str) -> list[Record]:
    sweep.tables()
    return [line for line in sweep.read("validity") if line["kind"] == kind]


def differing(sweep: Sweep) -> dict[str, Record]:
    return {line["subject"]: line for line in lines(sweep, "comparison")}


def test_refused_rows_are_named_with_their_reason(sweep: Sweep) -> None:
    invalid, unreadable = sweep.add(1, run=1), sweep.add(1, run=2)
    sweep.fail(invalid, "invalid", "3 of 4 requests failed")
    sweep.fail(unreadable, "unreadable", "page checksum")
    sweep.fail(sweep.add(1, run=3), "crash", "engine died")  # never measured: not refused
    sweep.add(1, run=4)
    sweep.add(64, status="infeasible", reason="no such node")
    found = {line["cell_id"]: line for line in lines(sweep, "refused")}
    assert set(found) == {invalid, unreadable}
    assert found[invalid]["subject"] == "invalid" and found[invalid]["flagged"]
    assert found[invalid]["detail"] == "3 of 4 requests failed"
    assert (found[unreadable]["detail"], found[unreadable]["tp"]) == ("page checksum", 1)
    assert "3 of 4 requests failed" in sweep.markdown("validity")


@pytest.mark.parametrize(
    ("tp", "axes", "measured", "subject", "detail"),
    [
        (1, {}, {"decode_floor_ratio": 0.5}, "floor", "decode is faster than its floor"),
        (1, {}, {"prefill_floor_ratio": 0.99}, "floor", "(prefill_floor_ratio=0.990)"),
        (
            2,
            {"allreduce_backend": "custom"},
            {"allreduce_backend_ran": "nccl"},
            "all-reduce",
            "custom was asked, nccl ran",
        ),
        (1, {}, {"vllm_version_ran": "0.31.0"}, "vLLM", "0.32.0 was asked, 0.31.0 ran"),
        (4, {}, {"tp_ran": 2}, "TP", "4 was asked, 2 ran"),
        (4, {"dcp": 2}, {"dcp_ran": 1}, "DCP", "2 was asked, 1 ran"),
        (4, {"ep": True}, {"ep_ran": False}, "EP", "True was asked, False ran"),
    ],
)
def test_a_row_that_breaks_a_rule_is_named(
    sweep: Sweep, tp: int, axes: Record, measured: Record, subject: str, detail: str
) -> None:
    sweep.add(tp, tpot=8.0, measured=measured, **axes)
    (line,) = lines(sweep, "refused")
    assert line["subject"] == subject and detail in line["detail"]
    assert line["synthetic"]


def test_rows_that_keep_the_rules_are_not_refused(sweep: Sweep) -> None:
    kept = {"decode_floor_ratio": 1.0, "prefill_floor_ratio": 1.5, "tp_ran": 2}
    kept |= {"pp_ran": 1, "ep_ran": False, "dcp_ran": 1, "dp_ran": 1}
    ran = {"vllm_version_ran": "0.32.0+cpu", "allreduce_backend_ran": "nccl"}
    sweep.add(2, tpot=8.0, measured={**kept, **ran})  # auto was asked: whatever ran is right
    sweep.add(1, tpot=8.0)
    assert lines(sweep, "refused") == []


def stepped(steps: np.ndarray, **others: object) -> Record:
    """Columns of a latency row with these steps (repeats, steps), ms, judged as always unsteady."""
    plain = steps.mean(axis=1)
    return {
        "step_ms_samples": steps.ravel().tolist(),
        "tpot_plain_ms_samples": plain.tolist(),
        "tpot_plain_ms": float(np.median(plain)),
        "stalls": 1,
        "unsteady": True,
        "steps_note": "words of an older version",
        **others,
    }


@pytest.mark.parametrize(("stall", "subject"), [(2.0, "stalls"), (20.0, "unsteady")])
def test_stalls_are_remarks_and_flagged_if_they_cost_much(
    sweep: Sweep, stall: float, subject: str
) -> None:
    steps = np.full((4, 127), 4.0)
    for repeat in range(3):
        steps[repeat, 10 * repeat] += stall
    sweep.add(2, tpot=4.0, measured=stepped(steps))
    (line,) = lines(sweep, "remark")
    assert (line["subject"], line["flagged"]) == (subject, subject == "unsteady")
    assert line["detail"].startswith(f"3 stalls: repeat 1 step 1 +{stall:.1f} ms, repeat 2 step 11")
    # The median repeat has a stall: 2 or 20 ms over 127 steps.
    assert f"with them {4 + stall / 127:.3f}" in line["why"]
    assert line["tp"] == 2 and line["synthetic"]


def test_a_row_without_its_steps_is_believed(sweep: Sweep) -> None:
    said = {"stalls": 0, "unsteady": True, "steps_note": "drift of -2.0 % over 8 repeats"}
    sweep.add(2, tpot=4.0, measured=said)
    (line,) = lines(sweep, "remark")
    assert (line["subject"], line["detail"]) == ("unsteady", "drift of -2.0 % over 8 repeats")


@pytest.mark.parametrize(("check", "told"), [(4.03, False), (4.05, True), (3.95, True)])
def test_a_cross_check_that_is_off_is_a_remark(sweep: Sweep, check: float, told: bool) -> None:
    once = {"e2e_out1_ms_samples": [94.0, 96.0, 200.0]}
    sweep.add(1, tpot=4.0, measured={"tpot_diff_ms": check, "tpot_plain_ms": 4.01, **once})
    found = lines(sweep, "remark")
    assert len(found) == told
    if told:
        (line,) = found
        assert (line["subject"], line["flagged"]) == ("cross-check", True)
        assert line["detail"] == (
            f"tpot_diff_ms {check:.3f} beside tpot_ms 4.000 ({100 * (check / 4 - 1):+.1f} %)"
        )
        assert line["why"] == (
            f"of {127 * (check - 4):+.1f} ms over 127 steps, +4.0 ms is prefill, against calls with"
            " one output token, +1.3 ms is what disturbed steps took, which tpot_ms leaves out"
        )


def test_a_capture_whose_collectives_do_not_add_up(sweep: Sweep) -> None:
    said = report(2, compute=3.0)
    expected, found = {"all_reduce": 5, "all_gather": 1}, {"all_reduce": [5, 4], "all_gather": 1}
    said["self_check"] = {"expected": expected, "found": found, "ok": False}
    sweep.capture(2, said)
    sweep.capture(2, report(2, compute=3.0), batch=2)
    (line,) = lines(sweep, "refused")
    assert (line["subject"], line["batch"]) == ("collectives", 1)
    assert "5 all-reduces and 1 all-gathers expected, [5, 4] and 1 found" in line["detail"]


@pytest.mark.parametrize(
    ("column", "label", "one", "two", "values"),
    [
        ("driver_version", "driver", "570.1", "580.2", "TP=1: 570.1; TP=2: 580.2"),
        ("torch_version", "torch", "2.10", "2.11", "TP=1: 2.10; TP=2: 2.11"),
        ("fusions_enabled", "fusions", None, "act", "TP=1: not said; TP=2: act"),
        ("graphs", "compiled graphs", "loaded", "compiled", "TP=1: loaded; TP=2: compiled"),
        (
            "gpu_power_limit_w",
            "power limit",
            [700.0],
            [700.0, 500.0],
            "TP=1: 700.0 W; TP=2: 500.0 W, 700.0 W",
        ),
        (
            "gpu_mem_clock_mhz",
            "memory clock",
            [3201.0],
            [2619.0, 2619.0],
            "TP=1: 3201 MHz; TP=2: 2619 MHz",
        ),
    ],
)
def test_what_differs_is_flagged(
    sweep: Sweep, column: str, label: str, one: object, two: object, values: str
) -> None:
    sweep.add(1, tpot=8.0, measured={column: one})
    sweep.add(2, tpot=5.0, measured={column: two})
    (line,) = lines(sweep, "comparison")
    assert (line["subject"], line["provenance"], line["flagged"]) == (label, column, True)
    assert (line["detail"], line["compared"]) == (values, "TP=1, TP=2")
    assert line["why"] and line["cell_id"] is None and line["tp"] is None


@pytest.mark.parametrize("ratio", [1.0, 1 + CLOCK_TOLERANCE / 2, 1 + 2 * CLOCK_TOLERANCE, 1.5])
def test_clocks_are_flagged_beyond_their_tolerance(sweep: Sweep, ratio: float) -> None:
    sweep.add(1, tpot=8.0, measured={"gpu_sm_clock_mhz": [1200.0]})
    pair = [1200 * ratio - 6, 1200 * ratio + 6]
    sweep.add(2, tpot=5.0, measured={"gpu_sm_clock_mhz": pair})
    (line,) = lines(sweep, "comparison")
    assert line["flagged"] == (ratio - 1 > CLOCK_TOLERANCE)
    if ratio > 1:
        assert line["detail"] == f"TP=1: 1200 MHz; TP=2: {1200 * ratio:.0f} MHz"
        assert line["why"].startswith(f"{100 * (ratio - 1):.1f} % apart")
    else:
        assert line["subject"] == "nothing differs"


def test_power_stands_beside_the_clock(sweep: Sweep) -> None:
    for tp, clock, power in ((1, 1500.0, [690.0]), (2, 1650.0, [640.0, 660.0])):
        limit = {"gpu_power_limit_w": [700.0] * tp, "gpu_sm_clock_mhz": [clock] * tp}
        sweep.add(tp, tpot=8.0, measured={**limit, "gpu_power_w": power})
    (line,) = lines(sweep, "comparison")
    assert line["detail"] == "TP=1: 1500 MHz at 690 of 700 W; TP=2: 1650 MHz at 650 of 700 W"


def test_links_and_all_reduce_are_of_several_gpus_only(sweep: Sweep) -> None:
    for tp, link, ran in ((1, None, "none"), (2, "NV18", "custom"), (4, "NV18", "custom")):
        ran_so = {"gpu_link": link, "allreduce_backend_ran": ran}
        sweep.add(tp, tpot=8.0 / tp, measured=ran_so)
    assert list(differing(sweep)) == ["nothing differs"]
    other = {"gpu_link": "SYS", "allreduce_backend_ran": "nccl"}
    sweep.add(8, tpot=1.0, measured=other)
    found = differing(sweep)
    assert set(found) == {"link between GPUs", "all-reduce that ran"}
    assert found["link between GPUs"]["detail"] == "TP=2: NV18; TP=4: NV18; TP=8: SYS"


def test_what_every_line_has_alike_explains_nothing(sweep: Sweep) -> None:
    for tp in (1, 2):
        for run, node in enumerate(("n1", "n2")):
            sweep.add(tp, tpot=8.0, run=run, measured={"hostname": node, "driver_version": "580"})
    (line,) = lines(sweep, "comparison")
    assert (line["subject"], line["flagged"], line["why"]) == ("host", False, ALIKE)
    sweep.add(2, tpot=8.0, run=2, measured={"hostname": "n3"})
    (line,) = lines(sweep, "comparison")
    assert line["flagged"] and line["detail"] == "TP=1: n1, n2; TP=2: n1, n2, n3"


def test_comparisons_are_of_every_workload_and_apart(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0, batch=1, measured={"driver_version": "570"})
    sweep.add(2, tpot=8.0, batch=2, measured={"driver_version": "580"})  # of another comparison
    sweep.add(4, batch=3)
    sweep.offline(1, 10.0)
    sweep.offline(2, 15.0)
    sweep.online(1, ttft=30.0)
    sweep.online(1, ttft=30.0, replicas=2, measured={"driver_version": "580"})
    sweep.capture(2)
    found = [
        (line["workload"], line["batch"], line["subject"], line["flagged"])
        for line in lines(sweep, "comparison")
    ]
    one, none = (f"{n} line measured: nothing is compared" for n in ("one", "no"))
    assert sorted(found, key=str) == sorted(
        [
            ("latency", 1, one, None),
            ("latency", 2, one, None),
            ("latency", 3, none, None),
            ("throughput", None, "nothing differs", False),
            ("serve", None, "nothing differs", False),  # only one of them says its driver
            ("capture", 1, one, None),
        ],
        key=str,
    )
    assert "TP=1, TP=1 x 2 replicas" in sweep.markdown("validity")


def test_refused_and_flagged_come_first(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0)
    sweep.add(2, tpot=8.0)
    for tp, driver in ((1, "570"), (2, "580")):
        sweep.add(tp, tpot=8.0, batch=2, measured={"driver_version": driver})
    sweep.fail(sweep.add(1, batch=3), "invalid", "prefix-cache hits")
    sweep.tables()
    found = [(line["kind"], line["subject"]) for line in sweep.read("validity")]
    assert found == [
        ("refused", "invalid"),
        ("comparison", "driver"),
        ("comparison", "nothing differs"),
        ("comparison", "no line measured: nothing is compared"),
    ]
