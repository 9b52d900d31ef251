"""Rows as files: the schema is closed, a file is whole or not there."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tpsweep.core import row_file, schema

ROW = {"cell_id": "0123456789ab", "tp": 2, "tpot_ms_samples": [1.5, 2.5], "synthetic": True}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cells" / "x.parquet"
    row_file.write_row(ROW, path)
    assert row_file.read_row(path) == {**dict.fromkeys(schema.SCHEMA.names), **ROW}
    assert names(path.parent) == ["x.parquet"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_file_has_types_and_no_dead_weight(tmp_path: Path) -> None:
    row_file.write_row(ROW, tmp_path / "x.parquet")
    assert pq.read_schema(tmp_path / "x.parquet").equals(schema.SCHEMA)
    assert not pq.read_metadata(tmp_path / "x.parquet").metadata
    column = pq.read_metadata(tmp_path / "x.parquet").row_group(0).column(0).to_dict()
    assert (column["compression"], column["is_stats_set"]) == ("SNAPPY", False)
    assert not column["has_dictionary_page"]


def test_pandas_reads_the_folder_past_temporary_files(tmp_path: Path) -> None:
    row_file.write_row(ROW, tmp_path / "a" / "x.parquet")
    row_file.write_row({**ROW, "tp": 1}, tmp_path / "b" / "y.parquet")
    (tmp_path / "a" / ".half.tmp").write_bytes(b"PAR1 cut off")
    assert sorted(pd.read_parquet(tmp_path)["tp"]) == [1, 2]


def test_an_unknown_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="tpot_sec"):
        row_file.write_row({**ROW, "tpot_sec": 1.0}, tmp_path / "x.parquet")
    assert names(tmp_path) == []


@pytest.mark.parametrize("kept", [0, 3, 10, 0.5, -1])
def test_a_truncated_file_is_told_of_in_one_line(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "x.parquet"
    row_file.write_row(ROW, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if kept == 0.5 else int(kept)])
    with pytest.raises(ValueError, match="not a readable Parquet file") as caught:
        row_file.read_row(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_told_of_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    row_file.write_row(ROW, path)
    data = bytearray(path.read_bytes())
    data[-400:-200] = b"\xff" * 200  # in the footer: Arrow says so in several lines
    path.write_bytes(data)
    with pytest.raises(ValueError, match="not a readable Parquet file") as caught:
        row_file.read_row(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lines", [0, 2])
def test_another_number_of_rows_is_refused(tmp_path: Path, lines: int) -> None:
    table = pd.DataFrame({"cell_id": ["a"] * lines})
    table.to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=f"found {lines} rows"):
        row_file.read_row(tmp_path / "x.parquet")


def test_a_write_that_cannot_be_finished_leaves_the_old_row(tmp_path: Path) -> None:
    """A real limit on file sizes stands in for the full disk: the error must name it."""
    path = tmp_path / "x.parquet"
    row_file.write_row(ROW, path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        with pytest.raises(OSError, match="File too large"):
            row_file.write_row({**ROW, "tp": 8}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert names(tmp_path) == ["x.parquet"]
    assert row_file.read_row(path)["tp"] == 2


def test_a_write_that_cannot_be_put_in_place_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").mkdir()
    with pytest.raises(IsADirectoryError):
        row_file.write_row(ROW, tmp_path / "x.parquet")
    assert names(tmp_path) == ["x.parquet"]
