"""Where things lie: the rows of results/ and the files that belong to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.published import FOLDERS, RESULTS
from tpsweep.core import results_paths as paths
from tpsweep.core.row_file import read_row


@pytest.mark.parametrize("root", FOLDERS, ids=lambda root: root.name)
def test_every_row_is_where_its_identity_says(root: Path) -> None:
    rows = sorted(root.glob("cells/**/*.parquet"))
    assert rows
    for file in rows:
        row, place = read_row(file), file.relative_to(root).as_posix()
        assert paths.root_of(file) == root.resolve()
        assert paths.cell_id_of(place) == row["cell_id"]
        stem = place.split("/", 2)[2].removesuffix(".parquet")
        assert paths.row(row["workload"], stem) == place


def test_a_capture_row_names_files_of_its_stem_and_its_analysis_is_there() -> None:
    rows = sorted(RESULTS.glob("**/cells/capture/**/*.parquet"))
    assert rows
    for file in rows:
        root = paths.root_of(file)
        assert root is not None
        place = file.relative_to(root).as_posix()
        names = read_row(file)["capture_files"]
        assert all(name.startswith(f"{paths.capture_stem(place)}.") for name in names)
        assert (root / paths.capture_report(place)).is_file()
        assert (root / paths.capture_picture(place)).is_file()


def test_a_file_that_is_not_where_rows_are_has_no_root(tmp_path: Path) -> None:
    assert paths.root_of(tmp_path / "a/b/c/d/e/x.parquet") is None
    assert paths.root_of(Path("/x.parquet")) is None
    assert paths.root_of(tmp_path / "cells/capture/g/cells/tp1/x.parquet") == tmp_path


def test_vllm_results_lie_as_the_rows_do() -> None:
    assert paths.vllm_stem("cells/serve/G/m/tp1/x-1.parquet") == "vllm/serve/G/m/tp1/x-1"


def test_the_probes_of_a_search_have_the_place_of_its_row() -> None:
    row = paths.row("capacity", "H200/llama/tp2/n1000-abc")
    assert paths.probes(row) == "searches/H200/llama/tp2/n1000-abc.jsonl"
