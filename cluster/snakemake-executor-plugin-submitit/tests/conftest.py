"""Fixtures, and the path to the helpers (pytest's importlib mode adds none)."""

import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from session_testing import Workflow

# Started in the background of a shell, tests would hand on that Ctrl-C is ignored; some type it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    """A folder for one workflow."""
    return Workflow(tmp_path)
