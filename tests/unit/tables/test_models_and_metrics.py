"""The tables ``models`` and ``metrics``: each number against one that is worked out here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.made_up import Record, Sweep, report


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def lines(sweep: Sweep, table: str) -> list[Record]:
    sweep.tables()
    return sweep.read(table)


def test_models_stand_side_by_side_at_each_tp(sweep: Sweep) -> None:
    for tp, small, large in ((1, 8.0, None), (2, 5.0, 30.0), (4, 4.0, 18.0)):
        sweep.add(tp, tpot=small, model="small", settings="a")
        reason = {"status": "infeasible", "reason": "141 GB on 80 GB"} if large is None else {}
        sweep.add(tp, tpot=large, model="large", settings="b", **reason)
    found = {(line["model"], line["tp"]): line for line in lines(sweep, "models")}
    assert found["large", 1]["state"] == "infeasible: 141 GB on 80 GB"
    assert found["large", 1]["decode_ratio"] is None
    # Small: 8 / 5 on twice the GPUs. Large: 30 / 18 on twice the GPUs of TP=2, its smallest.
    assert found["small", 2]["efficiency"] == pytest.approx(8 / 5 / 2)
    assert found["small", 4]["efficiency"] == pytest.approx(8 / 4 / 4)
    assert found["large", 4]["efficiency"] == pytest.approx(30 / 18 / 2)
    assert found["large", 4]["baseline_tp"] == 2
    assert found["large", 2]["decode_ratio"] == pytest.approx(30 / 5)
    # The small model's least GPU time is 8 ms x 1; the large one's at TP=4 is 18 ms x 4.
    assert found["large", 4]["gpu_time_ratio"] == pytest.approx(18 * 4 / 8)
    assert all(line["smallest_model"] == "small" for line in found.values())
    assert found["small", 2]["decode_ratio"] is None
    order = [(line["tp"], line["model"]) for line in lines(sweep, "models")]
    assert order == [(tp, model) for tp in (1, 2, 4) for model in ("small", "large")]


def test_models_on_other_node_classes_are_not_mixed(sweep: Sweep) -> None:
    sweep.add(2, tpot=5.0, model="small", gpu="H100")
    sweep.add(2, tpot=30.0, model="large", gpu="H200")
    assert [line["decode_ratio"] for line in lines(sweep, "models")] == [None, None]


def test_the_lab_s_metrics(sweep: Sweep) -> None:
    for tp in (1, 2):
        for batch in (1, 4, 16):
            tpot = None if (tp, batch) == (2, 16) else 8.0 / tp
            sweep.add(tp, tpot=tpot, prefill=40.0 / tp, rate=100.0 * tp, batch=batch)
        sweep.online(tp, 20.0 / tp, itl=6.0 / tp)
    sweep.capture(1, report(1, compute=7.0))
    sweep.capture(2, report(2, compute=3.5), allreduce_backend="auto")
    found: dict[tuple[str, str], list[Record]] = {}
    for line in lines(sweep, "metrics"):
        assert line["synthetic"]
        found.setdefault((line["metric"], line["tp"]), []).append(line)

    def values(metric: str, tp: str = "2") -> list[float | None]:
        return [line["value"] for line in found[metric, tp]]

    # Batch 16 is not measured at TP=2: the largest equal batch is 4.
    assert [line["batch"] for line in found["decode latency", "2"]] == [1, 4]
    assert values("decode latency") == values("decode latency", "2") == [4.0, 4.0]
    assert values("prefill latency", "1") == [40.0, 40.0]
    assert values("throughput at equal batch") == [200.0, 200.0]
    assert values("throughput per GPU at equal batch") == [100.0, 100.0]
    # 0.25 ms of 5 all-reduces a step of 4 ms; the latency cell like it has 4 ms, too.
    assert values("all-reduce, transfer") == [pytest.approx(50.0)]
    assert values("communication, of the profiled step") == [pytest.approx(6.25)]
    assert values("communication, of decode time") == [pytest.approx(6.25)]
    assert values("NVLink during an all-reduce") == [pytest.approx(2.1)]
    assert values("NVLink over the profiled run") == [pytest.approx(3.0)]
    assert values("NVLink over the profiled run, of the peak") == [pytest.approx(100 * 4 / 450)]
    assert values("TTFT p50", "1") == [20.0] and values("TTFT p99", "1") == [60.0]
    assert values("ITL p50") == [3.0]
    assert ("NVLink in decode", "2") not in found  # these rows do not count
    (crossing,) = found["crossover batch", "1 to 2"]
    assert crossing["value"] is None
    assert crossing["said"] == (
        "undecided: no batch is measured on both sides;"
        " batch 4 not in the matrix (TP=1 at batch 2); batch 16 not in the matrix (TP=1 at batch 8)"
    )
    assert ("all-reduce, transfer", "1") not in found


def test_what_is_not_measured_says_why(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0)
    sweep.fail(sweep.add(2), "out_of_memory", "no room")
    sweep.capture(2, None, allreduce_backend="auto")
    said = {(line["metric"], line["tp"]): line["said"] for line in lines(sweep, "metrics")}
    assert said["decode latency", "2"] == "failed: out_of_memory"
    assert said["decode latency", "1"] is None
    assert said["communication, of decode time", "2"] == "not analysed"
    assert "failed: out_of_memory" in sweep.markdown("metrics")


def test_a_lower_bound_is_at_least_in_the_shares_too(sweep: Sweep) -> None:
    sweep.add(2, tpot=4.0)
    found = report(2, compute=3.5)
    decode = found["phases"]["decode"]
    decode["transfer_lower_us"], decode["transfer_us"] = decode["transfer_us"], None
    sweep.capture(2, found)
    said = {line["metric"]: (line["value"], line["said"]) for line in lines(sweep, "metrics")}
    assert said["all-reduce, transfer"] == (pytest.approx(50.0), "at least")
    assert said["communication, of decode time"] == (pytest.approx(6.25), "at least")
    assert said["communication, of the profiled step"] == (pytest.approx(6.25), "at least")
    assert said["NVLink during an all-reduce"] == (pytest.approx(2.1), None)


def test_a_capture_whose_self_check_failed_says_so(sweep: Sweep) -> None:
    sweep.add(2, tpot=4.0)
    found = report(2, compute=3.5)
    found["self_check"] = {**found["self_check"], "found": {"all_reduce": 1, "all_gather": 1}}
    sweep.capture(2, {**found, "self_check": {**found["self_check"], "ok": False}})
    said = {line["metric"]: (line["value"], line["said"]) for line in lines(sweep, "metrics")}
    assert said["communication, of decode time"] == (None, "the self-check failed")


def test_an_empty_sweep(sweep: Sweep) -> None:
    sweep.tables()
    assert "The matrix is empty." in sweep.markdown("metrics")
    assert "The matrix has no latency cells." in sweep.markdown("models")
