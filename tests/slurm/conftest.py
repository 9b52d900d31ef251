"""A private Slurm for the tests of this folder, one for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.lab import Lab, missing_programs
from tests.slurm.workflow import SlurmWorkflow


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Slurm with five nodes in three partitions; skipped where its programs are missing."""
    if lacking := missing_programs():
        pytest.skip(f"no {', '.join(lacking)}: install/slurm.sh installs them")
    with Lab(tmp_path_factory.mktemp("slurm")) as lab:
        yield lab


@pytest.fixture
def flow(lab: Lab, tmp_path: Path) -> SlurmWorkflow:
    """A folder for one workflow on that Slurm."""
    return SlurmWorkflow(tmp_path, lab.env())
