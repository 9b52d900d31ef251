"""What was observed, kept small: means, and the largest of the last two minutes. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

RECENT_S = 120.0
"""What ran side by side so long ago says what will: a session may lie between two others."""


@dataclass
class Mean:
    """The mean of what was seen, in seconds."""

    total_s: float = 0.0
    count: int = 0

    def add(self, seconds: float) -> None:
        """One more."""
        self.total_s += seconds
        self.count += 1

    @property
    def value_s(self) -> float | None:
        """None until something was seen."""
        return self.total_s / self.count if self.count else None


@dataclass
class Observed:
    """How long jobs took, and how long commands took to become ready."""

    job: Mean = field(default_factory=Mean)
    start: Mean = field(default_factory=Mean)


class Recent:
    """The largest value of the last ``RECENT_S`` seconds, of one that changes in steps."""

    def __init__(self) -> None:
        self.steps: deque[tuple[float, int]] = deque()

    def note(self, now: float, value: int) -> None:
        """From ``now`` on the value is another."""
        self.steps.append((now, value))
        self._forget(now)

    def most(self, now: float) -> int:
        """The largest; 0 if there never was a value."""
        self._forget(now)
        return max((value for _, value in self.steps), default=0)

    def _forget(self, now: float) -> None:
        # A step counts until the next one: the last before the window is of it.
        while len(self.steps) > 1 and self.steps[1][0] <= now - RECENT_S:
            self.steps.popleft()
