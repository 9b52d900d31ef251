"""What unit tests share: the clone's own results are none of theirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tpsweep.core import results_paths
from tpsweep.sweep import sweep

OWN = Path(__file__).parents[2] / "results" / results_paths.MANIFEST


@pytest.fixture(scope="session", autouse=True)
def rows_of_this_clone_do_not_count() -> Iterator[None]:
    """After `make sweep`, results/ holds rows of site local, and no other site may use it."""
    real = sweep.other_sites
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sweep, "other_sites", lambda path, site: [] if path == OWN else real(path, site)
        )
        yield
