"""One's own figures beside published ones: the tables and the page's section. Rows are made up."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.unit.made_up import Record, Sweep
from tpsweep.cli.main import main
from tpsweep.lab.reference import SHIPPED
from tpsweep.lab.reference.reading import read_reference

MODEL = "llama-3.1-8b"
H100 = {"model": MODEL, "gpu": "h100-node", "gpu_card": "NVIDIA H100 80GB HBM3"}
"""Of a site that names its classes otherwise: the card pairs."""


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def lines(sweep: Sweep) -> dict[tuple[str, int, str, str], Record]:
    sweep.write_manifest()
    assert main(["report", str(sweep.root), "--reference"]) == 0
    return {
        (one["workload"], one["tp"], one["metric"], one["reference_table"]): one
        for one in sweep.read("reference")
    }


def test_own_beside_published(sweep: Sweep) -> None:
    sweep.add(2, tpot=3.5, rate=200.0, output_len=64, measured={"e2e_ms": 224.35}, **H100)
    sweep.offline(1, 44.225, **H100)
    sweep.online(1, 20.0, itl=3.61, **H100)
    found = lines(sweep)
    shown = {place: (one["own"], one["reference"], one["ratio"]) for place, one in found.items()}
    near = pytest.approx
    assert shown == {
        ("latency", 2, "batch_latency", "8b_batch_scaling_tp2"): (224.35, 448.7, near(0.5)),
        ("latency", 2, "throughput", "8b_batch_scaling_tp2"): (200, 143, near(200 / 143)),
        # Of these no output length is published: whatever comes out of a ratio means nothing.
        ("latency", 2, "per_token_latency", "8b_70b_overview"): (near(224.35 / 64), 7.08, None),
        ("throughput", 1, "offline_throughput", "8b_tp1_tp2"): (44.225, 88.45, None),
        ("throughput", 1, "throughput", "8b_70b_overview"): (4422.5, 11270, None),
        ("throughput", 1, "throughput", "answer_q1"): (4422.5, 9926.3, None),
        ("serve", 1, "ttft_p50", "8b_tp1_tp2"): (20, 923.94, near(20 / 923.94)),
        ("serve", 1, "itl_p50", "8b_tp1_tp2"): (3.61, 7.22, near(0.5)),
    }
    assert all(one["source"] == "pace" for one in found.values())
    legend = (sweep.root / "tables" / "reference.md").read_text("utf-8")
    assert "SYNTHETIC" in legend
    assert f"{63 - 8} of 63 reference figures have no cell in this matrix." in legend


def test_another_output_length_is_recomputed(sweep: Sweep) -> None:
    """128 tokens in 448.7 ms were 1.00 of 64 tokens in as long, by accident."""
    sweep.add(2, tpot=3.5, prefill=4.2, output_len=128, measured={"e2e_ms": 448.7}, **H100)
    found = lines(sweep)
    whole = 4.2 + 63 * 3.5
    batch = found["latency", 2, "batch_latency", "8b_batch_scaling_tp2"]
    assert (batch["own"], batch["ratio"]) == (pytest.approx(whole), pytest.approx(whole / 448.7))
    assert batch["own_is"] == "e2e_ms, recomputed from prefill_ms and tpot_ms"
    assert "output tokens: own 128, reference 64" in batch["note"]
    rate = found["latency", 2, "throughput", "8b_batch_scaling_tp2"]
    assert rate["own"] == pytest.approx(1e3 * 64 / whole)
    assert rate["ratio"] == pytest.approx(1e3 * 64 / whole / 143)
    token = found["latency", 2, "per_token_latency", "8b_70b_overview"]
    assert (token["own"], token["ratio"]) == (pytest.approx(448.7 / 128), None)
    assert "output tokens: own 128, reference not stated" in token["note"]


def test_per_token_and_batches_are_recomputed_too(sweep: Sweep) -> None:
    h200 = {"model": "llama-3.1-70b", "gpu": "H200", "gpu_card": "NVIDIA H200"}
    sweep.add(2, tpot=20.0, prefill=400.0, batch=4, output_len=128, **h200)
    found = lines(sweep)
    whole = 400 + 63 * 20.0
    own = {name: one["own"] for (_, _, name, table), one in found.items() if table == "70b_h200"}
    assert own == pytest.approx(
        {
            "batch_latency": whole,
            "per_token_latency": whole / 64,
            "throughput": 1e3 * 4 * 64 / whole,
        }
    )


def test_what_cannot_be_recomputed_has_no_ratio(sweep: Sweep) -> None:
    sweep.add(2, output_len=128, measured={"e2e_ms": 448.7}, **H100)
    batch = lines(sweep)["latency", 2, "batch_latency", "8b_batch_scaling_tp2"]
    assert (batch["own"], batch["own_is"], batch["ratio"]) == (448.7, "e2e_ms", None)


def data_set(path: Path, *figures: str) -> Path:
    """A data set of served figures of ``MODEL`` on one H200."""
    head = SHIPPED.read_text("utf-8").splitlines()[0]
    begin = f"made_up,{MODEL},H200,,1,1,,serve,,"
    path.write_text("\n".join([head, *(begin + one for one in figures)]) + "\n", "utf-8")
    sidecar = "title: made up\nabout: of a test\nsource: none\ndtype: bfloat16\n"
    path.with_suffix(".yaml").write_text(sidecar + "cards: {H200: NVIDIA H200}\n", "utf-8")
    return path


def test_a_served_value_stands_beside_its_own_rate_alone(sweep: Sweep, tmp_path: Path) -> None:
    """Without a rate it is of no cell; ``inf`` is of the cells where all is sent at once."""
    h200 = {"model": MODEL, "gpu": "H200", "gpu_card": "NVIDIA H200"}
    for rate, ttft in ((4.0, 40.0), (float("inf"), 800.0)):
        sweep.online(1, ttft, request_rate=rate, **h200)
    path = data_set(tmp_path / "mine.csv", ",ttft_p50,700,ms,", "inf,ttft_p50,1000,ms,")
    sweep.write_manifest()
    assert main(["report", str(sweep.root), "--reference", str(path)]) == 0
    (line,) = sweep.read("reference")
    assert (line["request_rate"], line["own"], line["reference"]) == (float("inf"), 800, 1000)
    assert line["ratio"] == pytest.approx(0.8)
    legend = (sweep.root / "tables" / "reference.md").read_text("utf-8")
    assert "1 served values state no request rate: they are set beside no cell." in legend


def test_what_is_not_the_same_is_not_paired(sweep: Sweep) -> None:
    sweep.add(2, tpot=3.5, batch=2, **H100)
    sweep.add(4, tpot=3.5, **H100)
    sweep.add(2, tpot=3.5, **{**H100, "model": "other"})
    sweep.add(2, tpot=3.5, **{**H100, "gpu_card": "NVIDIA L40S"})
    sweep.online(1, 20.0, request_rate=8.0, **H100)
    sweep.online(1, 20.0, replicas=2, **H100)
    assert lines(sweep) == {}
    assert "No cell of the matrix" in (sweep.root / "tables" / "reference.md").read_text("utf-8")


def test_a_cell_without_a_row_is_visible(sweep: Sweep) -> None:
    sweep.fail(sweep.add(2, **H100), "crash", "the engine died")
    found = lines(sweep)
    assert {one["state"] for one in found.values()} == {"failed: crash"}
    assert {one["own"] for one in found.values()} == {None}


def test_findings_are_a_table_and_a_section(sweep: Sweep) -> None:
    sweep.add(2, tpot=3.5, output_len=64, measured={"e2e_ms": 224.35}, **H100)
    lines(sweep)
    checks = {one["check"] for one in sweep.read("reference_findings")}
    assert {"two-values", "offline-scaling", "unexplained-ttft"} <= checks
    html = (sweep.root / "report.html").read_text("utf-8")
    assert '<section id="reference"' in html
    assert '<section id="reference_findings"' in html
    assert "was TP applied offline" in html
    title = pq.read_schema(sweep.root / "tables" / "reference.parquet").metadata[b"title"]
    assert b"SYNTHETIC" in title


def test_nothing_changes_without_the_flag(sweep: Sweep) -> None:
    sweep.add(2, tpot=3.5, **H100)
    sweep.write_manifest()
    assert main(["report", str(sweep.root)]) == 0
    assert "reference_findings" not in (sweep.root / "report.html").read_text("utf-8")
    assert not (sweep.root / "tables/reference.csv").exists()


def test_another_data_set_and_a_bad_one(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.add(2, tpot=3.5, **H100)
    sweep.write_manifest()
    path = tmp_path / "mine.csv"
    path.write_text(SHIPPED.read_text("utf-8"), "utf-8")
    path.with_suffix(".yaml").write_text(SHIPPED.with_suffix(".yaml").read_text("utf-8"), "utf-8")
    assert main(["report", str(sweep.root), "--reference", str(path)]) == 0
    assert {one["source"] for one in sweep.read("reference")} == {"mine"}
    text = path.read_text("utf-8")
    path.write_text(text.replace("serve,,4,ttft_p50", "serve,,4,batch_latency"), "utf-8")
    sweep.online(1, 20.0, **H100)
    sweep.write_manifest()
    assert main(["report", str(sweep.root), "--reference", str(path)]) == 0
    path.unlink()
    capsys.readouterr()
    assert main(["report", str(sweep.root), "--reference", str(path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said == [f"tpsweep report: {path}: No such file or directory"]


def test_every_published_metric_has_an_own_one() -> None:
    from tpsweep.lab.reference.compare_published import OWN

    figures = read_reference(SHIPPED).figures
    assert {(one.workload, one.metric) for one in figures} <= set(OWN)
