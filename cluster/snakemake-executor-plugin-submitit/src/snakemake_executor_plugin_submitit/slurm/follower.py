"""Sessions that Slurm has: followed by their files and by squeue, until each cell has ended."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from ..ledger import Ledger
from ..outcome import FINAL, Outcome, of_result
from ..packing import Request
from ..progress.report import Progress
from ..site import Site
from ..spool import Result, take_news
from . import queue
from .complaints import Complaints
from .followed import Followed, last_line, verdict
from .submission import logs
from .unrecorded import Unrecorded

SETTLE_S = 5.0
"""A result may become visible here this long after Slurm has called its job over, at least."""
SAY_WAIT_S = 5.0
SAY_PENDING_S = 60.0
FENCE_S = 5.0
"""What a revoked runner needs to notice, and to end its cell: more than OWNER_EVERY_S."""
SOON_S = 1.0


class Follower:
    """Follows sessions from submission to the last cell's outcome.

    ``outcomes`` are those of cells that Snakemake waits for, ``unasked`` those of sessions of an
    earlier main process, ``released`` jobs that waited for the end of one. ``on_close`` is called
    as a session ends. ``latency_s`` is how late files may become visible here.
    """

    def __init__(
        self,
        site: Site,
        ledger: Ledger,
        complaints: Complaints,
        say: Callable[[str], None],
        progress: Progress,
        on_close: Callable[[], None],
        latency_s: float,
    ) -> None:
        self.settle_s = max(SETTLE_S, latency_s)
        self.expected: set[str] = set()  # sessions whose news came before what it was about
        self.site = site
        self.unrecorded = Unrecorded(ledger)
        self.complaints = complaints
        self.say = say
        self.progress = progress
        self.on_close = on_close
        self.followed: dict[str, Followed] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.unasked: dict[str, Outcome] = {}
        self.released: list[Request] = []
        self.next_status = 0.0
        self.pending: set[str] = set()  # reasons that may not pass by themselves
        self.next_pending = 0.0

    def add(self, followed: Followed) -> None:
        """Follow one more session."""
        self.followed[followed.spec.id] = followed

    def advance(self, logdir: Path) -> None:
        """One round: results, states if it is time for them, and what follows from both."""
        for name in {*take_news(logdir), *self.expected} & self.followed.keys():
            followed = self.followed[name]
            before = len(followed.left)
            self.collect(followed)
            is_new = len(followed.left) == before and followed.spec.spool.end_reason is None
            (self.expected.add if is_new else self.expected.discard)(name)
        self.expected &= self.followed.keys()
        if self.followed and time.monotonic() >= self.next_status:
            self.ask()
        self._settle()
        self.unrecorded.look()

    def collect(self, followed: Followed) -> None:
        """Take the results that are there; they come in the order of the cells."""
        spool = followed.spec.spool
        for cell in list(followed.left):
            path = spool.result(cell.id)
            result = Result.read(path)
            if result is None and path.exists():
                continue  # nobody can read it: its cell is lost, those after it are not
            if result is None:
                if spool.end_reason is not None:  # Slurm will say more of it soon
                    self.next_status = min(self.next_status, time.monotonic() + SOON_S)
                return
            followed.left.remove(cell)
            if cell.id in followed.replaced:
                continue
            outcome = of_result(result, spool, cell.log, followed.job)
            if cell.id in followed.asked:
                self.outcomes[cell.id] = outcome
                self.unrecorded.took(cell.id, followed.spec.id)
            else:
                self.unasked[cell.id] = outcome
                if not outcome.kind and any(marker.exists() for marker in cell.markers):
                    self.unrecorded.took(cell.id, followed.spec.id)
        if not followed.left:
            self.close(followed)

    def replace(self, followed: Followed, request: Request) -> None:
        """End a session that runs an outdated version of a job; the job waits for that end."""
        if not followed.replaced:
            self.say(
                f"job {followed.job} of an earlier run does what is no longer wanted: it is "
                "cancelled, and its jobs run again when it has ended"
            )
            followed.spec.spool.revoke()
            followed.revoked_at = time.monotonic()
        followed.replaced[request.cell.id] = request
        self.next_status = 0.0

    def ask(self) -> None:
        """Note what Slurm says of each job; what stays unknown for long is lost."""
        answer = queue.ask(names(self.followed.values()))
        now = time.monotonic()
        self.next_status = now + self.site.status_seconds
        self.complaints.now("Slurm", answer.trouble)
        self._look_at_waiting(answer, now)
        for followed in self.followed.values():
            status = answer.known.get(followed.job)
            if status is not None:
                known = status.is_alive or status.is_over
                followed.unknown_since = None if known else followed.unknown_since or now
                if status.is_over and followed.over is None:
                    followed.over, followed.over_since = status, now
                elif status.is_alive:
                    followed.over = None  # requeued
                    followed.kind = followed.kind if followed.given_up else ""
                    self._note(followed, status.is_running)
            elif answer.squeue_answered:
                followed.unknown_since = followed.unknown_since or now
        replaced = {
            one.job: one.folder.name
            for one in self.followed.values()
            if one.replaced and one.job in answer.known and answer.known[one.job].is_alive
        }
        if trouble := queue.cancel(replaced):
            self.say(trouble)
        if replaced:
            self.next_status = min(self.next_status, now + SOON_S)

    def close(self, followed: Followed) -> None:
        """The session is over, and so are the cells that it has left."""
        self.on_close()
        self.unrecorded.over(followed.spec.id)
        self.followed.pop(followed.spec.id, None)
        left = [followed.taken[cell.id] for cell in followed.left if cell.id in followed.taken]
        for request in [*followed.replaced.values(), *left]:
            self.progress.moved(request.cell.id)
            self.released.append(request)

    def _note(self, followed: Followed, is_running: bool) -> None:
        if is_running != followed.is_running:
            followed.is_running = is_running
            cells = (cell.id for cell in followed.spec.cells)
            self.progress.changed(followed.spec.id, cells, is_running)

    def _look_at_waiting(self, answer: queue.Answer, now: float) -> None:
        """Say what sessions wait for, if it may be forever: at once, and once a minute."""
        found: Counter[str] = Counter()
        for followed in self.followed.values():
            status = answer.known.get(followed.job)
            if status is None:
                continue
            followed.is_pending = status.state == "PENDING"
            followed.waits_for = status.waits_for
            if not followed.waits_for:
                followed.waits_since = None
                continue
            if followed.waits_for == queue.LAUNCH_FAILED:
                self._give_up(followed, "node_failure", "its node could not start it")
                continue
            if status.state not in queue.PAUSED:
                followed.waits_since = followed.waits_since or now
            found[followed.waits_for] += 1
        if found and (found.keys() - self.pending or now >= self.next_pending):
            said = ", ".join(f"{reason} ({count} sessions)" for reason, count in found.items())
            self.say(f"waiting for {said}")
            self.next_pending = now + SAY_PENDING_S
        self.pending = set(found)

    def _settle(self) -> None:
        """Report the cells of sessions that have ended before they did."""
        now = time.monotonic()
        for followed in list(self.followed.values()):
            if followed.over is not None:
                waited = now - followed.over_since
                if waited < self.settle_s and not followed.replaced:
                    self._wait_for_results(followed, waited)
                else:
                    followed.kind = followed.kind or verdict(followed)
                    self._lose(followed, followed.kind, f"Slurm: {followed.over.said}")
            elif self._is_stuck(followed, now):
                said = f"{followed.waits_for} for {self.site.stuck_minutes:g} minutes"
                self._give_up(followed, "stuck", said)
            elif followed.unknown_since is not None:
                limit = self.site.lost_minutes
                if now - followed.unknown_since >= limit * 60:
                    said = f"neither squeue nor sacct knows it for {limit:g} minutes"
                    self._lose(followed, "lost", said)

    def stop_waiting(self) -> None:
        """Cancel sessions that have not begun: Snakemake was told to end."""
        waiting = [one for one in self.followed.values() if one.is_pending]
        if not waiting:
            return
        if trouble := queue.cancel(names(waiting), only_pending=True):
            self.say(trouble)
        for followed in waiting:
            followed.is_pending = False
            followed.given_up = "stopped by you before it began"
            followed.kind = "cancelled"
        self.next_status = min(self.next_status, time.monotonic() + SOON_S)

    def _is_stuck(self, followed: Followed, now: float) -> bool:
        limit, since = self.site.stuck_minutes, followed.waits_since
        return limit is not None and since is not None and now - since >= limit * 60

    def _give_up(self, followed: Followed, kind: str, said: str) -> None:
        """Cancel a session that somebody would have to help."""
        followed.given_up, followed.kind = said, kind
        followed.spec.spool.revoke()
        if trouble := queue.cancel(names([followed])):
            self.say(trouble)
        followed.waits_since = None
        self.next_status = min(self.next_status, time.monotonic() + SOON_S)

    def _wait_for_results(self, followed: Followed, waited: float) -> None:
        """Look for results that are there, and not visible here yet."""
        with contextlib.suppress(OSError):
            list(followed.spec.folder.iterdir())  # has a network file system ask its server
        self.collect(followed)
        if followed.left and waited >= SAY_WAIT_S and not followed.is_waited_for:
            followed.is_waited_for = True
            self.say(
                f"job {followed.job} is over ({followed.over.said if followed.over else ''}): "
                f"waiting up to {self.settle_s:g} s for {len(followed.left)} results to appear"
            )

    def _lose(self, followed: Followed, kind: str, said: str) -> None:
        """Give a session up: its cells may run again, but only when it cannot any more."""
        now = time.monotonic()
        if followed.revoked_at is None:
            followed.revoked_at = now
            followed.spec.spool.revoke()
        self.collect(followed)
        fenced = kind in ("lost", "node_failure") and now - followed.revoked_at < FENCE_S
        if fenced or not followed.left:
            return
        if followed.replaced:
            self.close(followed)
            return
        spool, job = followed.spec.spool, followed.job
        if followed.given_up:
            said = followed.given_up
        if kind == "crash" and (last := last_line(logs(followed.folder, job)[0])):
            said += f"; its log ends: {last}"
        message = (
            f"session {followed.spec.id} (job {job}) ended before this job did: {kind}, {said}"
        )
        nodes = followed.spec.nodes
        parts = [spool.log_of(node) for node in range(1, nodes)]
        places = [spool.log, *parts, *logs(followed.folder, job, nodes)]
        if kind not in FINAL or kind == "out_of_memory":  # those that had not begun try again
            again = [cell for cell in followed.left[1:] if cell.id in followed.packed]
            for cell in again:
                followed.left.remove(cell)
                self.progress.moved(cell.id)
                self.released.append(followed.packed[cell.id])
        for number, cell in enumerate(followed.left):
            # Only the first can have run, and be to blame for it.
            blamed = "crash" if kind == "out_of_memory" and number else kind
            why = f"; {path} is damaged" if (path := spool.result(cell.id)).exists() else ""
            if cell.id in followed.asked:
                logged = [cell.log, *places]
                self.outcomes[cell.id] = Outcome(blamed, message + why, logged, job)
        followed.left.clear()
        self.close(followed)


def names(followed: Iterable[Followed]) -> dict[str, str]:
    """Ids of jobs and their names, which are those of their arrays' folders."""
    return {one.job: one.folder.name for one in followed if one.job}
