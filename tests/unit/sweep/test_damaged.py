"""Which rows cannot count as done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cells import latency_cell
from tpsweep.core.row_file import write_row
from tpsweep.results import load
from tpsweep.results.integrity import leave_records
from tpsweep.sweep.damaged import damaged
from tpsweep.sweep.expand import Planned
from tpsweep.sweep.manifest import write_manifest

CELL = latency_cell()


@pytest.fixture
def row(tmp_path: Path) -> Path:
    """The one row of a results folder with a manifest."""
    path = tmp_path / CELL.path
    write_row({**CELL.columns(), "cell_id": CELL.cell_id, "synthetic": True}, path)
    planned = Planned(CELL, "planned", None, 1, "entry", None, None)
    write_manifest([planned], tmp_path / "matrix.parquet")
    return path


def found(tmp_path: Path) -> list[str]:
    return list(damaged(tmp_path, [CELL.path]))


def test_a_whole_row_is_done_and_a_missing_one_is_not_damaged(tmp_path: Path, row: Path) -> None:
    assert found(tmp_path) == []
    row.unlink()
    (tmp_path / "failures").mkdir()
    (tmp_path / f"failures/{CELL.cell_id}.json").write_text("{}")
    assert found(tmp_path) == []


@pytest.mark.parametrize("size", [0, 4, 11, 300, -1])
def test_a_row_that_is_cut_off_is_seen_by_planning(tmp_path: Path, row: Path, size: int) -> None:
    row.write_bytes(row.read_bytes()[:size])
    assert found(tmp_path) == [CELL.path]


def test_a_flipped_byte_is_seen_by_the_tables_and_then_by_planning(
    tmp_path: Path, row: Path
) -> None:
    content = bytearray(row.read_bytes())
    place = content.index(CELL.cell_id.encode())
    content[place] ^= 1
    row.write_bytes(bytes(content))
    assert found(tmp_path) == []
    assert leave_records(tmp_path, load.load(tmp_path)) == 1
    (record,) = tmp_path.glob("failures/*.json")
    said = json.loads(record.read_text())
    assert (said["type"], said["cell"]) == ("unreadable", CELL.path)
    assert found(tmp_path) == [CELL.path]


def test_nothing_is_recorded_of_rows_that_can_be_read(tmp_path: Path, row: Path) -> None:
    assert leave_records(tmp_path, load.load(tmp_path)) == 0
    assert not (tmp_path / "failures").exists()
