"""Tables from synthetic rows, against figures worked out by hand."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.made_up import Sweep
from tpsweep.analysis.table import digits, figure
from tpsweep.cli.main import main
from tpsweep.core import stats
from tpsweep.results.load import ResultsError, load
from tpsweep.tables import Summary, tp_comparison
from tpsweep.tables import cells as cells_table

Record = dict[str, Any]
NAMES = (
    *("cells", "machines", "failures"),
    *("tp_comparison", "throughput", "serving", "capacity", "choices", "communication"),
    *("terms", "batch_scaling", "tp_pairs", "crossover", "floors", "layouts"),
    *("expected", "cost", "models", "metrics", "validity"),
)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def test_speedups_per_gpu_and_split_batch(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0, prefill=200.0, rate=120.0)
    sweep.add(1, tpot=9.0, prefill=400.0, rate=220.0, batch=2)
    sweep.add(2, tpot=5.0, prefill=125.0, rate=192.0)
    sweep.add(2, tpot=6.0, prefill=250.0, rate=330.0, batch=2)
    lines = sweep.comparison()
    assert len(lines) == 4
    two = lines["auto", 2, 2]
    assert two["decode_speedup"] == pytest.approx(1.5)
    assert two["prefill_speedup"] == pytest.approx(1.6)
    assert two["decode_speedup_lo"] < 1.5 < two["decode_speedup_hi"]
    assert two["decode_speedup_kind"] == "within session"
    assert two["decode_verdict"] == stats.DIFFERS_WITHIN
    assert two["output_tok_s_per_gpu"] == pytest.approx(165.0)
    assert two["per_gpu_ratio"] == pytest.approx(0.75)
    assert two["split_output_tok_s"] == pytest.approx(240.0)  # two TP=1 engines at batch 1
    assert two["split_ratio"] == pytest.approx(330 / 240)
    assert (two["tpot_ms"], two["state"], two["runs"]) == (6.0, "measured", 1)
    assert 5.94 <= two["tpot_ms_lo"] < 6.0
    one = lines["auto", 2, 1]
    assert one["decode_speedup"] is None and one["baseline_tp"] == 1
    assert lines["auto", 1, 2]["split_ratio"] is None
    assert lines["auto", 1, 2]["split_output_tok_s"] is None  # half a sequence is no batch


def test_runs_are_pooled_as_the_geometric_mean_of_their_medians(sweep: Sweep) -> None:
    for run, (slow, fast) in enumerate([(10.0, 5.0), (10.2, 5.2), (12.0, 5.1)]):
        sweep.add(1, tpot=slow, rate=slow, run=run)
        sweep.add(2, tpot=fast, rate=fast, run=run)
    line = sweep.comparison()["auto", 1, 2]
    assert line["tpot_ms"] == pytest.approx((5.0 * 5.2 * 5.1) ** (1 / 3))
    assert (line["output_tok_s"], line["runs"]) == (5.1, 3)
    assert line["decode_speedup"] == pytest.approx(
        (10.0 * 10.2 * 12.0 / (5.0 * 5.2 * 5.1)) ** (1 / 3)
    )
    assert line["decode_speedup_kind"] == line["interval_kind"] == "between runs"
    assert line["decode_verdict"] == "significant"
    assert line["prefill_speedup"] == pytest.approx(1.0)
    assert line["prefill_verdict"] == "not significant"


def test_tp1_is_the_baseline_of_every_backend(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0)
    sweep.add(2, tpot=4.0, allreduce_backend="custom")
    sweep.add(2, tpot=5.0, allreduce_backend="nccl")
    lines = sweep.comparison()
    assert set(lines) == {(b, 1, tp) for b in ("custom", "nccl") for tp in (1, 2)}
    assert lines["custom", 1, 2]["decode_speedup"] == pytest.approx(2.0)
    assert lines["nccl", 1, 2]["decode_speedup"] == pytest.approx(1.6)


def test_unequal_identities_are_not_compared(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0, variant="eager")
    sweep.add(2, tpot=4.0)
    sweep.add(4, tpot=2.0)
    lines = sweep.comparison()
    assert lines["auto", 1, 4]["decode_speedup"] == pytest.approx(2.0)
    assert lines["auto", 1, 4]["baseline_tp"] == 2
    assert lines["none", 1, 1]["variant"] == "eager"


def test_holes_are_named_in_the_line_of_their_tp(sweep: Sweep) -> None:
    sweep.add(1, status="infeasible", reason="141 GB of weights on 80 GB")
    sweep.add(2, tpot=8.0)
    failed = sweep.add(2, run=2)
    sweep.add(4, tpot=4.0)
    crashed = sweep.add(4, run=2)
    sweep.add(8)
    sweep.add(16, status="excluded", reason="by the config")
    sweep.fail(failed, "out_of_memory", "no room")
    sweep.fail(crashed, "crash", "engine died")
    summary = sweep.tables()
    lines = {line["tp"]: line for line in sweep.read("tp_comparison")}
    assert lines[1]["state"] == "infeasible: 141 GB of weights on 80 GB"
    assert lines[2]["state"] == "1/2 runs measured; failed: out_of_memory"
    assert lines[4]["state"] == "1/2 runs measured; failed: crash"
    assert lines[8]["state"] == "missing"
    assert lines[16]["state"] == "excluded: by the config"
    assert lines[4]["baseline_tp"] == 2
    assert lines[4]["decode_speedup"] == pytest.approx(2.0)
    assert lines[8]["tpot_ms"] is None and lines[8]["decode_speedup"] is None
    expected = Summary(measured=2, failed=2, missing=1, infeasible=1, excluded=1)
    assert summary == expected
    assert str(summary).startswith("INCOMPLETE 2/5 cells measured, 2 failed, 1 missing")
    title = sweep.markdown("tp_comparison").splitlines()[0]
    assert title == "# TP comparison: INCOMPLETE 2/5, SYNTHETIC, never measured"
    by_id = {line["cell_id"]: line for line in sweep.read("cells")}
    assert len(by_id) == 7
    assert by_id[failed]["failure_type"] == "out_of_memory"
    assert by_id[failed]["reason"] == "no room"


def test_a_row_outweighs_an_old_failure_and_a_stale_row_is_not_read(sweep: Sweep) -> None:
    done = sweep.add(1, tpot=8.0)
    sweep.fail(done, "crash", "yesterday")
    stale = sweep.add(1, tpot=1.0, run=2)
    sweep.manifest.pop()
    assert sweep.tables().complete
    assert [line["cell_id"] for line in sweep.read("cells")] == [done] != [stale]
    assert sweep.read("cells")[0]["failure_type"] is None
    assert "INCOMPLETE" not in sweep.markdown("cells")


@pytest.mark.parametrize("damage", ["truncated", "empty", "other_cell", "other_file"])
def test_an_unreadable_row_is_a_failed_cell(
    sweep: Sweep, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.add(1, tpot=8.0)
    bad = sweep.add(2, tpot=4.0)
    path = sweep.root / sweep.manifest[1]["path"]
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other_cell":
        path.write_bytes((sweep.root / sweep.manifest[0]["path"]).read_bytes())
    else:
        pq.write_table(pa.table({"x": [1]}), path)
    assert sweep.tables().failed == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and path.name in message
    found = {line["cell_id"]: line for line in sweep.read("cells")}[bad]
    assert (found["state"], found["failure_type"]) == ("failed", "unreadable")
    assert found["reason"] and found["tpot_ms"] is None


def test_rows_of_an_older_schema_are_read(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0)
    path = sweep.root / sweep.manifest[0]["path"]
    pq.write_table(pq.ParquetFile(path).read().drop_columns(["driver_version"]), path)
    assert sweep.tables().complete
    assert sweep.read("cells")[0]["tpot_ms"] == 8.0


@pytest.mark.parametrize("text", ['{"type": "cra', "[]", "{}", '{"type": null}'])
def test_an_unreadable_failure_record_does_not_hide_the_cell(sweep: Sweep, text: str) -> None:
    cell_id = sweep.add(1)
    sweep.fail(cell_id, "crash", "x")
    (sweep.root / "failures" / f"{cell_id}.json").write_text(text)
    assert sweep.tables().failed == 1
    assert sweep.read("cells")[0]["failure_type"] == "unknown"


def test_provenance_that_differs_is_noted(sweep: Sweep) -> None:
    common = {"torch_version": "2.9", "gpu_names": ["NVIDIA H200"]}
    one = {**common, "driver_version": "550.1", "allreduce_backend_ran": "none"}
    two = {
        **common,
        "driver_version": "560.2",
        "allreduce_backend_ran": "custom",
        "gpu_names": ["NVIDIA H200"] * 2,
    }
    sweep.add(1, tpot=8.0, measured=one)
    sweep.add(2, tpot=5.0, measured=two)
    sweep.add(4, tpot=4.0, measured={**two, "allreduce_backend_ran": "nccl"})
    sweep.add(1, tpot=8.0, batch=2, measured={**one, "prefill_chunked": True})
    lines = sweep.comparison()
    assert lines["auto", 1, 1]["note"] == (
        "driver differs: 550.1 (TP=1), 560.2 (TP=2/4); "
        "all-reduce that ran differs: custom (TP=2), nccl (TP=4)"
    )
    assert lines["none", 2, 1]["note"] == "prefill was chunked"


def test_times_that_cannot_be_are_left_out_and_noted(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0)
    sweep.add(2, tpot=5.0, measured={"tpot_ms_samples": [5.0, 0.0]})
    sweep.add(4, tpot=5.0, measured={"tpot_ms_samples": [5.0, math.inf]})
    lines = sweep.comparison()
    assert lines["auto", 1, 2]["decode_speedup"] is None
    assert lines["auto", 1, 4]["tpot_ms"] is None
    assert lines["auto", 1, 2]["note"] == "decode samples of 1 run(s) are not positive"


def test_schema_is_the_same_without_any_row(sweep: Sweep) -> None:
    sweep.add(1)
    sweep.tables()
    for name, columns in [("cells", cells_table.COLUMNS), ("tp_comparison", tp_comparison.COLUMNS)]:
        schema = pq.read_schema(sweep.root / "tables" / f"{name}.parquet")
        always = [column for column in columns if not column.optional]
        assert [(f.name, f.type) for f in schema] == [(c.name, c.type) for c in always]
    assert sweep.read("tp_comparison")[0]["state"] == "missing"


def test_an_empty_manifest_gives_empty_tables(sweep: Sweep) -> None:
    assert sweep.tables().complete
    assert sweep.read("cells") == []
    assert "Decode (ms/token)" in sweep.markdown("cells")


def test_markdown_survives_names(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0, model="a|b\n# <img> *x* tiny_llama")
    sweep.add(1, tpot=8.0, model="_y_", run=3)
    sweep.tables()
    lines = sweep.markdown("cells").splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4
    assert len({line.replace(r"\|", "").count("|") for line in table}) == 1
    assert r"a\|b # &lt;img&gt; \*x\* tiny_llama" in table[3]
    assert r"\_y\_" in table[2]
    assert "TP: 1" in lines[2] and "Run: " not in lines[2]


def test_csv_agrees_with_parquet(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0, model='a,"b"\nc')
    sweep.tables()
    with (sweep.root / "tables" / "cells.csv").open(newline="", encoding="utf-8") as file:
        (line,) = csv.DictReader(file)
    assert (line["model"], float(line["tpot_ms"])) == ('a,"b"\nc', 8.0)


def test_writes_leave_nothing_but_the_tables(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0)
    sweep.tables()
    sweep.tables()
    expected = {f"{n}.{e}" for n in NAMES for e in ("parquet", "csv", "md")}
    assert {path.name for path in (sweep.root / "tables").iterdir()} == expected


def test_run_reports_in_one_line(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", str(sweep.root)]) == 2
    assert "matrix.parquet: no such manifest" in capsys.readouterr().err
    sweep.add(1, tpot=8.0)
    sweep.write_manifest()
    assert main(["tables", str(sweep.root)]) == 0
    message = capsys.readouterr().err
    assert "1/1 cells measured" in message and message.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "maybe"}, "status maybe, allowed: planned"),
        ({"status": None}, "status null, allowed: planned"),
        ({"cell_id": "000000000000"}, "is in it more than once"),
    ],
)
def test_a_bad_manifest_is_refused(sweep: Sweep, change: Record, message: str) -> None:
    sweep.add(1)
    sweep.add(2)
    sweep.manifest[1] |= change
    sweep.write_manifest()
    with pytest.raises(ResultsError, match=message):
        load(sweep.root)
    (sweep.root / "matrix.parquet").write_text(json.dumps({}))
    with pytest.raises(ResultsError, match="not a manifest"):
        load(sweep.root)


def test_hundreds_of_cells(sweep: Sweep) -> None:
    for batch in range(1, 51):
        for run in (1, 2):
            for tp in (1, 2, 4, 8):
                sweep.add(tp, tpot=8.0 / tp + 0.01 * run, batch=batch, run=run)
    sweep.write_manifest()
    summary = sweep.tables()
    assert summary.measured == 400
    assert len(sweep.read("tp_comparison")) == 200


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (5.0, "5.000"), (12345.6, "12346"), (0.00123456, "0.001235"), (999.96, "1000")],
)
def test_figures_have_four_digits(value: float, shown: str) -> None:
    assert digits(value) == shown
    assert figure("x")({"x": value, "x_lo": 1.0, "x_hi": 2.0}) == f"{shown} (1.000 to 2.000)"
    assert figure("x")({"x": value}) == shown
    assert figure("x")({"x": None}) == ""


def test_an_interval_within_one_start_is_not_shown_but_kept(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0)
    sweep.add(2, tpot=5.0)
    line = sweep.comparison()["auto", 1, 2]
    assert 4.95 <= line["tpot_ms_lo"] < 5.0 and line["tpot_ms_starts"] == "one start"
    text = sweep.markdown("tp_comparison")
    assert "5.000 (one start)" in text and "1.600 (one start a side)" in text
    assert "4.9" not in text


def test_lines_of_one_kind_lend_their_spread_between_starts_by_name(sweep: Sweep) -> None:
    """Starts at batch 1 scatter with a standard deviation of 1 % in the logarithm."""
    for run, log in enumerate((-0.01, 0.0, 0.01)):
        sweep.add(1, tpot=8.0 * math.exp(log), run=run)
        sweep.add(2, tpot=5.0 * math.exp(log), run=run)
    sweep.add(1, tpot=9.0, batch=2)
    sweep.add(2, tpot=6.0, batch=2)
    sweep.add(1, tpot=9.0, batch=2, model="another")
    sweep.tables()
    found = sweep.read("tp_comparison")
    lines = {(line["model"], line["batch"], line["tp"]): line for line in found}
    half = 100 * math.expm1(4.302653 * 0.01)
    assert lines["llama", 1, 2]["tpot_ms_starts"] is None
    assert (
        lines["llama", 2, 2]["tpot_ms_starts"] == f"one start; ±{half:.2g} % by 3 starts at batch 1"
    )
    assert lines["llama", 2, 2]["decode_speedup_starts"] == (
        f"one start a side; ±{half * math.sqrt(2):.2g} % by 3 starts at batch 1"
    )
    assert lines["another", 2, 1]["tpot_ms_starts"] == "one start"


def test_how_many_comparisons_there_are_is_said(sweep: Sweep) -> None:
    for run in range(3):
        sweep.add(1, tpot=8.0 + 0.1 * run, run=run)
        sweep.add(2, tpot=5.0 + 0.1 * run, run=run)
    sweep.tables()
    said = "2 comparisons with enough starts, each by itself, not corrected for their number"
    assert said in sweep.markdown("tp_comparison")


def test_a_node_a_side_is_not_significant(sweep: Sweep) -> None:
    for run in range(3):
        sweep.add(1, tpot=8.0 + 0.1 * run, run=run, measured={"hostname": "one"})
        sweep.add(2, tpot=5.0 + 0.1 * run, run=run, measured={"hostname": "other"})
        sweep.add(4, tpot=4.0 + 0.1 * run, run=run, measured={"hostname": "one"})
    lines = sweep.comparison()
    two, four = lines["auto", 1, 2], lines["auto", 1, 4]
    assert two["decode_verdict"] == stats.DIFFERS_NODES
    assert two["decode_speedup_starts"].startswith("3 starts a side, too few nodes")
    assert two["tpot_ms_starts"] is None  # of starts on that node it has an interval
    assert four["decode_verdict"] == stats.SIGNIFICANT
