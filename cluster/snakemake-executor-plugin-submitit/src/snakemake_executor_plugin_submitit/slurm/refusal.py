"""What sbatch says when it does not take a job, and what to do about it."""

from __future__ import annotations

import enum
import re


class Refusal(enum.Enum):
    """What to do about an sbatch that failed."""

    FULL = "wait until there is room, or submit fewer at a time"
    TOO_LARGE = "submit smaller arrays"
    UNREACHABLE = "it may have been taken: look for it, then submit again"
    FOR_GOOD = "it will never be taken"


class RefusedError(Exception):
    """sbatch failed; its text is what sbatch said, in one line."""

    def __init__(self, refusal: Refusal, said: str) -> None:
        super().__init__(said)
        self.refusal = refusal


# The words are those of Slurm's slurm_strerror() and of the reasons in squeue's manual page.
_FULL = re.compile(
    r"(QOS|Assoc)(Max|Grp)Submit|MaxSubmitJob|"
    r"(QOS|Assoc)(Max|Grp)Jobs?(PerUser|PerAccount|Limit)|"
    r"job count|Too many|temporarily unable to accept|Resource temporarily unavailable",
    re.IGNORECASE,
)
_TOO_LARGE = re.compile(r"Invalid job array specification", re.IGNORECASE)
_UNREACHABLE = re.compile(
    r"Unable to contact|Socket timed out|Connection (refused|reset|timed out)|Zero Bytes|"
    r"communication|Transport endpoint|controller|Unexpected message|in standby",
    re.IGNORECASE,
)


def classify(said: str) -> Refusal:
    """What to do about what sbatch said."""
    if _FULL.search(said):
        return Refusal.FULL
    if _TOO_LARGE.search(said):
        return Refusal.TOO_LARGE
    return Refusal.UNREACHABLE if _UNREACHABLE.search(said) else Refusal.FOR_GOOD
