"""Sessions on Slurm: submitted in arrays, followed by their files and by squeue, never lost."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from ..flags import SlurmParameters, account_of, slurm_parameters
from ..ledger import Ledger
from ..outcome import Outcome
from ..packing import PackingError, Request, Session, SessionKey
from ..progress.report import Progress
from ..site import Site, SiteError
from ..spool import has_news
from .cancelling import cancel
from .complaints import Complaints
from .environment import left_out
from .follower import Follower, names
from .recovery import Earlier, Previous
from .scripts import BatchScript
from .submitter import Submitter

NOT_IN_PATHS = re.compile(r"\\|%\d*[A-Za-z%]")
"""In the names of a job's output files: dropped by sbatch, or filled in."""


class SlurmCluster:
    """Has sessions submitted, followed, found again and cancelled, one of these at a time.

    ``say`` is told what people may want to know, one line each; ``latency_s`` is how late files may
    become visible here. Raises ``SiteError`` if nothing can be submitted from here.
    """

    def __init__(
        self,
        site: Site,
        logdir: Path,
        say: Callable[[str], None],
        progress: Progress,
        latency_s: float = 0.0,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        account_of(site, environ)  # once, and not for each of thousands of jobs
        if shutil.which("sbatch", path=environ.get("PATH")) is None:
            raise SiteError(
                "cluster: 'slurm', but there is no sbatch on PATH, allowed here: 'local'"
            )
        if bad := NOT_IN_PATHS.search(str(logdir)):
            raise SiteError(f"submitit-logdir: {str(logdir)!r}: sbatch takes no {bad[0]} in a path")
        self.site = site
        self.logdir = logdir.resolve()
        self.say = say
        self.progress = progress
        self.environ = environ
        self.lock = threading.Lock()  # a cancellation comes from another thread
        ledger = Ledger(self.logdir / "ledger.jsonl", say)
        if dropped := left_out(environ):
            say(dropped)
        if cut := site.cut_sharing:
            say(cut)
        if ledger.damaged:
            say(f"{ledger.path}: {ledger.damaged} damaged lines were left out")
        self.complaints = complaints = Complaints(say)
        self.follower = Follower(site, ledger, complaints, say, progress, self._on_close, latency_s)
        self.submitter = Submitter(site, self.logdir, ledger, self.follower, complaints, say)
        self.previous = Previous(ledger, self.logdir, self.follower, say)

    def check(self, request: Request) -> None:
        """Raise ``PackingError`` if no job could be submitted for ``request``."""
        try:
            self._parameters(request.key, request.alone_minutes)
        except SiteError as error:
            raise PackingError(str(error)) from error

    def reattach(self, request: Request) -> bool:
        """Whether to wait for a session of an earlier main process, one way or another."""
        with self.lock:
            earlier = self.previous.take(request)
            followed = self.previous.session_of(request.cell.id)
            if earlier is Earlier.TAKEN and followed is not None:
                job = request.cell.id
                self.progress.followed(followed.spec.id, job, followed.is_running)
            return earlier is not Earlier.NOTHING

    def released(self) -> list[Request]:
        """Jobs that waited for the end of an earlier session, and can be submitted now."""
        with self.lock:
            released, self.follower.released = self.follower.released, []
        return released

    def recorded(self, cell_id: str) -> None:
        """Snakemake has recorded how a job ended."""
        self.follower.unrecorded.recorded(cell_id)

    def submit(self, sessions: list[Session]) -> None:
        """Queue sessions; they are submitted with the next ``advance``."""
        with self.lock:
            for session in sessions:
                self.submitter.add(session, self._parameters(session.key, session.minutes))

    def scripts(self, sessions: list[Session]) -> list[BatchScript]:
        """The batch scripts that would be submitted for ``sessions``, and whose they are."""
        self.submit(sessions)
        scripts = self.submitter.scripts()
        self.submitter.clear()
        return scripts

    def advance(self) -> None:
        """One round: results, then states if it is time for them, then submissions."""
        with self.lock:
            try:
                self.follower.advance(self.logdir)
                self.submitter.advance()
            except OSError as error:  # a file system that is away for a moment
                self.complaints.now("the log folder", f"{error.filename}: {error.strerror}")
            else:
                self.complaints.now("the log folder", "")

    def has_news(self) -> bool:
        """Whether a session has said something since it was looked at."""
        return has_news(self.logdir)

    def outcome(self, cell_id: str) -> Outcome | None:
        """How a cell ended, given once; None until it has ended."""
        return self.follower.outcomes.pop(cell_id, None)

    def end(self) -> None:
        """Cancel the sessions whose jobs are asked for, and wait until Slurm has ended them."""
        with self.lock:
            self.submitter.clear()
            followed = self.follower.followed.values()
            asked = [one for one in followed if one.asked or one.replaced]
            left = cancel(names(asked), self.say)
            for one in asked:
                self.follower.collect(one)  # or what ended a moment ago would run again
                if one.job not in left and one.spec.id in self.follower.followed:
                    self.follower.close(one)
            self.follower.unrecorded.look()

    def stop_waiting(self) -> None:
        """Cancel what has not begun; what runs goes on."""
        with self.lock:
            for session in self.submitter.clear():
                for cell in session.cells:
                    said = "stopped by you before it was submitted"
                    self.follower.outcomes[cell.id] = Outcome("cancelled", said)
            self.follower.stop_waiting()

    def detach(self) -> None:
        """Leave what is submitted to itself; the next main process follows it."""
        with self.lock:
            self.submitter.clear()
            if going := self.follower.followed:
                self.say(f"{len(going)} sessions go on; the next run follows them again")

    def _on_close(self) -> None:
        self.submitter.there_is_room()

    def _parameters(self, key: SessionKey, minutes: float | None) -> SlurmParameters:
        whole = None if minutes is None else int(-(-minutes // 1))
        return slurm_parameters(
            key, whole, self.site, self.environ, max(key.threads, 1), key.mem_mb or None
        )
