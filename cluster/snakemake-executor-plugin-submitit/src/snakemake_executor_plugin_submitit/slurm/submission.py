"""Job arrays of sessions: submitit writes what they are and runs them, sbatch takes them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import submitit
from submitit.helpers import DelayedSubmission

from ..flags import SlurmParameters
from ..runner import run_session_in
from ..spool import write_atomically
from .programs import call
from .refusal import Refusal, RefusedError, classify

SBATCH_LIMIT_S = 300.0
"""An sbatch that has not answered by then is looked for by its name."""
SCRIPT = "submission.sh"
SESSIONS = "sessions.json"
_ID = re.compile(r"(\d+)(;\S+)?")
"""What ``sbatch --parsable`` prints: the id, and the cluster where there are several."""


class _Array(submitit.SlurmExecutor):  # type: ignore[misc]
    """submitit's executor as the author of the script; submitting is done here.

    submitit hands its whole environment to sbatch and takes the first number of its answer.
    """

    @classmethod
    def affinity(cls) -> int:
        """Usable: a script can be written without srun, and the node has its own."""
        return 1

    def script(self, count: int) -> str:
        """The batch script of an array of ``count`` elements (1: of a job)."""
        if count > 1:
            self.parameters["map_count"] = count
        text: str = self._make_submission_file_text(self._submitit_command_str, "")
        return text


def script(folder: Path, name: str, parameters: SlurmParameters, count: int, parallel: int) -> str:
    """The batch script of ``count`` sessions whose scripts and logs go to ``folder``."""
    array = _Array(folder)
    array.update_parameters(**parameters.submitit(), job_name=name, array_parallelism=parallel)
    return array.script(count)


def submit(
    folder: Path, name: str, parameters: SlurmParameters, spools: Sequence[Path], parallel: int
) -> list[str]:
    """Submit one array (or job) with an element per spool; their ids, in order.

    Scripts and logs of the array go to ``folder``. Raises ``RefusedError``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # For whoever finds the array in the queue and no ledger.
    known = {"sessions": [spool.name for spool in spools], "minutes": parameters.minutes}
    write_atomically(folder / SESSIONS, json.dumps(known))
    path = folder / SCRIPT
    path.write_text(script(folder, name, parameters, len(spools), parallel), "utf-8")
    done = call(["sbatch", "--parsable", str(path)], os.environ, SBATCH_LIMIT_S)
    if done.returncode == 0 and (array := id_in(done.stdout)) is not None:
        return adopt(folder, array, spools, parameters.minutes)
    said = " ".join(done.stderr.split()) or " ".join(done.stdout.split())
    if done.returncode == 0 or done.returncode == 124:
        raise RefusedError(Refusal.UNREACHABLE, f"sbatch: no job id in its answer: {said[-200:]}")
    refusal = classify(said)
    if refusal is not Refusal.UNREACHABLE:
        shutil.rmtree(folder, ignore_errors=True)
    raise RefusedError(refusal, said or "sbatch: failed with no error output")


def adopt(folder: Path, array: str, spools: Sequence[Path], minutes: int) -> list[str]:
    """Tell the elements of an array what to do; returns their ids.

    The names of these files hold the array's id, which sbatch has to give first; elements wait a
    minute for them.
    """
    ids = [array] if len(spools) == 1 else [f"{array}_{k}" for k in range(len(spools))]
    for job, spool in zip(ids, spools, strict=True):
        pickled = submitit.SlurmJob(folder, job).paths.submitted_pickle
        if not pickled.exists():
            order = DelayedSubmission(run_session_in, spool)
            order.set_timeout(minutes, max_num_timeout=1)
            order.dump(pickled)
    return ids


def logs(folder: Path, job: str, nodes: int = 1) -> list[Path]:
    """Output of a session's job itself: stderr, stdout, of its first node first."""
    return [folder / f"{job}_{node}_log.{end}" for node in range(nodes) for end in ("err", "out")]


def id_in(answer: str) -> str | None:
    """The last line that is an id and nothing else: sites print banners of their own."""
    found = [_ID.fullmatch(line.strip()) for line in answer.splitlines()]
    ids = [match[1] for match in found if match]
    return ids[-1] if len(ids) == 1 else None
