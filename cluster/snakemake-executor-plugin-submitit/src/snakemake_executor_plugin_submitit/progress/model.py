"""What is known of the jobs of this run and of their sessions: fed with events, pure.

Times are seconds on any one clock that does not go back; each event is given the time at which it
was seen. Jobs that an earlier run has done are not Snakemake's to hand over, and are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from ..packing import SessionKey
from .observed import Mean, Observed, Recent


class State(Enum):
    """Of a session."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class Kind:
    """Sessions of one kind are likely to take equally long."""

    gpu_type: str
    gpus: int


@dataclass
class SessionProgress:
    """A session as this run knows it: of one that an earlier run began, the jobs asked for here.

    ``started_at`` is when it was seen to run, None if that was not seen; ``last_at`` when something
    of it was last seen to end (a job, the start of its command). A session without command is
    ready when it starts.
    """

    name: str
    key: SessionKey
    is_reattached: bool = False
    jobs: int = 0
    done: int = 0
    failed: int = 0
    state: State = State.WAITING
    is_ready: bool = False
    started_at: float | None = None
    last_at: float | None = None
    took: Mean = field(default_factory=Mean)

    @property
    def kind(self) -> Kind:
        """What it has in common with others."""
        return Kind(self.key.gpu_type, self.key.gpus)

    @property
    def left(self) -> int:
        """Jobs whose end is still to come."""
        return self.jobs - self.done - self.failed

    @property
    def is_starting(self) -> bool:
        """Whether its command is not known to be ready."""
        return bool(self.key.command) and not self.is_ready


@dataclass
class _Job:
    key: SessionKey | None
    session: SessionProgress | None = None
    ok: bool | None = None  # None: its end is still to come


class Model:
    """Counts of jobs, the sessions that have not ended, and what was observed of those that have.

    Each event takes a time that does not depend on the number of jobs.
    """

    def __init__(self) -> None:
        self.done = self.failed = 0
        self.running = self.waiting = 0  # sessions
        self.sessions: dict[str, SessionProgress] = {}  # those that have not ended
        self.all = Observed()
        self.of_kind: dict[Kind, Observed] = {}
        self.recent = Recent()
        self.recent_gpus: dict[str, Recent] = {}
        self.gpus: dict[str, int] = {}  # in use, by type
        self._jobs: dict[str, _Job] = {}

    @property
    def jobs(self) -> int:
        """All that were handed over; one that is tried again is still one."""
        return len(self._jobs)

    @property
    def left(self) -> int:
        """Jobs whose end is still to come."""
        return self.jobs - self.done - self.failed

    def handed(self, job: str, key: SessionKey) -> None:
        """Snakemake has handed a job over, for the first time or again."""
        known = self._jobs.get(job)
        if known is not None and known.ok is not None:
            self.failed -= not known.ok
            self.done -= known.ok
        self._jobs[job] = _Job(key)

    def formed(self, name: str, key: SessionKey, jobs: Iterable[str]) -> None:
        """Jobs were packed into a session, which waits."""
        session = self._new(SessionProgress(name, key))
        for job in jobs:
            self._join(session, job)

    def followed(self, name: str, job: str, is_running: bool, now: float) -> None:
        """A job that was handed over is in a session that an earlier run has submitted."""
        known = self._jobs.get(job)
        if known is None or known.key is None:
            return
        session = self.sessions.get(name)
        if session is None:
            session = self._new(SessionProgress(name, known.key, is_reattached=True))
            if is_running:
                self._set(session, State.RUNNING, now)
        self._join(session, job)

    def moved(self, job: str, now: float) -> None:
        """A job that has not ended leaves its session; from then on it is in no session."""
        known = self._jobs.get(job)
        if known is None or known.session is None or known.ok is not None:
            return
        session, known.session = known.session, None
        session.jobs -= 1
        if not session.left and session.state is not State.ENDED:
            self._set(session, State.ENDED, now)
            self.sessions.pop(session.name, None)

    def changed(self, name: str, jobs: Iterable[str], is_running: bool, now: float) -> None:
        """A session runs, or waits again; it may have got another name since it was formed."""
        session = self.sessions.get(name) or self._of_any(jobs)
        if session is None:
            return
        if session.name != name:
            del self.sessions[session.name]
            session.name = name
            self.sessions[name] = session
        if is_running and session.state is State.WAITING:
            session.started_at = now
            self._set(session, State.RUNNING, now)
        elif not is_running and session.state is State.RUNNING:
            session.started_at, session.is_ready = None, False
            self._set(session, State.WAITING, now)

    def ready(self, name: str, took_s: float, now: float) -> None:
        """A session's command is ready, after so many seconds."""
        session = self.sessions.get(name)
        if session is None or session.is_ready:
            return
        session.is_ready = True
        session.last_at = None if session.is_reattached else now
        for observed in (self.all, self._observed(session.kind)):
            observed.start.add(took_s)

    def ended(self, job: str, ok: bool, took_s: float | None, now: float) -> SessionProgress | None:
        """A job has ended, after so many seconds of its own (None: not known, or it never ran).

        The session, if that was its last job.
        """
        known = self._jobs.setdefault(job, _Job(None))
        if known.ok is not None:
            return None
        known.ok = ok
        self.done += ok
        self.failed += not ok
        session = known.session
        if took_s is not None:
            self.all.job.add(took_s)
        if session is None:
            return None
        session.done += ok
        session.failed += not ok
        session.last_at = now
        if took_s is not None:
            session.took.add(took_s)
            self._observed(session.kind).job.add(took_s)
            if session.state is State.WAITING:  # a result may come before the word that it runs
                self._set(session, State.RUNNING, now)
        if session.left:
            return None
        self._set(session, State.ENDED, now)
        del self.sessions[session.name]
        return session

    def session_of(self, job: str) -> SessionProgress | None:
        """The session that a job is in, None if it is in none that is known."""
        known = self._jobs.get(job)
        return None if known is None else known.session

    def _observed(self, kind: Kind) -> Observed:
        return self.of_kind.setdefault(kind, Observed())

    def _new(self, session: SessionProgress) -> SessionProgress:
        self.sessions[session.name] = session
        self.waiting += 1
        return session

    def _join(self, session: SessionProgress, job: str) -> None:
        known = self._jobs.get(job)
        if known is not None and known.ok is None:
            known.session = session
            session.jobs += 1

    def _of_any(self, jobs: Iterable[str]) -> SessionProgress | None:
        known = (self._jobs.get(job) for job in jobs)
        return next((job.session for job in known if job and job.ok is None and job.session), None)

    def _set(self, session: SessionProgress, state: State, now: float) -> None:
        step = (state is State.RUNNING) - (session.state is State.RUNNING)
        self.waiting += (state is State.WAITING) - (session.state is State.WAITING)
        self.running += step
        session.state = state
        if step:
            kind = session.kind
            self.gpus[kind.gpu_type] = self.gpus.get(kind.gpu_type, 0) + step * kind.gpus
            self.recent.note(now, self.running)
            gpus = self.recent_gpus.setdefault(kind.gpu_type, Recent())
            gpus.note(now, self.gpus[kind.gpu_type])
