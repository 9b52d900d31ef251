"""Sessions of an earlier main process that was killed, found again from the ledger."""

from __future__ import annotations

import enum
import json
import time
from collections.abc import Callable
from pathlib import Path

from ..ledger import Entry, Ledger
from ..packing import Request
from ..spec import Cell, SessionSpec
from ..wanted import is_newer
from . import queue
from .followed import Followed
from .follower import FENCE_S, Follower
from .queue import Status
from .submission import SESSIONS, adopt


class Earlier(enum.Enum):
    """What sessions of an earlier main process mean for a job."""

    NOTHING = "it must run"
    TAKEN = "its outcome comes from one of them"
    IN_THE_WAY = "it must run once one of them has ended"


class Previous:
    """The one place that decides whether an earlier session does what is wanted now.

    Raises ``OSError`` if it is not known whether sbatch took one and Slurm cannot be asked.
    """

    def __init__(
        self, ledger: Ledger, logdir: Path, follower: Follower, say: Callable[[str], None]
    ) -> None:
        self.follower = follower
        self.sessions: dict[str, tuple[str, Cell]] = {}  # by cell
        for followed in find_previous(ledger, logdir, follower, say):
            for cell in followed.spec.cells:
                self.sessions[cell.id] = followed.spec.id, cell

    def take(self, request: Request) -> Earlier:
        """Have a job's outcome from an earlier session, if that does what is wanted."""
        wanted = request.cell
        session, earlier = self.sessions.get(wanted.id, ("", wanted))
        is_same = not request.is_asked_anew and earlier.wanted == wanted.wanted
        outcome = self.follower.unasked.pop(wanted.id, None)
        if outcome is not None:
            # It ended after Snakemake had looked for its outputs; the session has no more to do
            # with it.
            is_good = not outcome.kind and request.outputs
            if is_same and is_good and is_newer(request.outputs, request.inputs):
                self.follower.outcomes[wanted.id] = outcome
                return Earlier.TAKEN
            self.follower.unrecorded.recorded(wanted.id)
            return Earlier.NOTHING
        followed = self.follower.followed.get(session)
        if followed is None or all(cell.id != wanted.id for cell in followed.left):
            return Earlier.NOTHING
        if not is_same:
            self.follower.replace(followed, request)
            return Earlier.IN_THE_WAY
        followed.asked.add(wanted.id)
        followed.taken[wanted.id] = request
        return Earlier.TAKEN

    def session_of(self, cell_id: str) -> Followed | None:
        """The session that a job was found in, as long as it is followed."""
        session, _ = self.sessions.get(cell_id, ("", None))
        return self.follower.followed.get(session)


def find_previous(
    ledger: Ledger, logdir: Path, follower: Follower, say: Callable[[str], None]
) -> list[Followed]:
    """Have ``follower`` follow the sessions that Slurm still has; all that were still open.

    Raises ``OSError`` if it is not known whether sbatch took one and Slurm cannot be asked.
    """
    if ledger.is_new or ledger.damaged:
        _find_unlisted(ledger, logdir, say)
    for entry in list(ledger.entries.values()):
        for followed in _find_entry(entry, ledger, logdir, say):
            follower.add(followed)
    found = list(follower.followed.values())
    if not found:
        return []
    jobs = 0
    cut_off = False
    follower.ask()
    for followed in found:
        follower.collect(followed)
        if followed.over is not None:
            # Nothing runs any more: what has no output is requested again.
            follower.close(followed)
            if followed.left and queue.OVER[followed.over.state] == "node_failure":
                followed.spec.spool.revoke()
                cut_off = True
        else:
            jobs += len(followed.left)
    if cut_off:  # a node that was lost may live on: its runners have to notice
        time.sleep(FENCE_S)
    if follower.followed:
        say(f"reattached to {len(follower.followed)} sessions, {jobs} jobs to come")
    return found


def _find_entry(
    entry: Entry, ledger: Ledger, logdir: Path, say: Callable[[str], None]
) -> list[Followed]:
    """The open sessions of one submission, as far as sbatch took it."""
    specs: dict[str, SessionSpec] = {}
    for session in list(entry.sessions):
        try:
            specs[session] = SessionSpec.read(logdir / session)
        except (OSError, ValueError, KeyError, TypeError) as error:
            say(f"session {session}: its specification is gone: {error}")
            ledger.close(session)
    folder = logdir / entry.name
    if specs and not entry.jobs:
        # Killed while sbatch ran: did Slurm take it?
        array = queue.array_named(entry.name)
        if array is None and not any(_has_results(spec) for spec in specs.values()):
            ledger.refused(entry.name)
            return []
        if array is None:  # it has ended, and Slurm has forgotten it
            over = Status(entry.name, "COMPLETED", "COMPLETED")
            return [
                Followed(spec, "", folder, list(spec.cells), set(), over=over)
                for spec in specs.values()
            ]
        size = max(entry.sessions.values()) + 1
        places = {position: session for session, position in entry.sessions.items()}
        spools = [logdir / places.get(k, "") for k in range(size)]
        ledger.submitted(entry.name, adopt(folder, array, spools, entry.minutes))
    return [
        Followed(spec, entry.job_of(session), folder, list(spec.cells), set())
        for session, spec in specs.items()
    ]


def _has_results(spec: SessionSpec) -> bool:
    return any(spec.spool.result(cell.id).exists() for cell in spec.cells)


def _find_unlisted(ledger: Ledger, logdir: Path, say: Callable[[str], None]) -> None:
    """Enter submissions that the ledger has lost: they have folders, and names in the queue."""
    folders = {path.parent for path in logdir.glob(f"*/{SESSIONS}")}
    unlisted = [folder for folder in sorted(folders) if folder.name not in ledger.entries]
    if not unlisted:
        return
    alive = queue.mine()
    found = 0
    for folder in unlisted:
        try:
            known = json.loads((folder / SESSIONS).read_text("utf-8"))
            sessions, minutes = list(known["sessions"]), int(known["minutes"])
            specs = [SessionSpec.read(logdir / session) for session in sessions]
        except (OSError, ValueError, KeyError, TypeError) as error:
            say(f"{folder}: cannot be read: {error}")
            continue
        unrecorded = any(
            marker.exists() for spec in specs for cell in spec.cells for marker in cell.markers
        )
        if folder.name in alive or unrecorded:
            ledger.intend(folder.name, sessions, minutes)
            found += folder.name in alive
    if found:
        say(f"{ledger.path}: incomplete; {found} arrays were found by their names in the queue")
