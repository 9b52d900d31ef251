"""Time in which a process could do something. Standard library only."""

from __future__ import annotations

import time

LONGEST_GAP_S = 10.0
"""More time between two looks than any load explains: the process was stopped meanwhile."""


class Clock:
    """Seconds that do not go on while the process is stopped (a job suspended by an admin).

    It has to be looked at several times a minute.
    """

    def __init__(self) -> None:
        self._stopped_s = 0.0
        self._last = time.monotonic()

    def now(self) -> float:
        """Seconds on this clock."""
        now = time.monotonic()
        if now - self._last > LONGEST_GAP_S:
            self._stopped_s += now - self._last
        self._last = now
        return now - self._stopped_s
