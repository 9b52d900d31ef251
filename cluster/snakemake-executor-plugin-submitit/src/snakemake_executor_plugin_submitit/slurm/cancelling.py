"""Ending jobs on Slurm."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from . import queue

END_LIMIT_S = 60.0


def cancel(jobs: Mapping[str, str], say: Callable[[str], None]) -> set[str]:
    """Cancel jobs (id -> name) and wait until Slurm has ended them; those that it has not yet."""
    left = dict(jobs)
    end = time.monotonic() + END_LIMIT_S
    while left:
        if trouble := queue.cancel(left):
            say(trouble)
        answer = queue.ask(left)
        left = {
            job: name
            for job, name in left.items()
            if not answer.squeue_answered or (job in answer.known and answer.known[job].is_alive)
        }
        if not left or time.monotonic() > end:
            break
        time.sleep(1)
    if left:
        say(f"still not ended: {', '.join(sorted(left))}; the next run follows them again")
    return set(left)
