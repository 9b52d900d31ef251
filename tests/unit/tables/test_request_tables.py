"""Tables ``throughput`` and ``serving`` from synthetic rows, against figures worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.unit.made_up import Record, Sweep
from tpsweep.analysis import verdicts
from tpsweep.core import stats
from tpsweep.tables import serving, throughput


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def lines(sweep: Sweep, table: str) -> dict[tuple[int, int], Record]:
    """By TP and replicas."""
    sweep.tables()
    return {(line["tp"], line["replicas"]): line for line in sweep.read(table)}


def test_two_engines_of_tp1_stand_beside_tp2(sweep: Sweep) -> None:
    sweep.offline(1, 10.0)
    sweep.offline(2, 15.0)
    found = lines(sweep, "throughput")
    assert list(found) == [(1, 1), (1, 2), (2, 1)]
    two = found[2, 1]
    assert two["source"] == two["state"] == "measured"
    assert two["ratio"] == pytest.approx(1.5) and two["per_gpu_ratio"] == pytest.approx(0.75)
    # Three repeats: nothing to be called a 95 % interval.
    assert two["ratio_lo"] is None and two["request_s_lo"] is None
    assert (two["ratio_kind"], two["ratio_verdict"]) == ("within session", stats.UNDECIDED)
    assert (two["ratio_starts"], two["request_s_starts"]) == ("one start a side", "one start")
    assert two["output_tok_s_per_gpu"] == pytest.approx(750.0)
    computed = found[1, 2]
    assert computed["source"] == "computed: 2 engines of TP=1"
    assert (computed["gpus"], computed["request_s"], computed["output_tok_s"]) == (2, 20.0, 2000.0)
    assert computed["output_tok_s_per_gpu"] == 1000.0
    assert computed["ratio"] == 2.0 and computed["ratio_verdict"] is None
    assert found[1, 1]["ratio"] is None


def test_throughput_of_three_runs_a_side_can_be_significant(sweep: Sweep) -> None:
    for run, (one, two) in enumerate([(10.0, 15.0), (10.1, 15.2), (9.9, 14.9)]):
        sweep.offline(1, one, run=run)
        sweep.offline(2, two, run=run)
    two = lines(sweep, "throughput")[2, 1]
    assert two["request_s"] == pytest.approx((15.0 * 15.2 * 14.9) ** (1 / 3))
    assert (two["runs"], two["interval_kind"]) == (3, "between runs")
    assert two["ratio_starts"] is None and two["request_s_starts"] is None
    assert (two["ratio_kind"], two["ratio_verdict"]) == ("between runs", stats.SIGNIFICANT)


def test_only_cells_of_equal_settings_are_compared(sweep: Sweep) -> None:
    sweep.offline(1, 60.0, settings="short file")
    sweep.offline(1, 10.0, settings="long file")
    sweep.offline(2, 12.0, settings="long file")
    sweep.online(1, 20.0, settings="strict slo")
    sweep.online(1, 40.0, settings="other slo")
    sweep.add(1, tpot=10.0, settings="16 sequences")
    sweep.add(2, tpot=5.0, settings="2 sequences")
    sweep.tables()
    rates = {(r["settings"], r["tp"], r["state"]): r for r in sweep.read("throughput")}
    assert rates["short file", 1, "measured"]["request_s"] == 60.0
    assert rates["long file", 1, "measured"]["request_s"] == 10.0
    assert rates["long file", 2, "measured"]["ratio"] == pytest.approx(1.2)
    assert sorted(line["ttft_p50_ms"] for line in sweep.read("serving")) == [20.0, 40.0]
    assert [line["decode_speedup"] for line in sweep.read("tp_comparison")] == [None, None]


def test_nothing_is_computed_without_a_measured_side(sweep: Sweep) -> None:
    sweep.offline(1, 10.0)
    sweep.offline(2)
    sweep.offline(2, 12.0, num_prompts=50)
    sweep.offline(1, status="infeasible", reason="too large", num_prompts=50)
    sweep.tables()
    found = [line["source"] for line in sweep.read("throughput")]
    assert sorted(found, key=str) == [None, None, "measured", "measured"]
    assert "n/a" in sweep.markdown("throughput")


def test_measured_replicas_stand_instead_of_computed_ones(sweep: Sweep) -> None:
    sweep.offline(1, 10.0)
    sweep.offline(1, 19.0, replicas=2)
    sweep.offline(2, 15.0)
    assert {line["source"] for line in lines(sweep, "throughput").values()} == {"measured"}


def test_serving_compares_with_tp1_in_ms_and_percent(sweep: Sweep) -> None:
    sweep.online(1, 100.0, 10.0)
    sweep.online(2, 60.0, 9.5)
    sweep.online(1, 80.0, 10.0, replicas=2, measured={"saturated": "yes", "max_in_flight": 9})
    found = lines(sweep, "serving")
    one, two, replicas = found[1, 1], found[2, 1], found[1, 2]
    assert one["ttft_p50_ms_diff"] is None and one["baseline_tp"] == 1
    assert (one["ttft_p50_ms"], one["saturated"], one["max_in_flight"]) == (100.0, "no", 7)
    assert (one["ttft_p50_ms_lo"], one["ttft_p50_ms_hi"]) == pytest.approx((95.0, 105.0))
    assert (two["ttft_p50_ms_diff"], two["ttft_p50_ms_pct"]) == pytest.approx((-40.0, -40.0))
    assert two["ttft_p50_ms_verdict"] == verdicts.APART
    assert two["itl_p50_ms_verdict"] == verdicts.OVERLAP
    assert two["ttft_p99_ms_diff"] == pytest.approx(-120.0)
    assert two["ttft_p99_ms_verdict"] == verdicts.NO_RANGE
    assert two["output_tok_s_per_gpu"] == 195.0 and two["per_gpu_ratio"] == 0.5
    assert (replicas["gpus"], replicas["saturated"], replicas["max_in_flight"]) == (2, "yes", 9)
    text = sweep.markdown("serving")
    assert "-40.00 ms (-40.0 %)" in text and "100.0 (one start; seeds 95.00 to 105.0)" in text
    assert "Rate (requests/s): 4.0" in text


def test_runs_are_the_median_of_runs_with_the_range_of_all_seeds(sweep: Sweep) -> None:
    for run, ttft in enumerate((100.0, 104.0, 120.0)):
        sweep.online(1, ttft, run=run)
        sweep.online(2, ttft / 2, run=run)
    found = lines(sweep, "serving")
    assert found[1, 1]["ttft_p50_ms"] == 104.0
    assert found[1, 1]["ttft_p50_ms_lo"] == pytest.approx(95.0)
    assert found[1, 1]["ttft_p50_ms_hi"] == pytest.approx(126.0)
    assert found[2, 1]["ttft_p50_ms_verdict"] == stats.SIGNIFICANT
    assert found[2, 1]["itl_p50_ms_verdict"] == stats.NOT_SIGNIFICANT
    assert found[2, 1]["ttft_p99_ms_verdict"] == stats.SIGNIFICANT


def test_every_percentile_is_the_median_of_runs_or_null(sweep: Sweep) -> None:
    for run, tpot in enumerate((6.0, 9.0, 7.0)):
        sweep.online(1, 100.0, run=run, measured={"tpot_p95_ms": tpot, "e2e_p50_ms": 900.0})
    (line,) = lines(sweep, "serving").values()
    assert (line["tpot_p95_ms"], line["e2e_p50_ms"]) == (7.0, 900.0)
    unknown = {f"{name}_p{p}_ms" for name in ("ttft", "tpot", "itl", "e2e") for p in (90, 95, 99)}
    unknown -= {"tpot_p95_ms", "ttft_p99_ms"}
    assert {line[name] for name in unknown} == {None}


def test_percentiles_pool_the_requests_of_runs_that_have_too_few(sweep: Sweep) -> None:
    """As config.yaml: 600 requests a run are too few for p99, those of three runs are not."""
    parts = [[float(k) for k in range(start, 1800, 3)] for start in range(3)]
    for run, samples in enumerate(parts):
        few = {"ttft_p99_ms": None, "ttft_ms_samples": samples, "repeats": 3}
        sweep.online(1, 100.0, run=run, measured=few)
    (line,) = lines(sweep, "serving").values()
    assert line["ttft_p99_ms"] == pytest.approx(0.99 * 1799)
    assert line["tpot_p99_ms"] is None and line["itl_p99_ms"] is None


def test_one_saturated_run_makes_the_line_saturated_and_one_doubt_makes_it_doubtful(
    sweep: Sweep,
) -> None:
    for at, verdicts_of_runs in enumerate(
        (["no", "no"], ["no", "not shown"], ["not shown", "yes"])
    ):
        for run, verdict in enumerate(verdicts_of_runs):
            sweep.online(1, 9.0, run=run, request_rate=1.0 + at, measured={"saturated": verdict})
    sweep.tables()
    found = [line["saturated"] for line in sweep.read("serving")]
    assert found == ["no", "not shown", "yes"]


def test_one_seed_is_no_range(sweep: Sweep) -> None:
    sweep.online(1, 100.0, seeds=1)
    sweep.online(2, 60.0, seeds=1)
    two = lines(sweep, "serving")[2, 1]
    assert two["ttft_p50_ms_lo"] is None and two["ttft_p50_ms_verdict"] == verdicts.NO_RANGE


def test_rates_are_series_of_their_own(sweep: Sweep) -> None:
    for rate in (1.0, math.inf):
        sweep.online(1, 100.0, request_rate=rate)
        sweep.online(2, request_rate=rate)
    sweep.tables()
    found = sweep.read("serving")
    assert [line["request_rate"] for line in found] == [1.0, 1.0, math.inf, math.inf]
    assert [line["state"] for line in found] == ["measured", "missing"] * 2
    assert "n/a" in sweep.markdown("serving")


def test_a_slow_client_and_chunks_are_noted(sweep: Sweep) -> None:
    sweep.online(1, 100.0, measured={"tokens_per_chunk": 1.0, "client_cpu_share": 0.2})
    sweep.online(2, 60.0, measured={"tokens_per_chunk": 1.5, "client_cpu_share": 0.97})
    found = lines(sweep, "serving")
    assert found[1, 1]["note"] is None
    assert found[2, 1]["note"] == (
        "ITL is per streamed chunk of 1.50 tokens; "
        "the client used 97% of a processor and may have been the limit"
    )


def test_each_workload_is_in_its_own_table(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0)
    sweep.offline(1, 10.0)
    sweep.online(1, 100.0)
    sweep.tables()
    for table, workload in (
        ("tp_comparison", "latency"),
        ("throughput", "throughput"),
        ("serving", "serve"),
    ):
        assert [line["workload"] for line in sweep.read(table)] == [workload]


@pytest.mark.parametrize("module", [serving, throughput])
def test_an_empty_table_says_so_in_one_line(sweep: Sweep, module: Any) -> None:
    sweep.add(1)
    sweep.tables()
    name = module.__name__.rpartition(".")[2]
    _, _, line = sweep.markdown(name).splitlines()
    assert line == module.EMPTY
    schema = pq.read_schema(sweep.root / "tables" / f"{name}.parquet")
    always = [column for column in module.COLUMNS if not column.optional]
    assert [(f.name, f.type) for f in schema] == [(c.name, c.type) for c in always]


def test_a_missing_p99_says_what_it_needs(sweep: Sweep) -> None:
    sweep.online(1, ttft=30.0)
    sweep.online(2)
    sweep.tables()
    said = "A p99 needs 1,000 requests"
    assert said not in sweep.markdown("serving"), "the unmeasured line has none for another reason"
    sweep.online(4, ttft=20.0, measured={"ttft_p99_ms": None})
    sweep.tables()
    assert said in sweep.markdown("serving")
