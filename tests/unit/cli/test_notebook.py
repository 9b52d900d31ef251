"""The notebook of docs/, run on the smoke run's rows: its cells in order, as plain Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import pytest

from tpsweep.cli.main import main

ROOT = Path(__file__).parents[3]


def test_the_notebook_runs_on_real_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mpl.use("Agg")
    shutil.copytree(ROOT / "results/smoke", tmp_path / "results")
    assert main(["rows", str(tmp_path / "results")]) == 0
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "docs/first-look.ipynb").read_text("utf-8"))["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert list(names["decode"].columns) == [1, 2]
    assert (names["speed_up"][1] == 1).all()
    first: pd.Series[float] = names["speed_up"][2]
    assert (first > 1).all()
    assert (tmp_path / "first-look.svg").stat().st_size > 1000
