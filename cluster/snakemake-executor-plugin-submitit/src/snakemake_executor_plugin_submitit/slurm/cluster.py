"""Sessions on Slurm: submitted in arrays, followed by their files and by squeue, never lost."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..flags import SlurmParameters, account_of, slurm_parameters
from ..ledger import Entry, Ledger
from ..outcome import REFUSED, Outcome, of_result
from ..packing import PackingError, Request, Session, SessionKey, renamed, spec_of
from ..progress.report import Progress
from ..site import Site, SiteError
from ..spec import SessionSpec
from ..spool import Result, Spool, take_news
from . import queue
from .backoff import Backoff
from .followed import Followed, last_line, verdict
from .queue import Status
from .submission import Refusal, RefusedError, adopt, logs, submit

DEFAULT_ARRAY_SIZE = 1001
"""Slurm's own default of MaxArraySize."""
SETTLE_S = 5.0
"""A result may become visible here this long after Slurm has called its job over."""
FENCE_S = 5.0
"""What a revoked runner needs to notice, and to end its cell: more than OWNER_EVERY_S."""
SOON_S = 1.0
END_LIMIT_S = 60.0


@dataclass
class _Waiting:
    session: Session
    parameters: SlurmParameters


class SlurmCluster:
    """Follows sessions from packing to the last cell's outcome.

    ``say`` is told what people may want to know, one line each. Raises ``SiteError`` if nothing can
    be submitted from here.
    """

    def __init__(
        self,
        site: Site,
        logdir: Path,
        say: Callable[[str], None],
        progress: Progress,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        account_of(site, environ)  # once, and not for each of thousands of jobs
        if shutil.which("sbatch", path=environ.get("PATH")) is None:
            raise SiteError(
                "cluster: 'slurm', but there is no sbatch on PATH, allowed here: 'local'"
            )
        self.site = site
        self.logdir = logdir.resolve()
        self.say = say
        self.progress = progress
        self.environ = environ
        self.workdir = Path.cwd()
        self.ledger = Ledger(self.logdir / "ledger.jsonl")
        self.waiting: list[_Waiting] = []
        self.followed: dict[str, Followed] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.unasked: dict[str, Outcome] = {}  # of sessions of an earlier main process
        self.largest_array = site.max_array_size
        self.submit_backoff = Backoff()
        self.fits = 0  # elements that sbatch takes at a time, once it has refused more; 0: any
        self.next_status = 0.0
        self.trouble = ""
        self.pending: dict[str, int] = {}  # reasons that may not pass by themselves -> sessions
        self.lock = threading.Lock()  # a cancellation comes from another thread
        if self.ledger.damaged:
            say(f"{self.ledger.path}: {self.ledger.damaged} damaged lines were left out")
        self.previous = self._find_previous()  # cell -> session, of an earlier main process

    def check(self, request: Request) -> None:
        """Raise ``PackingError`` if no job could be submitted for ``request``."""
        try:
            self._parameters(request.key, request.alone_minutes)
        except SiteError as error:
            raise PackingError(str(error)) from error

    def reattach(self, request: Request) -> bool:
        """Follow a job's session of an earlier main process, if it has one that is still up."""
        wanted = request.cell
        with self.lock:
            outcome = self.unasked.pop(wanted.id, None)
            outputs = wanted.stale
            if outcome is not None and not outcome.kind and outputs:
                # It ended well after Snakemake had looked for its outputs.
                if all(path.exists() for path in outputs):
                    self.outcomes[wanted.id] = outcome
                    return True
                return False
            followed = self.followed.get(self.previous.get(wanted.id, ""))
            cells = followed.left if followed else []
            cell = next((cell for cell in cells if cell.id == wanted.id), None)
            if followed is None or cell is None:
                return False
            if request.is_stable and cell.argv != wanted.argv:
                raise PackingError(
                    f"job {followed.job} still runs this job with another command: wait for it, "
                    f"or scancel {followed.job}"
                )
            followed.asked.add(cell.id)
            self.progress.followed(followed.spec.id, cell.id, followed.is_running)
            return True

    def submit(self, sessions: list[Session]) -> None:
        """Queue sessions; they are submitted with the next ``advance``."""
        with self.lock:
            for session in sessions:
                parameters = self._parameters(session.key, session.minutes)
                self.waiting.append(_Waiting(session, parameters))

    def advance(self) -> None:
        """One round: results, then states if it is time for them, then submissions."""
        with self.lock:
            for name in take_news(self.logdir):
                if name in self.followed:
                    self._collect(self.followed[name])
            if self.followed and time.monotonic() >= self.next_status:
                self._ask()
            self._settle()
            if self.waiting and self.submit_backoff.is_over:
                self._submit()

    def outcome(self, cell_id: str) -> Outcome | None:
        """How a cell ended, given once; None as long as it has not."""
        return self.outcomes.pop(cell_id, None)

    def end(self) -> None:
        """Cancel the sessions whose jobs are asked for, and wait until Slurm has ended them."""
        with self.lock:
            self.waiting.clear()
            self._cancel()

    def detach(self) -> None:
        """Leave what is submitted to itself; the next main process follows it."""
        with self.lock:
            self.waiting.clear()
            if self.followed:
                self.say(f"{len(self.followed)} sessions go on; the next run follows them again")

    @staticmethod
    def _names(followed: Iterable[Followed]) -> dict[str, str]:
        """Ids of jobs and their names, which are those of their arrays' folders."""
        return {one.job: one.folder.name for one in followed}

    def _cancel(self) -> None:
        jobs = self._names(followed for followed in self.followed.values() if followed.asked)
        end = time.monotonic() + END_LIMIT_S
        while jobs:
            if trouble := queue.cancel(jobs):
                self.say(trouble)
            answer = queue.ask(jobs)
            jobs = {
                job: name
                for job, name in jobs.items()
                if not answer.squeue_answered
                or (job in answer.known and answer.known[job].is_alive)
            }
            if not jobs or time.monotonic() > end:
                break
            time.sleep(1)
        if jobs:
            self.say(f"still not ended: {', '.join(sorted(jobs))}; the next run follows them again")
        for followed in list(self.followed.values()):
            if followed.asked and followed.job not in jobs:
                self._close(followed)

    # Submission.

    def _parameters(self, key: SessionKey, minutes: float | None) -> SlurmParameters:
        whole = None if minutes is None else int(-(-minutes // 1))
        return slurm_parameters(
            key, whole, self.site, self.environ, max(key.threads, 1), key.mem_mb or None
        )

    def _submit(self) -> None:
        """Submit what fits, one array per set of parameters, until all is out or one is refused."""
        groups: dict[SlurmParameters, list[_Waiting]] = {}
        for waiting in self.waiting:
            groups.setdefault(waiting.parameters, []).append(waiting)
        for parameters, group in groups.items():
            while group:
                most = min(self._room(), self._largest_array())
                if most < 1:
                    return
                chunk, group = group[:most], group[most:]
                if not self._submit_array(parameters, [waiting.session for waiting in chunk]):
                    for waiting in chunk:  # under another id: that one was revoked
                        waiting.session = renamed(waiting.session)
                    return
                done = {id(waiting) for waiting in chunk}
                self.waiting = [waiting for waiting in self.waiting if id(waiting) not in done]

    def _room(self) -> int:
        """How many more elements may be in the queue now."""
        limit = self.site.submit_limit()
        room = self.fits or DEFAULT_ARRAY_SIZE * 1000
        return room if limit is None else min(room, limit - len(self.followed))

    def _largest_array(self) -> int:
        if self.largest_array is None:
            self.largest_array = queue.max_array_size() or DEFAULT_ARRAY_SIZE
        return self.largest_array - 1  # MaxArraySize is one more than the highest index

    def _submit_array(self, parameters: SlurmParameters, sessions: list[Session]) -> bool:
        """Submit one array; False if sbatch does not take it now."""
        name = f"{_readable(self.workdir.name)}-{uuid.uuid4().hex[:8]}"
        limit_s = parameters.minutes * 60
        environment = dict(self.site.environment)
        specs = [spec_of(one, self.logdir, environment, limit_s=limit_s) for one in sessions]
        for spec in specs:
            spec.write()
        self.ledger.intend(name, [spec.id for spec in specs], parameters.minutes)
        folder = self.logdir / name
        spools = [spec.folder for spec in specs]
        try:
            jobs = submit(folder, name, parameters, spools, self.site.parallel)
        except RefusedError as error:
            if error.refusal is not Refusal.UNREACHABLE:
                return self._refused(name, sessions, error)
            found = self._look_for(name)
            if found is None:
                return self._refused(name, sessions, error)
            jobs = adopt(folder, found, spools, parameters.minutes)
        self.ledger.submitted(name, jobs)
        for spec, job in zip(specs, jobs, strict=True):
            cells = list(spec.cells)
            asked = {cell.id for cell in cells}
            self.followed[spec.id] = Followed(spec, job, folder, cells, asked)
        total = sum(len(spec.cells) for spec in specs)
        first, last = jobs[0], f" to {jobs[-1]}" if len(jobs) > 1 else ""
        sessions_said = f"{len(jobs)} session{'' if len(jobs) == 1 else 's'}"
        self.say(f"submitted {first}{last}: {total} jobs in {sessions_said}, {parameters}")
        self.submit_backoff.worked()
        self.fits *= 2
        return True

    def _look_for(self, name: str) -> str | None:
        """The array that sbatch may have taken though it failed."""
        try:
            return queue.array_named(name)
        except OSError:
            return None

    def _refused(self, name: str, sessions: list[Session], error: RefusedError) -> bool:
        """Learn from a refusal; True if the sessions are dealt with: they will never be taken."""
        self.ledger.refused(name)
        for session in sessions:
            # Should Slurm have taken it after all, its runner finds that it was revoked.
            Spool(self.logdir / session.id).revoke()
        if error.refusal is Refusal.FOR_GOOD:
            for session in sessions:
                for cell in session.cells:
                    self.outcomes[cell.id] = Outcome(REFUSED, str(error))
            return True
        if len(sessions) > 1 and error.refusal in (Refusal.FULL, Refusal.TOO_LARGE):
            self.fits = len(sessions) // 2
        else:
            self.fits = int(error.refusal is Refusal.FULL)
            self.submit_backoff.failed()
        self._complain(f"{error}; {error.refusal.value}")
        return False

    # Following.

    def _find_previous(self) -> dict[str, str]:
        """Sessions of an earlier main process that Slurm still has: cell -> session."""
        found: dict[str, str] = {}
        for entry in list(self.ledger.entries.values()):
            self._find_entry(entry)
        if not self.followed:
            return found
        self._ask()
        for session, followed in list(self.followed.items()):
            self._collect(followed)
            if followed.over is not None:
                # Nothing runs any more: what has no output is asked for anew.
                self._close(followed)
                if followed.left and queue.OVER[followed.over.state] == "node_failure":
                    followed.spec.spool.revoke()
                    time.sleep(FENCE_S)
            else:
                found.update((cell.id, session) for cell in followed.left)
        if self.followed:
            self.say(f"reattached to {len(self.followed)} sessions, {len(found)} jobs to come")
        return found

    def _find_entry(self, entry: Entry) -> None:
        specs: dict[str, SessionSpec] = {}
        for session in entry.sessions:
            try:
                specs[session] = SessionSpec.read(self.logdir / session)
            except (OSError, ValueError, KeyError, TypeError) as error:
                self.say(f"session {session}: its specification is gone: {error}")
                self.ledger.close(session)
        folder = self.logdir / entry.name
        if specs and not entry.jobs:
            # Killed while sbatch ran: did Slurm take it?
            array = queue.array_named(entry.name)
            if array is None:
                self.ledger.refused(entry.name)
                return
            size = max(entry.sessions.values()) + 1
            places = {position: session for session, position in entry.sessions.items()}
            spools = [self.logdir / places.get(k, "") for k in range(size)]
            self.ledger.submitted(entry.name, adopt(folder, array, spools, entry.minutes))
        for session, spec in specs.items():
            job = entry.job_of(session)
            self.followed[session] = Followed(spec, job, folder, list(spec.cells), set())

    def _collect(self, followed: Followed) -> None:
        """Take the results that are there; they come in the order of the cells."""
        spool = followed.spec.spool
        while followed.left:
            cell = followed.left[0]
            result = Result.read(spool.result(cell.id))
            if result is None:
                if spool.end_reason is not None:  # Slurm will say more of it soon
                    self.next_status = min(self.next_status, time.monotonic() + SOON_S)
                return
            followed.left.pop(0)
            outcomes = self.outcomes if cell.id in followed.asked else self.unasked
            outcomes[cell.id] = of_result(result, spool, cell.log, followed.job)
        self._close(followed)

    def _ask(self) -> None:
        """Note what Slurm says of each job; what nobody knows for long is lost."""
        answer = queue.ask(self._names(self.followed.values()))
        now = time.monotonic()
        self.next_status = now + self.site.status_seconds
        self._complain(answer.trouble)
        self._say_pending(answer.known.values())
        for followed in self.followed.values():
            status = answer.known.get(followed.job)
            if status is not None:
                known = status.is_alive or status.is_over
                followed.unknown_since = None if known else followed.unknown_since or now
                if status.is_over and followed.over is None:
                    followed.over, followed.over_since = status, now
                elif status.is_alive:
                    followed.over = None  # requeued
                    self._note(followed, status.is_running)
            elif answer.squeue_answered:
                followed.unknown_since = followed.unknown_since or now

    def _note(self, followed: Followed, is_running: bool) -> None:
        if is_running != followed.is_running:
            followed.is_running = is_running
            cells = (cell.id for cell in followed.spec.cells)
            self.progress.changed(followed.spec.id, cells, is_running)

    def _say_pending(self, known: Iterable[Status]) -> None:
        """Say why sessions wait, if it may be for ever; once for as long as it is the same."""
        reasons = (status.reason for status in known if status.state == "PENDING")
        found = dict(Counter(reason for reason in reasons if reason not in queue.WAITING))
        if found.keys() - self.pending.keys():
            said = ", ".join(f"{reason} ({count} sessions)" for reason, count in found.items())
            self.say(f"pending: {said}")
        self.pending = found

    def _settle(self) -> None:
        """Report the cells of sessions that have ended before they did."""
        now = time.monotonic()
        for followed in list(self.followed.values()):
            if followed.over is not None:
                if now - followed.over_since >= SETTLE_S:
                    self._lose(followed, verdict(followed), f"Slurm: {followed.over.said}")
            elif followed.unknown_since is not None:
                limit = self.site.lost_minutes
                if now - followed.unknown_since >= limit * 60:
                    said = f"neither squeue nor sacct knows it for {limit:g} minutes"
                    self._lose(followed, "lost", said)

    def _lose(self, followed: Followed, kind: str, said: str) -> None:
        """Give a session up: its cells may run again, but only when it cannot any more."""
        now = time.monotonic()
        if followed.revoked_at is None:
            followed.revoked_at = now
            followed.spec.spool.revoke()
        self._collect(followed)
        fenced = kind in ("lost", "node_failure") and now - followed.revoked_at < FENCE_S
        if fenced or not followed.left:
            return
        spool, job = followed.spec.spool, followed.job
        if kind == "crash" and (last := last_line(logs(followed.folder, job)[0])):
            said += f"; its log ends: {last}"
        message = (
            f"session {followed.spec.id} (job {job}) ended before this job did: {kind}, {said}"
        )
        places = [spool.log, *logs(followed.folder, job)]
        for number, cell in enumerate(followed.left):
            # Only the first can have run, and be to blame for it.
            blamed = "crash" if kind == "out_of_memory" and number else kind
            if cell.id in followed.asked:
                self.outcomes[cell.id] = Outcome(blamed, message, [cell.log, *places], job)
        followed.left.clear()
        self._close(followed)

    def _close(self, followed: Followed) -> None:
        self.submit_backoff.until = time.monotonic()  # there is room for another
        try:
            self.ledger.close(followed.spec.id)
        except OSError as error:  # the next run will find that it is over
            self.say(f"{self.ledger.path}: {error.strerror}")
        self.followed.pop(followed.spec.id, None)

    def _complain(self, trouble: str) -> None:
        """Say what does not work, once, and when it works again."""
        if trouble != self.trouble:
            self.say(trouble or "Slurm answers again")
            self.trouble = trouble


def _readable(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:32].strip("._-") or "snakemake"
