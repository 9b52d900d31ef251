"""``tpsweep rows``: what is in the matrix, in a file that people open; all rows are made up."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.unit.made_up import Sweep
from tpsweep.cli.main import main


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Two rows in the matrix, and one that an older config has left behind."""
    sweep = Sweep(tmp_path / "results")
    sweep.add(1, tpot=10, measured={"gpu_names": ["H200"]})
    sweep.add(2, tpot=6, measured={"gpu_names": ["H200", "H200"]})
    sweep.add(4, tpot=4)
    sweep.manifest.pop()
    sweep.write_manifest()
    assert len(pd.read_parquet(sweep.root / "cells")) == 3
    return sweep


def test_rows_of_the_matrix_alone(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rows", str(sweep.root)]) == 0
    joined = pd.read_parquet(sweep.root / "rows.parquet")
    assert sorted(joined["tp"]) == [1, 2]
    assert "rows.parquet: 2 rows of 2 planned cells" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "read"), [("r.csv", pd.read_csv), ("r.xlsx", pd.read_excel), ("r.parquet", None)]
)
def test_formats(name: str, read: object, sweep: Sweep, tmp_path: Path) -> None:
    assert main(["rows", str(sweep.root), "--output", str(tmp_path / name)]) == 0
    found = read(tmp_path / name) if callable(read) else pd.read_parquet(tmp_path / name)
    assert sorted(found["tpot_ms"]) == [6, 10]
    assert ("tpot_ms_samples" in found) == (name == "r.parquet")
    if callable(read):
        assert sorted(found["gpu_names"]) == ["H200", "H200, H200"]


def test_another_format_is_refused(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rows", str(sweep.root), "--output", "rows.json"]) == 2
    said = "'rows.json', allowed: a name that ends in .csv, .xlsx, .parquet"
    assert said in capsys.readouterr().err
