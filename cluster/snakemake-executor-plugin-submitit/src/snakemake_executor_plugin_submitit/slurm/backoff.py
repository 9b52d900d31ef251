"""Waiting longer and longer with what does not work."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

RETRY_S = 5.0
LONGEST_RETRY_S = 120.0


@dataclass
class Backoff:
    """When to try again what did not work, longer each time."""

    wait_s: float = 0.0
    until: float = field(default_factory=time.monotonic)

    def failed(self) -> None:
        """It did not work: wait twice as long as last time."""
        self.wait_s = min(max(2 * self.wait_s, RETRY_S), LONGEST_RETRY_S)
        self.until = time.monotonic() + self.wait_s

    def worked(self) -> None:
        """It worked: the next failure waits for the shortest time again."""
        self.wait_s = 0.0

    @property
    def is_over(self) -> bool:
        """Whether it may be tried."""
        return time.monotonic() >= self.until
