"""Rows that several tests look at, read once."""

from __future__ import annotations

import tarfile

import pytest

from tests.unit.analysis.recommend_rows import ARCHIVE
from tpsweep.analysis.recommend.inputs import Inputs
from tpsweep.results.load import load, records


@pytest.fixture(scope="package")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Rows of 8B and 70B on two H200s, three starts; nodes of two."""
    folder = tmp_path_factory.mktemp("published")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    found = load(folder / "h200x2-one-engine")
    return Inputs(records(found.rows), {"H200": 3.6}, [folder])
