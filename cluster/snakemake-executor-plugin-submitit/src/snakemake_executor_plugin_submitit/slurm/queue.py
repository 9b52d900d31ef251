"""What Slurm says of jobs: squeue first, sacct for what squeue has forgotten.

One call of each for all jobs. The states are those of squeue's and sacct's manual pages ("JOB
STATE CODES"); a state that is in no set is taken for unknown, never for a success.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from .programs import call, one_line

ALIVE = frozenset(
    [
        "PENDING",
        "RUNNING",
        "COMPLETING",
        "CONFIGURING",
        "REQUEUED",
        "REQUEUE_FED",
        "REQUEUE_HOLD",
        "RESIZING",
        "RESV_DEL_HOLD",
        "SIGNALING",
        "SPECIAL_EXIT",
        "STAGE_OUT",
        "STOPPED",
        "SUSPENDED",
        "EXPEDITING",
    ]
)
"""The job runs, or will run (again) without our doing."""
RUNNING = frozenset(
    ["RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"]
)
"""Those of them in which it has its nodes."""
OVER = {
    "COMPLETED": "crash",  # of the session: the job itself ended well, its cells did not
    "FAILED": "crash",
    "LAUNCH_FAILED": "node_failure",
    "RECONFIG_FAIL": "node_failure",
    "BOOT_FAIL": "node_failure",
    "NODE_FAIL": "node_failure",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
    "DEADLINE": "timeout",
    "TIMEOUT": "timeout",
    "OUT_OF_MEMORY": "out_of_memory",
    "PREEMPTED": "preempted",
}
"""Final states, and what they mean for cells that had not ended."""
WAITING = frozenset(["None", "", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime"])
"""Reasons to be pending that pass by themselves."""
LAUNCH_FAILED = "launch_failed_requeued_held"
"""The reason of a job that a node could not start, where jobs are requeued."""
PAUSED = frozenset(["SUSPENDED", "STOPPED"])
HELD = frozenset(["SPECIAL_EXIT", "REQUEUE_HOLD", "RESV_DEL_HOLD"])
"""States in which a job waits for somebody."""
_NO_SUCH_JOB = re.compile(r"Invalid job id", re.IGNORECASE)


@dataclass(frozen=True)
class Status:
    """A job as Slurm has it: ``state`` is one word, ``said`` all that Slurm said of it."""

    name: str
    state: str
    said: str
    reason: str = ""

    @property
    def is_alive(self) -> bool:
        """It runs or will run."""
        return self.state in ALIVE

    @property
    def is_running(self) -> bool:
        """It has its nodes."""
        return self.state in RUNNING

    @property
    def waits_for(self) -> str:
        """Why it does not run, if that does not pass by itself as the queue moves; else ""."""
        if self.state in PAUSED | HELD:
            return self.state
        is_held = self.state == "PENDING" and self.reason not in WAITING
        return self.reason.replace(" ", "_") if is_held else ""

    @property
    def is_over(self) -> bool:
        """It will never run again."""
        return self.state in OVER


@dataclass(frozen=True)
class Answer:
    """What was found of the jobs asked for, by id (``12`` or ``12_3``).

    ``squeue_answered``: the controller could be reached, so that it does not know the jobs that
    are not here. ``trouble`` is one line on what could not be asked, "" if all could.
    """

    known: dict[str, Status]
    squeue_answered: bool
    trouble: str = ""


def ask(names: Mapping[str, str]) -> Answer:
    """What Slurm knows of jobs: id -> name; never raises for a Slurm that cannot be reached.

    A job with another name is another job: a controller that lost its state reuses ids.
    """
    words = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r|%j"]
    done = _ask([*words, f"--jobs={_roots(names)}"])
    trouble = ""
    known: dict[str, Status] = {}
    answered = done.returncode == 0 or bool(_NO_SUCH_JOB.search(done.stderr))
    if answered:
        known = _keep(parse(done.stdout), names)
    else:
        trouble = one_line("squeue", done.stderr)
    missing = {job: name for job, name in names.items() if job not in known}
    if missing and answered:
        words = ["sacct", "--noheader", "--parsable2", "--allocations"]
        done = _ask([*words, "--format=JobID,State,Reason,JobName", f"--jobs={_roots(missing)}"])
        if done.returncode == 0:
            # A job that accounting has as running though the controller does not know it is a
            # "runaway job": it never ended in the books, and does not run.
            found = _keep(parse(done.stdout), missing)
            known |= {job: status for job, status in found.items() if not status.is_alive}
        else:
            trouble = one_line("sacct", done.stderr)
    return Answer(known, answered, trouble)


def array_named(name: str) -> str | None:
    """The id of the array (or job) called ``name``; None if Slurm knows none.

    Raises ``OSError`` if Slurm cannot be asked: then it is not known whether there is one.
    """
    done = _ask(["squeue", "--noheader", "--states=all", "--format=%F", f"--name={name}"])
    if done.returncode != 0:
        raise OSError(one_line("squeue", done.stderr))
    if found := [word for word in done.stdout.split() if word.isdigit()]:
        return found[0]
    words = ["sacct", "--noheader", "--parsable2", "--allocations", "--starttime=now-14days"]
    done = _ask([*words, "--format=JobID", f"--name={name}"])
    found = done.stdout.split() if done.returncode == 0 else []
    return found[0].partition("_")[0] if found else None


def mine() -> dict[str, str]:
    """The arrays (or jobs) of this user that are in the queue: name -> id; raises ``OSError``."""
    done = _ask(["squeue", "--noheader", "--format=%F|%j", f"--user={os.getuid()}"])
    if done.returncode != 0:
        raise OSError(one_line("squeue", done.stderr))
    lines = (line.partition("|") for line in done.stdout.splitlines())
    return {name: job for job, _, name in lines if name}


def cancel(jobs: Mapping[str, str], only_pending: bool = False) -> str:
    """Cancel jobs (id -> name); what scancel could not do, in one line ("" if nothing).

    A job with another name is another job: a controller that lost its state reuses ids.
    """
    trouble = ""
    for name in sorted(set(jobs.values())):
        ids = sorted(job for job, its in jobs.items() if its == name)
        words = ["--state=PENDING"] if only_pending else []
        done = _ask(["scancel", f"--name={name}", *words, *ids])
        if done.returncode != 0 and not _NO_SUCH_JOB.search(done.stderr):
            trouble = one_line("scancel", done.stderr)
    return trouble


def was_refused_by_its_node(job: str) -> bool:
    """Whether a prolog has failed: Slurm drains the node, and cancels the job for all to see."""
    words = ["--noheader", "--parsable2", "--allocations", "--format=NodeList", f"--jobs={job}"]
    done = _ask(["sacct", *words])
    nodes = done.stdout.strip() if done.returncode == 0 else ""
    if not nodes or nodes.startswith("None"):
        done = _ask(["squeue", "--noheader", "--states=all", "--format=%N", f"--jobs={job}"])
        nodes = done.stdout.strip() if done.returncode == 0 else ""
    if not nodes:
        return False
    done = _ask(["sinfo", "--noheader", "--Node", f"--nodes={nodes}", "--format=%E"])
    return "prolog" in done.stdout.lower()


def max_array_size() -> int | None:
    """MaxArraySize of the cluster: one more than the highest index; None if it does not say."""
    found = re.search(
        r"^MaxArraySize\s*=\s*(\d+)", _ask(["scontrol", "show", "config"]).stdout, re.M
    )
    return int(found[1]) if found else None


def parse(text: str) -> dict[str, Status]:
    """Lines ``id|state|reason|name`` of squeue or sacct.

    A state may go on: ``CANCELLED by 1000``. No reason is ``None``.
    """
    found = {}
    for line in text.splitlines():
        fields = line.split("|", 3)
        if len(fields) == 4 and fields[1]:
            job, state, reason, name = fields
            found[job] = Status(name, state.split()[0].rstrip("+"), state, reason)
    return found


def _keep(found: dict[str, Status], names: Mapping[str, str]) -> dict[str, Status]:
    return {job: status for job, status in found.items() if names.get(job) == status.name}


def _roots(ids: Collection[str]) -> str:
    """Arrays by their own id: a thousand elements are asked for by one number."""
    return ",".join(sorted({job.partition("_")[0] for job in ids}, key=int))


def _ask(words: list[str]) -> subprocess.CompletedProcess[str]:
    return call(words, {**os.environ, "LC_ALL": "C"})
