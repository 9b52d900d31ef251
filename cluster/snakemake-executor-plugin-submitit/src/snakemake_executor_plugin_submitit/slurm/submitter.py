"""Sessions that wait to be submitted: in arrays, as many as sbatch takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..flags import SlurmParameters
from ..ledger import Ledger
from ..outcome import REFUSED, Outcome
from ..packing import Session, renamed, spec_of
from ..site import Site
from ..spool import Spool
from . import queue
from .backoff import Backoff
from .complaints import Complaints
from .followed import Followed
from .follower import Follower
from .refusal import Refusal, RefusedError
from .scripts import DEFAULT_ARRAY_SIZE, BatchScript, batch_scripts, largest_array, new_name
from .submission import adopt, submit


@dataclass
class _Waiting:
    session: Session
    parameters: SlurmParameters


class Submitter:
    """Holds sessions until sbatch has taken them; then ``follower`` has them.

    An intent is in ``ledger`` before sbatch is called.
    """

    def __init__(
        self,
        site: Site,
        logdir: Path,
        ledger: Ledger,
        follower: Follower,
        complaints: Complaints,
        say: Callable[[str], None],
    ) -> None:
        self.site = site
        self.logdir = logdir
        self.ledger = ledger
        self.follower = follower
        self.complaints = complaints
        self.say = say
        self.workdir = Path.cwd()
        self.waiting: list[_Waiting] = []
        self.max_array_size = site.max_array_size
        self.backoff = Backoff()
        self.fits = 0  # elements that sbatch takes at a time, once it has refused more; 0: any

    def add(self, session: Session, parameters: SlurmParameters) -> None:
        """Queue a session."""
        self.waiting.append(_Waiting(session, parameters))

    def clear(self) -> list[Session]:
        """Forget what is not submitted; what it was."""
        sessions = [waiting.session for waiting in self.waiting]
        self.waiting.clear()
        return sessions

    def there_is_room(self) -> None:
        """A session has ended: what was refused may be taken now."""
        self.backoff.until = time.monotonic()

    def scripts(self) -> list[BatchScript]:
        """The batch scripts that would be submitted, with their sessions."""
        waiting = [(one.session, one.parameters) for one in self.waiting]
        return batch_scripts(waiting, self.site, self.logdir, self._max_array_size())

    def _groups(self) -> dict[SlurmParameters, list[_Waiting]]:
        groups: dict[SlurmParameters, list[_Waiting]] = {}
        for waiting in self.waiting:
            groups.setdefault(waiting.parameters, []).append(waiting)
        return groups

    def advance(self) -> None:
        """Submit what fits, one array per set of parameters, until all is out or one is refused."""
        if not self.waiting or not self.backoff.is_over:
            return
        for parameters, group in self._groups().items():
            while group:
                most = min(self._room(), largest_array(self._max_array_size()))
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
        return room if limit is None else min(room, limit - len(self.follower.followed))

    def _max_array_size(self) -> int:
        if self.max_array_size is None:
            self.max_array_size = queue.max_array_size() or DEFAULT_ARRAY_SIZE
        return self.max_array_size

    def _submit_array(self, parameters: SlurmParameters, sessions: list[Session]) -> bool:
        """Submit one array; False if sbatch does not take it now."""
        name = new_name(self.workdir)
        limit_s = parameters.minutes * 60
        environment = dict(self.site.environment)
        specs = [spec_of(one, self.logdir, environment, limit_s=limit_s) for one in sessions]
        try:
            for spec in specs:
                spec.write()
            self.ledger.intend(name, [spec.id for spec in specs], parameters.minutes)
        except OSError as error:  # nothing is submitted that could not be found again
            self.complaints.now("the ledger", f"{error.filename}: {error.strerror}")
            self.backoff.failed()
            return False
        self.complaints.now("the ledger", "")
        folder = self.logdir / name
        spools = [spec.folder for spec in specs]
        try:
            jobs = submit(folder, name, parameters, spools, self.site.parallel)
        except RefusedError as error:
            if error.refusal is not Refusal.UNREACHABLE:
                return self._refused(name, sessions, error)
            found = _look_for(name)
            if found is None:
                return self._refused(name, sessions, error)
            jobs = adopt(folder, found, spools, parameters.minutes)
        self.ledger.submitted(name, jobs)
        for spec, job, session in zip(specs, jobs, sessions, strict=True):
            cells = list(spec.cells)
            asked = {cell.id for cell in cells}
            packed = dict(session.requests)
            self.follower.add(Followed(spec, job, folder, cells, asked, packed=packed))
        total = sum(len(spec.cells) for spec in specs)
        first, last = jobs[0], f" to {jobs[-1]}" if len(jobs) > 1 else ""
        sessions_said = f"{len(jobs)} session{'' if len(jobs) == 1 else 's'}"
        self.say(f"submitted {first}{last}: {total} jobs in {sessions_said}, {parameters}")
        self.complaints.now("sbatch", "")
        self.backoff.worked()
        self.fits *= 2
        return True

    def _refused(self, name: str, sessions: list[Session], error: RefusedError) -> bool:
        """Learn from a refusal; True if the sessions are dealt with: they will never be taken."""
        self.ledger.refused(name)
        for session in sessions:
            # Should Slurm have taken it after all, its runner finds that it was revoked.
            Spool(self.logdir / session.id).revoke()
        if error.refusal is Refusal.FOR_GOOD:
            for session in sessions:
                for cell in session.cells:
                    self.follower.outcomes[cell.id] = Outcome(REFUSED, str(error))
            return True
        if len(sessions) > 1 and error.refusal in (Refusal.FULL, Refusal.TOO_LARGE):
            self.fits = len(sessions) // 2
        else:
            self.fits = int(error.refusal is Refusal.FULL)
            self.backoff.failed()
        self.complaints.now("sbatch", f"{error}; {error.refusal.value}")
        return False


def _look_for(name: str) -> str | None:
    """The array that sbatch may have taken though it failed."""
    try:
        return queue.array_named(name)
    except OSError:
        return None
