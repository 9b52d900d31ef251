"""A part of a sweep: which rows a run asks for, and that the rest stays in the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.sweep.test_sweep import ROOT, SITE, raw
from tpsweep.sweep.sweep import InputError, Sweep, load_sweep


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.yaml").write_text(SITE, "utf-8")
    return tmp_path


def make(here: Path, **changes: Any) -> Sweep:
    return load_sweep({**raw(tp=[1, 2]), "site": str(here / "site.yaml"), **changes}, ROOT)


@pytest.mark.parametrize(
    ("only", "axes"),
    [
        ({"tp": 2}, {(2, 1), (2, 2)}),
        ({"tp": "2", "batch": "1"}, {(2, 1)}),  # as --config hands it over
        ([{"tp": 2, "batch": 1}, {"tp": 1}], {(2, 1), (1, 1), (1, 2)}),
        ({"tp": 2, "batch": [1, 2]}, {(2, 1), (2, 2)}),
        ({"workload": ["latency", "serve"], "tp": ["1"]}, {(1, 1), (1, 2)}),
    ],
)
def test_a_run_asks_for_a_part(here: Path, only: object, axes: set[tuple[int, int]]) -> None:
    whole, part = make(here), make(here, only=only)
    cells = [part.jobs[path].cell for path in part.wanted]
    assert {(cell.engine.tp, cell.batch) for cell in cells} == axes
    assert part.part == f"only: {len(axes)} of 4 planned cells are selected"
    assert part.raw == whole.raw and list(part.jobs) == list(whole.jobs) == whole.wanted


def test_rows_that_are_there_are_asked_for_too(here: Path) -> None:
    part = make(here, only={"tp": 2})
    (other,) = (path for path in part.jobs if "/tp1/" in path and "/b1-" in path)
    (here / other).parent.mkdir(parents=True)
    (here / other).touch()
    assert other in part.wanted and len(part.wanted) == 3


@pytest.mark.parametrize(
    ("only", "line"),
    [
        ({"tp": 4}, "config: only: {'tp': 4}: it matches no planned cell"),
        ({"tp": "two"}, "config: only.tp: 'two': allowed: "),
        ({"nodes": 2}, "config: only.nodes: 2: "),
        ({}, "config: only: {}: allowed: at least one axis"),
        ([{"tp": 1}, {"batch": 9}], "config: only: {'batch': 9}: it matches no planned cell"),
        ("tp=2", "config: only: 'tp=2': allowed: axes and their values"),
        ([], "config: only: []: allowed: axes and their values"),
        ([2], "config: only.0: 2: allowed: a mapping"),
    ],
)
def test_what_is_no_part_is_refused_in_one_line(here: Path, only: object, line: str) -> None:
    with pytest.raises(InputError) as caught:
        make(here, only=only)
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)
