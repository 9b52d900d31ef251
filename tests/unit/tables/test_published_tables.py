"""Tables of the rows in the repository: the tracked ones stay true, and files lose nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.published import FOLDERS, RESULTS
from tests.unit.made_up import Sweep, report
from tpsweep.analysis.builder import build_tables
from tpsweep.analysis.table import Table, TableError, read_table
from tpsweep.cli.tables import BUILDERS
from tpsweep.results.load import load

TRACKED = [
    (str(folder.relative_to(RESULTS)), path.name)
    for folder in FOLDERS
    for path in sorted((folder / "tables").glob("*.parquet"))
]


@cache
def built(folder: str) -> dict[str, Table]:
    return build_tables(load(RESULTS / folder), BUILDERS)


@pytest.mark.parametrize(("folder", "name"), TRACKED)
def test_tracked_tables_are_those_of_their_rows(folder: str, name: str) -> None:
    """Value by value: whatever changes in the code, published numbers do not."""
    path = RESULTS / folder / "tables" / name
    tracked = pq.ParquetFile(path).read()
    table = built(folder)[path.stem]
    lines = [{name: record[name] for name in tracked.column_names} for record in table.records]
    assert lines == tracked.to_pylist()


def test_there_are_tracked_tables() -> None:
    paths = [RESULTS / folder / "tables" / name for folder, name in TRACKED]
    filled = {path.parent for path in paths if pq.ParquetFile(path).metadata.num_rows}
    assert len(filled) == len(FOLDERS) >= 3 and len(paths) >= 14 * len(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_table_comes_back_from_its_file(folder: str, tmp_path: Path) -> None:
    for name, table in built(folder).items():
        table.write(tmp_path)
        back = read_table(tmp_path / f"{name}.parquet", table.views)
        # What an absent value would have been is not in the file: none is absent.
        columns = tuple(replace(column, default=None) for column in table.columns)
        assert back == replace(table, columns=columns)
        some = [column.name for column in table.columns[1:4]]
        found = read_table(tmp_path / f"{name}.parquet", names=some)
        assert found.records == [{name: record[name] for name in some} for record in table.records]


def test_a_table_of_every_state_comes_back(tmp_path: Path) -> None:
    """Marks, gaps, lists, and words that were not written by this program."""
    sweep = Sweep(tmp_path / "results")
    sweep.add(1, tpot=8.0, measured={"gpu_names": ["a", "b"], "gpu_power_limit_w": [700.0, 650.0]})
    sweep.fail(sweep.add(2), "crash", "\x00 ünlesbar |")
    sweep.add(4, status="infeasible", reason="141 GB on 80 GB")
    sweep.online(1, 100.0, request_rate=float("inf"))
    sweep.capture(2, report(2, compute=3.0))
    sweep.tables()
    for name, table in sweep.built().items():
        found = read_table(sweep.root / "tables" / f"{name}.parquet", table.views)
        assert found.records == table.records and found.legend == table.legend
        assert found.mark == "INCOMPLETE 3/4, SYNTHETIC, never measured"
    (machine,) = [line for line in sweep.read("machines") if line["gpus"] == 1]
    assert machine["card"] == ["a", "b"] and machine["power_limit_w"] == [700.0, 650.0]
    assert "a; b" in (sweep.root / "tables/machines.csv").read_text("utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such table"), (b"PAR1", "not a table of tpsweep"), ("cells", "an older tpsweep")],
)
def test_a_file_that_is_no_table_is_one_line(
    tmp_path: Path, content: bytes | str | None, message: str
) -> None:
    path = tmp_path / "cells.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        data = pq.ParquetFile(RESULTS / "smoke/tables/cells.parquet").read()
        pq.write_table(data.replace_schema_metadata({"title": "All cells"}), path)
    with pytest.raises(TableError, match=message) as caught:
        read_table(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
