"""Rows that cannot be read leave a failure record, by which the next run measures them again."""

from __future__ import annotations

from pathlib import Path

from tpsweep.core.failure import Failure
from tpsweep.core.results_paths import FAILURES
from tpsweep.results.load import Results, records


def leave_records(results: Path, loaded: Results) -> int:
    """A failure record for every row that ``loaded`` could not read; returns how many."""
    places = loaded.manifest.set_index("cell_id")
    found = loaded.failures[loaded.failures["type"] == "unreadable"]
    for line in records(found, ("cell_id", "type", "message")):
        place = places.loc[line["cell_id"]]
        Failure(**line, workload=str(place["workload"]), cell=str(place["path"])).write(
            results / FAILURES
        )
    return len(found)
