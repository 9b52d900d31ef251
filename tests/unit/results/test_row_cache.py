"""Reading many rows: in processes, and again from the cache; the rows are synthetic."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.made_up import Sweep
from tpsweep.results import row_cache
from tpsweep.results.load import load
from tpsweep.results.row_cache import CACHE, read_rows


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Twelve cells, which count as many."""
    monkeypatch.setattr(row_cache, "MANY", 10)
    made = Sweep(tmp_path / "results")
    for batch in range(1, 13):
        made.add(1, tpot=float(batch), batch=batch)
    made.write_manifest()
    return made


def batches(sweep: Sweep) -> list[int]:
    found: list[int] = load(sweep.root).rows["batch"].tolist()
    return found


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files each later load reads."""
    asked: list[int] = []
    pool = row_cache._pool

    def counted(files: int) -> object:
        asked.append(files)
        return pool(files)

    monkeypatch.setattr(row_cache, "_pool", counted)
    return asked


def test_what_was_read_is_read_once(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(sweep.root).rows
    assert (sweep.root / CACHE).exists()
    asked = count_reads(monkeypatch)
    again = load(sweep.root).rows
    assert asked == [0]
    assert again.astype(str).equals(first.astype(str))


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


def test_a_row_that_is_gone_is_not_in_the_cache(sweep: Sweep) -> None:
    load(sweep.root)
    (sweep.root / sweep.manifest[0]["path"]).unlink()
    assert batches(sweep) == list(range(2, 13))
    assert load(sweep.root).count("missing") == 1


def test_a_row_that_is_damaged_later_is_not_taken_from_the_cache(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    load(sweep.root)
    (sweep.root / sweep.manifest[0]["path"]).write_bytes(b"PAR1 cut off")
    assert load(sweep.root).count("failed") == 1
    assert "unreadable row, counted as failed" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [b"", b"ARROW1\0\0 cut off"])
def test_a_damaged_cache_is_none(sweep: Sweep, damage: bytes) -> None:
    load(sweep.root)
    (sweep.root / CACHE).write_bytes(damage)
    assert batches(sweep) == list(range(1, 13))


def test_a_folder_that_cannot_be_written_is_read(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(row_cache, "replacing", refuse)
    assert batches(sweep) == list(range(1, 13))
    assert not (sweep.root / CACHE).exists()


def test_few_rows_need_no_cache(tmp_path: Path) -> None:
    made = Sweep(tmp_path / "results")
    made.add(1, tpot=1.0)
    made.write_manifest()
    assert (
        read_rows(made.root, {made.manifest[0]["cell_id"]: made.manifest[0]["path"]}).errors == {}
    )
    assert not (made.root / CACHE).exists()
