"""A status round with many finished cells does as much as one with none: counted, not timed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

import pytest

from tests.bench.rounds import PER_SESSION, Queue


def calls_of_a_round(queue: Queue) -> int:
    """Calls of functions, Python's and C's, in one round."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        queue.cluster.follower.next_status = 0.0
        queue.cluster.advance()
        for cell in queue.pending:
            queue.cluster.outcome(cell)
        queue.progress.look()
    finally:
        sys.setprofile(None)
    return count


def test_finished_cells_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    queue = Queue(tmp_path)
    monkeypatch.setenv("PATH", queue.environ["PATH"])
    waiting = queue.submit("waits", PER_SESSION)
    queue.round()
    before = calls_of_a_round(queue)
    for name in ("a", "b", "c"):
        queue.submit(name, 2 * PER_SESSION)
        queue.finish(name)
    queue.round()
    assert queue.pending == waiting
    # Lines of squeue alone may differ; every finished cell would be at least one call.
    assert abs(calls_of_a_round(queue) - before) < PER_SESSION
