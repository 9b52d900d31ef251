"""The lines that a run ends with, from synthetic rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.made_up import Sweep
from tests.unit.report.test_report import Reader, page
from tpsweep.cli.main import main

REASON = "card: NVIDIA H100 80GB HBM3; the site file says NVIDIA H200"


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def said(sweep: Sweep, capsys: pytest.CaptureFixture[str], *more: str) -> list[str]:
    sweep.tables()
    capsys.readouterr()
    assert main(["outcome", str(sweep.root), *more]) == 0
    return capsys.readouterr().err.splitlines()


def test_what_came_out_and_where_it_is(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    for tp in (1, 2):
        for batch in (1, 8):
            sweep.add(tp, tpot=8.0 / tp, batch=batch)
        sweep.offline(tp, 10.0 * tp)
        sweep.online(tp, 100.0 / tp, request_rate=4.0)
    lines = said(sweep, capsys)
    assert lines[0] == "tpsweep: 8/8 cells measured"
    assert "TP=2 decodes 2.00 times as fast as TP=1 (batch 1 to 8: " in lines[1]
    assert sum("offline: " in line for line in lines) == 2
    assert sum("serves 1 rates with TTFT " in line for line in lines) == 2
    root = sweep.root
    assert lines[-1] == (
        f"tpsweep: page: {root}/report.html; tables: {root}/tables/; rows: {root}/rows.parquet"
    )


def test_one_tp_alone_has_its_times(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.add(1, tpot=8.0, batch=4)
    lines = said(sweep, capsys)
    assert any("TP=1 decodes at 8 ms per token (batch 4)" in line for line in lines)


def test_a_run_that_was_cut_short_goes_on(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.add(1, tpot=8.0)
    sweep.fail(sweep.add(2), "out_of_memory", "no room")
    sweep.add(4)
    lines = said(sweep, capsys, "--failed")
    assert lines[0] == (
        "tpsweep: INCOMPLETE 1/3 cells measured, 1 failed, 1 missing; the same command continues"
    )
    assert lines[1] == "tpsweep:   1 failed: out_of_memory: no room"


def test_a_failed_preflight_is_on_the_terminal_in_check_and_on_the_page(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.add(1)
    name = "H200x1"
    folder = sweep.root / "preflight"
    folder.mkdir(parents=True)
    check = {"name": "card", "ok": False, "said": REASON.removeprefix("card: ")}
    record = {"name": name, "ok": False, "checks": [check], "host": "n1", "slurm_job_id": None}
    (folder / f"{name}.json").write_text(json.dumps(record | {"when": "2026-01-31T00:00:00+00:00"}))
    assert f"tpsweep:   1 failed: preflight of {name}: {REASON}" in said(sweep, capsys, "--failed")
    text = Reader(page(sweep)).text
    top = text.index(f"Not submitted, 1 cells: preflight of {name}: {REASON}")
    assert top < text.index("What ran on what", text.index("INCOMPLETE"))
    capsys.readouterr()
    assert main(["check", str(sweep.root)]) == 1
    out = capsys.readouterr().out
    assert "node classes that failed their preflight (1):" in out
    assert f"  {name}: failed on n1 at 2026-01-31T00:00:00+00:00: {REASON}" in out


def test_without_tables_it_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["outcome", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_large_values_have_no_exponent(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.online(1, ttft=20.0, request_rate=1.0)
    sweep.online(1, ttft=3687.0, request_rate=8.0)
    (line,) = [line for line in said(sweep, capsys) if "serves" in line]
    assert "serves 2 rates with TTFT 20 to 3687 ms" in line
