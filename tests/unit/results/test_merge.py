"""Several results folders as one: days of a sweep are runs of it, copies are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.made_up import Sweep
from tpsweep.analysis.series import Source
from tpsweep.results.load import Results, ResultsError
from tpsweep.results.merge import load_all
from tpsweep.tables import tp_comparison


def day(root: Path, name: str, tpot: float | None, tp: int = 1, **axes: object) -> Path:
    sweep = Sweep(root / name)
    axes = {"measured": {"engine_id": name}, **axes}
    sweep.add(tp, tpot=tpot, cell_id=f"tp{tp}", run=0, **(axes if tpot else {}))
    sweep.write_manifest()
    return sweep.root


def runs(results: Results) -> list[tuple[str, int, str]]:
    return [
        (cell["cell_id"].partition("@")[0], cell["run"], cell["state"])
        for _, cell in results.manifest.iterrows()
    ]


def test_days_of_a_sweep_are_runs_of_it(tmp_path: Path) -> None:
    folders = [day(tmp_path, f"day{i}", 8.0 + 0.1 * i) for i in range(3)]
    results = load_all(folders)
    assert runs(results) == [("tp1", i, "measured") for i in range(3)]
    assert sorted(results.rows["tpot_ms"]) == [8.0, 8.1, 8.2]
    (line,) = tp_comparison.build(Source(results)).records
    assert line["runs"] == 3 and line["tpot_ms"] == pytest.approx((8.0 * 8.1 * 8.2) ** (1 / 3))
    assert line["interval_kind"] == "between runs"


def test_a_copy_is_no_run(tmp_path: Path) -> None:
    one = day(tmp_path, "a", 8.0)
    other = day(tmp_path, "b", 8.0, measured={"engine_id": "a"})
    results = load_all([one, other, one])
    assert runs(results) == [("tp1", 0, "measured")] and len(results.rows) == 1


def test_a_hole_is_filled_from_another_folder(tmp_path: Path) -> None:
    empty, full = day(tmp_path, "a", None), day(tmp_path, "b", 8.0)
    for folders in ([empty, full], [full, empty], [empty, full, empty]):
        assert runs(load_all(folders)) == [("tp1", 0, "measured")]
    assert runs(load_all([empty, empty])) == [("tp1", 0, "missing")]


def test_other_cells_stand_beside_each_other(tmp_path: Path) -> None:
    results = load_all([day(tmp_path, "a", 8.0), day(tmp_path, "b", 5.0, tp=2)])
    assert runs(results) == [("tp1", 0, "measured"), ("tp2", 0, "measured")]


def test_a_folder_without_a_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"none/matrix\.parquet: no such manifest"):
        load_all([day(tmp_path, "a", 8.0), tmp_path / "none"])
