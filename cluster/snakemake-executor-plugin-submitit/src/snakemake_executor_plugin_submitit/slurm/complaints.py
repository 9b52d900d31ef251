"""Troubles with Slurm, said once each."""

from __future__ import annotations

from collections.abc import Callable


class Complaints:
    """Says what does not work, once for as long as it is the same, and when it works again."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._troubles: dict[str, str] = {}

    def now(self, what: str, trouble: str) -> None:
        """What does not work now with ``what``, in one line; "" if all does."""
        if trouble != self._troubles.get(what, ""):
            self.say(trouble or f"{what} works again")
            self._troubles[what] = trouble
