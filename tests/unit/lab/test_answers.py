"""Questions and expectations: sentences from made-up tables, and from the committed smoke rows."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from tests.unit.made_up import Record, Sweep, report
from tpsweep.analysis.builder import build_tables
from tpsweep.analysis.nvlink_traffic import decode_part
from tpsweep.cli.main import main
from tpsweep.cli.tables import BUILDERS
from tpsweep.lab.answers import answer_questions, check_expectations, lines_of
from tpsweep.lab.answers.expectations import FAILS, HOLDS, PARTLY, UNKNOWN
from tpsweep.lab.answers.questions import CROSSOVER, NO_CAPTURE, NO_PAIR
from tpsweep.perfmodel.model_shape import Shape
from tpsweep.results.load import load
from tpsweep.sweep.sweep import load_sweep

ROOT = Path(__file__).parents[3]
SMOKE, PUBLISHED = ROOT / "results" / "smoke", ROOT / "results" / "published" / "h200x2"
CONFIG = json.loads((ROOT / "workflow/models/llama-3.1-8b.json").read_text())


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def link(gb_s: float, tpot: float, prefill: float) -> Record:
    """Columns of a row whose GPUs sent so much over the link, prefill included."""
    return {
        "gpu_nvlink_tx_gb_s": [gb_s, gb_s],
        "nvlink_share": gb_s / 450,
        "gpu_link": "NV18",
        "e2e_ms": prefill + 127 * tpot,
    }


def sentences(sweep: Sweep) -> list[str]:
    return [" ".join(a.sentences) for a in answer_questions(lines_of(sweep.built()))]


def verdicts(sweep: Sweep) -> list[str]:
    return [check.verdict for check in check_expectations(lines_of(sweep.built()))]


def test_what_is_not_measured_is_said_with_what_it_needs(sweep: Sweep) -> None:
    sweep.add(1, tpot=5.0)
    sweep.add(2)
    assert sentences(sweep) == [NO_PAIR, NO_CAPTURE, NO_PAIR, NO_CAPTURE]
    assert verdicts(sweep) == [UNKNOWN] * 5


def test_expectations_that_hold(sweep: Sweep) -> None:
    for batch, rate in ((1, 160.0), (32, 105.0)):
        sweep.add(1, tpot=4.8, prefill=100.0, rate=100.0, batch=batch)
        linked = link(10.0, tpot=3.0, prefill=80.0)
        sweep.add(2, tpot=3.0, prefill=80.0, rate=rate, batch=batch, measured=linked)
        sweep.capture(
            2,
            report(2, compute=2.0, transfer=0.6),
            allreduce_backend="auto",
            batch=batch,
            measured={"nvlink_share": 0.2},  # profiled, half of it prefill: it does not count
            config=CONFIG,
        )
    assert verdicts(sweep) == [HOLDS] * 5


def test_expectations_that_do_not(sweep: Sweep) -> None:
    for batch in (1, 32):
        sweep.add(1, tpot=4.8, prefill=80.0, rate=100.0, batch=batch)
        linked = link(100.0, tpot=4.7, prefill=100.0)
        sweep.add(2, tpot=4.7, prefill=100.0, rate=50.0, batch=batch, measured=linked)
        sweep.capture(
            2,
            report(2, compute=2.0, transfer=0.1),
            allreduce_backend="auto",
            batch=batch,
            measured={"nvlink_share": 0.01},
            config=CONFIG,
        )
    assert verdicts(sweep) == [FAILS] * 5


def test_large_batches_alone_say_nothing_of_small_ones(sweep: Sweep) -> None:
    sweep.add(1, tpot=4.8, rate=100.0, batch=32)
    sweep.add(2, tpot=3.0, rate=150.0, batch=32)
    assert verdicts(sweep)[2] == UNKNOWN


def test_the_answers_have_the_tables_numbers(sweep: Sweep) -> None:
    for batch in (1, 4, 8):
        sweep.add(1, tpot=4.87, rate=200.0 * batch, batch=batch)
        linked = link(10.0, tpot=3.61, prefill=100.0)
        rate = 260.0 * batch if batch < 8 else 1200.0
        sweep.add(2, tpot=3.61, rate=rate, batch=batch, measured=linked)
        sweep.capture(1, report(1, compute=4.8), batch=batch)
        sweep.capture(
            2,
            report(2, compute=3.0, transfer=0.24 * batch),
            allreduce_backend="auto",
            batch=batch,
            config=CONFIG,
        )
    halving, share, crossover, nvlink = sentences(sweep)
    assert "at batch 1 1.349 times as fast" in halving
    # 2 x 3.61 - 4.87 - 2 x 0.25, with 1 % of each time.
    assert (
        "1.510 ms are what TP divides, 1.850 ms (1.763 to 1.937) what it does not, 0.2500 ms"
        in (halving)
    )
    # Kernels and gaps show 2 x 3 - 4.8 + 0.3 = 1.5 ms.
    assert "At batch 1, 4, 8 the captures disagree with such a split" in halving
    assert "at batch 1 6.6 % of the decode time (5 all-reduces, together 0.2400 ms)" in share
    assert share.endswith("From batch 1 to 8 it grows.")
    assert "beside two TP=1 engines with half of them each, TP=2 behind at 8" in crossover
    assert "(not known at 4); one start per side, not tested" in crossover
    assert "by sequences: 8: 0.7500)" in crossover
    assert "more tokens per second at batch 1, 4 (measured: 1, 4, 8)" in crossover
    assert "per GPU" not in crossover
    assert "at batch 1 2.100 GB/s, 0.5 % of the link's peak" in nvlink
    part = decode_part(Shape.from_config(CONFIG), "bfloat16", 512, 128)
    decode = 10 * (100 + 127 * 3.61) / (127 * 3.61) * part
    assert f"Over the whole decode, without a profiler: {decode:.3f} GB/s" in nvlink


def test_the_published_rows_say_which_layout_a_node_should_run() -> None:
    """Issue: TP=2 beside two TP=1 engines with half of the sequences each."""
    tables = build_tables(load(PUBLISHED), BUILDERS)
    (answer,) = (a for a in answer_questions(lines_of(tables)) if a.question == CROSSOVER)
    (said,) = (s for s in answer.sentences if "(default, 512" in s and "custom" in s)
    assert "TP=2 ahead up to 64, level (within 2 %) at 128, behind at 256" in said
    assert "1 of TP=2, not tested" in said and "per GPU" not in said
    ratios = {
        line["batch"]: line["equal_sequences_ratio"]
        for line in tables["tp_pairs"].records
        if (line["allreduce_backend"], line["input_len"]) == ("custom", 512)
        and line["equal_sequences_ratio"] is not None
    }
    expected = {2: 1.38, 8: 1.30, 32: 1.17, 128: 0.995, 256: 0.90}
    assert {batch: ratios[batch] for batch in expected} == pytest.approx(expected, abs=0.005)


def test_every_number_of_the_smoke_rows_is_in_a_table() -> None:
    lines = lines_of(build_tables(load(SMOKE), BUILDERS))
    halving, share, *_ = (" ".join(a.sentences) for a in answer_questions(lines))
    assert "1.405 times as fast" in halving  # results/smoke/README.md: 4.936 / 3.513 ms
    assert "65 all-reduces" in share
    # Their latency rows do not count NVLink.
    assert [check.verdict for check in check_expectations(lines)] == [
        *(FAILS, PARTLY, PARTLY, FAILS, UNKNOWN)
    ]


def test_only_a_sweep_of_the_lab_has_its_questions_on_the_page(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0)
    found = []
    for lab in (None, True):
        sweep.manifest[0]["lab"] = lab
        sweep.tables()
        assert main(["page", str(sweep.root)]) == 0
        html = (sweep.root / "report.html").read_text("utf-8")
        found.append(
            [words in html for words in ("What the lab asked", "<caption><span>Questions")]
        )
    assert found == [[False, False], [True, True]]


def test_the_config_says_that_a_sweep_is_the_labs(tmp_path: Path) -> None:
    raw = yaml.safe_load((ROOT / "config.yaml").read_text())
    for lab in (True, False):
        sweep = load_sweep({**raw, "lab": lab, "site": "cluster/pace/site.yaml"}, ROOT)
        assert main(["manifest", sweep.raw, str(tmp_path / "matrix.parquet")]) == 0
        column = pq.read_table(tmp_path / "matrix.parquet", columns=["lab"])["lab"].to_pylist()
        assert set(column) == {True if lab else None}
