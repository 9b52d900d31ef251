"""A private Slurm for the tests of this folder, one for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.slurm.lab import Lab, missing_programs
from tests.slurm.lab_config import LabConfig
from tests.slurm.workflow import SlurmWorkflow


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Slurm with five nodes in three partitions; skipped where its programs are missing."""
    skip_without_slurm()
    with Lab(tmp_path_factory.mktemp("slurm")) as lab:
        yield lab


@pytest.fixture
def new_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[LabConfig], Lab]]:
    """Brings up further labs, each with its own configuration; all are down after the test."""
    skip_without_slurm()
    with ExitStack() as stack:

        def bring_up(config: LabConfig) -> Lab:
            # Not below the test's own folder: a lab's path must be short.
            return stack.enter_context(Lab(tmp_path_factory.mktemp("lab"), config))

        yield bring_up


@pytest.fixture
def flow(lab: Lab, tmp_path: Path) -> SlurmWorkflow:
    """A folder for one workflow on that Slurm."""
    return SlurmWorkflow(tmp_path, lab.env())


def skip_without_slurm() -> None:
    """On CI this skip is a failure: see REAL_PARTS in tests/conftest.py."""
    if lacking := missing_programs():
        pytest.skip(f"no {', '.join(lacking)}: install/slurm.sh installs them")
