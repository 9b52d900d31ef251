"""The captures under results/ are small, and give the reports that are published beside them."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.published import FOLDERS
from tools.cut_captures import captures, is_cut
from tpsweep import traces

ROOT = Path(__file__).parents[2]
MOST_BYTES = 15_000_000
WITHOUT_TRACES = {"h200x2-layouts"}
"""Their README says so: they have the reports and pictures only."""
PUBLISHED = sorted(
    row
    for at in FOLDERS
    if at.name not in WITHOUT_TRACES
    for row in at.glob("cells/capture/**/*.parquet")
)


def report_of(row: Path) -> Path:
    """Where the stage ``communication`` leaves the report on a row's capture."""
    root = next(folder for folder in row.parents if folder.name == "cells").parent
    place = row.relative_to(root / "cells/capture").with_suffix(".comm.json")
    return root / "captures" / place


def test_there_are_published_captures() -> None:
    assert len(PUBLISHED) >= 17


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row.parts[-7]}-{row.stem}")
def test_a_published_capture_gives_its_report(row: Path) -> None:
    made = json.loads(json.dumps(traces.analyse([row]).to_dict()))
    assert made == json.loads(report_of(row).read_text("utf-8"))


def test_results_stay_small() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "results"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode:
        pytest.skip("no git checkout")
    files = [ROOT / name for name in tracked.stdout.split("\0") if name]
    sizes = {file: file.stat().st_size for file in files if file.exists()}
    assert sum(sizes.values()) < MOST_BYTES, sorted(sizes, key=sizes.__getitem__)[-5:]


def test_every_published_capture_is_cut() -> None:
    whole = [file for files in captures(FOLDERS) for file in files if not is_cut(file)]
    assert not whole, "run: python -m tools.cut_captures results"
