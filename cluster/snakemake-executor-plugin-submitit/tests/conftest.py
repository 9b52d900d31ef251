"""Fixtures, and the path to the helpers (pytest's importlib mode adds none)."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from session_testing import Workflow


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    """A folder for one workflow."""
    return Workflow(tmp_path)
