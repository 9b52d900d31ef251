"""Troubles with Slurm, said once each."""

from __future__ import annotations

from collections.abc import Callable


class Complaints:
    """Says what does not work, once for as long as it is the same, and when it works again."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._trouble = ""

    def now(self, trouble: str) -> None:
        """What does not work now, in one line; "" if all does."""
        if trouble != self._trouble:
            self.say(trouble or "Slurm answers again")
            self._trouble = trouble
