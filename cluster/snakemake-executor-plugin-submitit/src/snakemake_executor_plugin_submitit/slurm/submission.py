"""Job arrays of sessions, written and submitted by submitit."""

from __future__ import annotations

import enum
import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import submitit
from submitit.helpers import DelayedSubmission

from ..flags import SlurmParameters
from ..runner import run_session_in


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


def submit(
    folder: Path, name: str, parameters: SlurmParameters, spools: Sequence[Path], parallel: int
) -> list[str]:
    """Submit one array (or job) with an element per spool; their ids, in order.

    Scripts and logs of the array go to ``folder``. Raises ``RefusedError``.
    """
    logging.getLogger("submitit").setLevel(logging.CRITICAL)
    try:
        executor = submitit.SlurmExecutor(folder)
    except RuntimeError as error:  # no srun here
        raise RefusedError(Refusal.FOR_GOOD, str(error)) from error
    executor.update_parameters(**parameters.submitit(), job_name=name, array_parallelism=parallel)
    try:
        jobs = executor.map_array(run_session_in, spools)
    except RuntimeError as error:  # what submitit raises for an sbatch that failed
        said = " ".join(str(error).split()) or "sbatch: failed without a word"
        refusal = classify(said)
        if refusal is not Refusal.UNREACHABLE:
            shutil.rmtree(folder, ignore_errors=True)  # submitit leaves a pickle per element
        raise RefusedError(refusal, said) from error
    return [str(job.job_id) for job in jobs]


def adopt(folder: Path, array: str, spools: Sequence[Path], minutes: int) -> list[str]:
    """Take over an array that sbatch took without our hearing of it; the ids of its elements.

    submitit writes what an element is to do after sbatch has answered, and elements wait a minute
    for it: it is written now.
    """
    ids = [array] if len(spools) == 1 else [f"{array}_{k}" for k in range(len(spools))]
    for job, spool in zip(ids, spools, strict=True):
        pickled = submitit.SlurmJob(folder, job).paths.submitted_pickle
        if not pickled.exists():
            order = DelayedSubmission(run_session_in, spool)
            order.set_timeout(minutes, max_num_timeout=1)
            order.dump(pickled)
    return ids


def logs(folder: Path, job: str) -> list[Path]:
    """Output of a session's job itself: stderr, stdout."""
    return [folder / f"{job}_0_log.{end}" for end in ("err", "out")]


def classify(said: str) -> Refusal:
    """What to do about what sbatch said."""
    if _FULL.search(said):
        return Refusal.FULL
    if _TOO_LARGE.search(said):
        return Refusal.TOO_LARGE
    return Refusal.UNREACHABLE if _UNREACHABLE.search(said) else Refusal.FOR_GOOD
