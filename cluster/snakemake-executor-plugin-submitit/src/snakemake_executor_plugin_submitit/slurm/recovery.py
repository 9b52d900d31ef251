"""Sessions of an earlier main process that was killed, found again from the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ..ledger import Entry, Ledger
from ..spec import SessionSpec
from . import queue
from .followed import Followed
from .follower import FENCE_S, Follower
from .submission import adopt


def find_previous(
    ledger: Ledger, logdir: Path, follower: Follower, say: Callable[[str], None]
) -> dict[str, str]:
    """Have ``follower`` follow the sessions that Slurm still has: cell -> session.

    Raises ``OSError`` if it is not known whether sbatch took one and Slurm cannot be asked.
    """
    for entry in list(ledger.entries.values()):
        for followed in _find_entry(entry, ledger, logdir, say):
            follower.add(followed)
    if not follower.followed:
        return {}
    found: dict[str, str] = {}
    follower.ask()
    for session, followed in list(follower.followed.items()):
        follower.collect(followed)
        if followed.over is not None:
            # Nothing runs any more: what has no output is asked for anew.
            follower.close(followed)
            if followed.left and queue.OVER[followed.over.state] == "node_failure":
                followed.spec.spool.revoke()
                time.sleep(FENCE_S)
        else:
            found.update((cell.id, session) for cell in followed.left)
    if follower.followed:
        say(f"reattached to {len(follower.followed)} sessions, {len(found)} jobs to come")
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
        if array is None:
            ledger.refused(entry.name)
            return []
        size = max(entry.sessions.values()) + 1
        places = {position: session for session, position in entry.sessions.items()}
        spools = [logdir / places.get(k, "") for k in range(size)]
        ledger.submitted(entry.name, adopt(folder, array, spools, entry.minutes))
    return [
        Followed(spec, entry.job_of(session), folder, list(spec.cells), set())
        for session, spec in specs.items()
    ]
