"""The rows under results/ keep their ids, file names and sessions, whatever axis is added."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from tpsweep.core.axes import BY_NAME
from tpsweep.core.row_file import read_row
from tpsweep.sweep.sweep import Sweep, load_sweep

ROOT = Path(__file__).parents[3]
FROZEN = "tests/data/published"
SWEEPS = {
    "smoke": "results/smoke",
    "published": "results/published/h200x2",
    "lab": "results/published/h200-loops",
}


def planned_today(name: str) -> Sweep:
    config = yaml.safe_load((ROOT / FROZEN / f"{name}.yaml").read_text())
    return load_sweep({**config, "site": f"{FROZEN}/site.yaml"}, ROOT)


@pytest.mark.parametrize("name", SWEEPS)
def test_the_same_cells_are_planned(name: str) -> None:
    """Against the manifest that was written before the axes were declared in one place."""
    names = ["cell_id", "path", "session", "settings", "status"]
    before = pq.read_table(ROOT / SWEEPS[name] / "matrix.parquet", columns=names).to_pylist()
    today = [
        {
            "cell_id": item.cell.cell_id,
            "path": item.cell.path,
            "session": item.cell.engine.session,
            "settings": item.cell.settings,
            "status": item.status,
        }
        for item in planned_today(name).planned
    ]
    by_id = {line["cell_id"]: line for line in today}
    assert len(by_id) == len(before) > 0
    assert [by_id.get(line["cell_id"]) for line in before] == before


@pytest.mark.parametrize("name", SWEEPS)
def test_every_row_is_of_the_cell_that_its_name_says(name: str) -> None:
    folder = ROOT / SWEEPS[name]
    cells = {item.cell.path: item.cell for item in planned_today(name).planned}
    rows = sorted((folder / "cells").rglob("*.parquet"))
    assert rows
    for path in rows:
        cell, row = cells[str(path.relative_to(folder))], read_row(path)
        assert row["cell_id"] == cell.cell_id
        # A row that is older than an axis has its default.
        columns = {
            key: value
            for key, value in cell.columns().items()
            if not (BY_NAME[key].added and BY_NAME[key].is_default(value))
        }
        assert {key: row[key] for key in columns if key in row} == columns
