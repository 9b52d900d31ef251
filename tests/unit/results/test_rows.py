"""Reading many rows: in processes, and again from rows.parquet; the rows are synthetic."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from tests.unit.made_up import Sweep
from tpsweep.cli.main import main
from tpsweep.core.joined_rows import PARTS, ROWS, keep_part
from tpsweep.results import rows
from tpsweep.results.load import load


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Twelve cells, which count as many."""
    monkeypatch.setattr(rows, "MANY", 10)
    made = Sweep(tmp_path / "results")
    for batch in range(1, 13):
        made.add(1, tpot=float(batch), batch=batch)
    made.write_manifest()
    return made


def batches(sweep: Sweep) -> list[int]:
    found: list[int] = load(sweep.root, keep=True).rows["batch"].tolist()
    return found


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files each later load reads."""
    asked: list[int] = []
    pool = rows._pool

    def counted(files: int) -> object:
        asked.append(files)
        return pool(files)

    monkeypatch.setattr(rows, "_pool", counted)
    return asked


def test_what_was_read_is_read_once(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(sweep.root, keep=True).rows
    asked = count_reads(monkeypatch)
    again = load(sweep.root).rows
    assert asked == [0]
    assert again.astype(str).equals(first.astype(str))


def test_what_sessions_left_is_not_read_from_its_files(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_files = load(sweep.root).rows
    places = {line["cell_id"]: line["path"] for line in sweep.manifest}
    first, second = dict(list(places.items())[:5]), dict(list(places.items())[3:10])
    keep_part(sweep.root, "one", first)
    keep_part(sweep.root, "two", second)
    (sweep.root / PARTS / "three.parquet").write_bytes(b"no rows")
    changed = sweep.root / sweep.manifest[4]["path"]
    os.utime(changed, ns=(1, 1))
    asked = count_reads(monkeypatch)
    joined = load(sweep.root, keep=True).rows
    assert asked == [3]  # two that no session left, and one that changed
    assert joined.astype(str).equals(from_files.astype(str))
    # All are in rows.parquet now.
    assert not list((sweep.root / PARTS).iterdir())
    assert load(sweep.root).rows.astype(str).equals(from_files.astype(str))
    assert asked == [3, 0]


def test_a_row_of_another_cell_is_left_to_its_file(sweep: Sweep) -> None:
    one, other = sweep.manifest[:2]
    keep_part(sweep.root, "one", {one["cell_id"]: other["path"], "none": "cells/none.parquet"})
    assert not (sweep.root / PARTS).exists()


def test_a_changed_and_a_new_row_are_read_and_stand_in_order(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert batches(sweep) == list(range(1, 13))
    changed = sweep.root / sweep.manifest[4]["path"]
    os.utime(changed, ns=(1, 1))
    sweep.add(1, tpot=13.0, batch=13)
    sweep.write_manifest()
    asked = count_reads(monkeypatch)
    assert batches(sweep) == list(range(1, 14))
    assert asked == [2]


def test_a_row_that_is_gone_is_not_kept(sweep: Sweep) -> None:
    load(sweep.root, keep=True)
    (sweep.root / sweep.manifest[0]["path"]).unlink()
    assert batches(sweep) == list(range(2, 13))
    assert load(sweep.root).count("missing") == 1


def test_a_row_that_is_damaged_later_is_found(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    load(sweep.root, keep=True)
    (sweep.root / sweep.manifest[0]["path"]).write_bytes(b"PAR1 cut off")
    assert load(sweep.root).count("failed") == 1
    assert "unreadable row, counted as failed" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [b"", b"PAR1 cut off", b"flip"])
def test_a_damaged_file_of_all_rows_is_none(sweep: Sweep, damage: bytes) -> None:
    load(sweep.root, keep=True)
    path = sweep.root / ROWS
    if damage == b"flip":  # one bit of a page: only its checksum tells
        content = bytearray(path.read_bytes())
        content[40] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(damage)
    assert batches(sweep) == list(range(1, 13))
    assert pd.read_parquet(path)["batch"].tolist() == list(range(1, 13))


def test_the_command_keeps_just_the_rows_of_the_manifest(sweep: Sweep) -> None:
    load(sweep.root)
    assert not (sweep.root / ROWS).exists()  # who only reads, writes nothing
    assert main(["tables", str(sweep.root)]) == 0
    kept = pd.read_parquet(sweep.root / ROWS)
    cells = pd.read_parquet(sweep.root / "cells")
    assert kept["cell_id"].tolist() == [cell["cell_id"] for cell in sweep.manifest]
    assert set(cells["cell_id"]) == set(kept["cell_id"]) and len(cells) == len(kept)
    assert kept["file_path"].tolist() == [cell["path"] for cell in sweep.manifest]
    before = (sweep.root / ROWS).stat().st_ino
    assert main(["tables", str(sweep.root)]) == 0
    assert (sweep.root / ROWS).stat().st_ino == before
    gone = sweep.manifest.pop()
    sweep.write_manifest()
    assert main(["tables", str(sweep.root)]) == 0
    assert gone["cell_id"] not in set(pd.read_parquet(sweep.root / ROWS)["cell_id"])
