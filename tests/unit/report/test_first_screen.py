"""The page's first screen, from synthetic rows: what it recommends and how sure it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.made_up import Sweep
from tpsweep.cli.main import main
from tpsweep.report.first_screen import Headline, headlines


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def started(sweep: Sweep, tp: int, tpot: float, rate: float, *, runs: int = 1, **axes: Any) -> None:
    """Static batches with so many engine starts, each on a host of its own."""
    for run in range(runs):
        measured = {"engine_id": f"{tp}-{run}", "hostname": f"host{run}", "gpu_uuids": [f"{run}"]}
        sweep.add(tp, tpot=tpot * (1 + run / 1e3), rate=rate, run=run, measured=measured, **axes)


def only(sweep: Sweep) -> Headline:
    (found,) = headlines(sweep.built())
    return found


def test_the_fast_layout_and_the_cheap_one(sweep: Sweep) -> None:
    for batch, rates in ((1, (100.0, 160.0)), (64, (4000.0, 6000.0))):
        started(sweep, 1, 10.0, rates[0], runs=3, batch=batch)
        started(sweep, 2, 6.0, rates[1], runs=3, batch=batch)
    fast, cheap = only(sweep).sentences
    assert fast.text == "TP=2 on H200: 6.006 ms per token at batch 1; TP=1 on H200: 10.01"
    assert fast.sure == "3 engine starts a side: significant."
    # 6,000 over two GPUs are less than 4,000 over one.
    said = "TP=1 on H200: 4000 output tok/s per GPU at batch 64; TP=2 on H200: 3000 at batch 64"
    assert cheap.text == said
    assert only(sweep).trust == "Rests on 12 cells of 6 engine starts; real weights; H200."


def test_few_starts_are_not_called_sure(sweep: Sweep) -> None:
    started(sweep, 1, 10.0, 100.0)
    started(sweep, 2, 6.0, 160.0)
    (fast, _) = only(sweep).sentences
    assert fast.sure == "1 engine start a side: differs (within session)."


def test_layouts_are_compared_at_the_smallest_batch_that_all_have(sweep: Sweep) -> None:
    started(sweep, 1, 5.0, 100.0, batch=1)
    for tp in (1, 2):
        started(sweep, tp, 10.0 / tp, 100.0, batch=4)
    (fast, _) = only(sweep).sentences
    assert fast.text.startswith("TP=2 on H200: 5.000 ms per token at batch 4")


def test_one_layout_says_so(sweep: Sweep) -> None:
    started(sweep, 1, 10.0, 100.0)
    found = only(sweep)
    assert found.sentences[0].sure == "The only layout measured, 1 engine start."


def test_the_setting_with_most_layouts_speaks_for_a_model(sweep: Sweep) -> None:
    started(sweep, 1, 1.0, 100.0, variant="other")
    for tp in (1, 2):
        started(sweep, tp, 10.0 / tp, 100.0)
    started(sweep, 1, 3.0, 100.0, model="alone")
    first, second = headlines(sweep.built())
    assert (first.model, second.model) == ("llama", "alone")
    assert first.sentences[0].text.startswith("TP=2 on H200: 5.000 ms")


def test_each_slo_that_was_searched_has_a_sentence(sweep: Sweep) -> None:
    """The table ``capacity`` has a line per SLO and layout."""
    for tp in (1, 2):
        started(sweep, tp, 10.0 / tp, 100.0)
    tables = sweep.built()
    lines = [
        {
            "model": "llama",
            "gpu": "H200",
            "tp": tp,
            "runs": 2,
            "slo": slo,
            "capacity_request_s_per_gpu": rate,
        }
        for slo, rates in (("chat", (40.0, 25.0)), ("strict", (None, 3.0)), ("none", (None, 0.0)))
        for tp, rate in zip((1, 2), rates, strict=True)
    ]
    unmeasured = {**lines[0], "runs": 0, "slo": "later"}
    made = replace(tables["serving"], name="capacity", records=[*lines, unmeasured])
    (found,) = headlines({**tables, "capacity": made})
    assert [(one.asked, one.text) for one in found.sentences[2:]] == [
        ("SLO chat", "TP=1 on H200: 40.00 requests/s per GPU; TP=2 on H200: 25.00"),
        ("SLO strict", "TP=2 on H200: 3.000 requests/s per GPU; TP=1 on H200: 0"),
        ("SLO none", "No layout keeps it."),
    ]


def test_on_the_page_it_comes_before_the_sections(sweep: Sweep) -> None:
    for tp in (1, 2):
        started(sweep, tp, 10.0 / tp, 100.0, gpu_card="CPU")
    sweep.tables()
    assert main(["page", str(sweep.root)]) == 0
    html = (sweep.root / "report.html").read_text()
    first, rest = html.split('<nav aria-label="Questions">')
    assert "CPU timings only demonstrate the pipeline." in first
    assert "TP=2 on H200: 5.000 ms per token at batch 1" in first
    assert "tpsweep recommend results --model" in first
    assert "CPU timings" not in rest
