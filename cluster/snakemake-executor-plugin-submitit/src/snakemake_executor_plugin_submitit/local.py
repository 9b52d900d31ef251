"""Sessions on this host, through submitit's local executor: a queue, its GPUs, its processes."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import submitit

from .host import device_pool
from .outcome import Outcome, of_result
from .packing import PackingError, Request, Session, SessionKey, spec_of
from .processes import start_time
from .runner import run_session_in
from .site import Site
from .spec import SessionSpec
from .spool import Result, has_news, take_news

NO_TIME_LIMIT_MIN = 60 * 24 * 365
"""submitit ends local jobs after 2 minutes unless told; the runner has limits per cell."""
SIGNAL_EVERY_S = 1.0
END_LIMIT_S = 45.0
"""More than the runner's own grace for a cell and the command: then SIGKILL."""
DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass
class _Running:
    session: Session
    spec: SessionSpec
    job: submitit.LocalJob[int]
    devices: list[str]


class LocalCluster:
    """Runs up to ``parallel`` sessions at a time; GPUs are never shared by two of them."""

    def __init__(
        self, site: Site, logdir: Path, parallel: int, on_start: Callable[[Session], None]
    ) -> None:
        logging.getLogger("submitit").setLevel(logging.CRITICAL)
        self.site = site
        self.logdir = logdir.resolve()
        self.parallel = parallel
        self.on_start = on_start
        self.gpus = device_pool()
        # A processor has no devices to hand out, but it has no room for more sessions either.
        slots = [known.per_node for known in site.gpus.values() if known.is_cpu]
        self.cpus = [f"cpu{number}" for number in range(max(slots, default=0))]
        self.free = {*self.gpus, *self.cpus}
        self.waiting: list[Session] = []
        self.running: list[_Running] = []
        self.outcomes: dict[str, Outcome] = {}
        self.lock = threading.Lock()  # a cancellation comes from another thread

    def check(self, request: Request) -> None:
        """Raise ``PackingError`` if ``request`` asks for more GPUs than this host has."""
        key = request.key
        pool = self._pool(key)
        if key.gpus > len(pool):
            raise PackingError(
                f"gpus: {key.gpus} of {key.gpu_type}, "
                f"allowed: up to {len(pool)} (what this host has, or {DEVICES} leaves)"
            )

    def reattach(self, request: Request) -> bool:
        """Never: a session on this host does not outlive its main process."""
        return False

    def released(self) -> list[Request]:
        """None: no job waits for a session of an earlier main process."""
        return []

    def recorded(self, cell_id: str) -> None:
        """Nothing is kept for a next main process."""

    def stop_waiting(self) -> None:
        """End what has not begun; what runs goes on."""
        with self.lock:
            for session in self.waiting:
                for cell in session.cells:
                    said = "stopped by you before it began"
                    self.outcomes[cell.id] = Outcome("cancelled", said)
            self.waiting.clear()

    def detach(self) -> None:
        """Never: the executor does not ask for it."""
        self.end()

    def submit(self, sessions: list[Session]) -> None:
        """Queue sessions; they start as others end."""
        with self.lock:
            self.waiting += sessions

    def advance(self) -> None:
        """Collect what has ended, then start what now has room."""
        with self.lock:
            take_news(self.logdir)  # all are looked at
            for running in list(self.running):
                self._collect(running)
            for session in list(self.waiting):
                if len(self.running) < self.parallel and self._fits(session.key):
                    self.waiting.remove(session)
                    self._start(session)

    def has_news(self) -> bool:
        """Whether a session that runs has said something since it was looked at."""
        return has_news(self.logdir)

    def outcome(self, cell_id: str) -> Outcome | None:
        """How a cell ended, given once; None until it has ended."""
        return self.outcomes.pop(cell_id, None)

    def end(self) -> None:
        """Forget what waits, end what runs, and wait for sessions that only clean up."""
        with self.lock:
            self.waiting.clear()
        end = time.monotonic() + END_LIMIT_S
        next_signal = 0.0
        while left := [running for running in self.running if not running.job.done()]:
            if time.monotonic() > end:
                for running in left:
                    _signal(running, signal.SIGKILL)
                return
            if time.monotonic() > next_signal:
                next_signal = time.monotonic() + SIGNAL_EVERY_S
                for running in left:
                    if running.spec.cells:
                        _signal(running, signal.SIGINT)
            time.sleep(0.05)

    def _collect(self, running: _Running) -> None:
        """Move results out of the spool; what a dead session left without one is lost."""
        alive = not running.job.done()  # asked first: its last result comes before its end
        spec, spool = running.spec, running.spec.spool
        for cell in list(running.spec.cells):
            result = Result.read(spool.result(cell.id))
            if result is not None:
                self.outcomes[cell.id] = of_result(result, spool, cell.log)
            elif not alive:
                kind = spool.end_reason or "crash"
                message = f"session {spec.id} ended before this job did: {kind}"
                places = [cell.log, spool.log, running.job.paths.stderr]
                self.outcomes[cell.id] = Outcome(kind, message, places)
            else:
                break  # cells run in this order
            running.spec.cells.remove(cell)
        if not alive:
            self.running.remove(running)
            self.free.update(running.devices)

    def _pool(self, key: SessionKey) -> list[str]:
        if not key.gpu_type:
            return []
        return self.cpus if self.site.gpus[key.gpu_type].is_cpu else self.gpus

    def _fits(self, key: SessionKey) -> bool:
        return len(self.free.intersection(self._pool(key))) >= key.gpus

    def _start(self, session: Session) -> None:
        pool = self._pool(session.key)
        devices = [device for device in pool if device in self.free][: session.key.gpus]
        self.free.difference_update(devices)
        # submitit sets the variable for its task, in its own way: the runner sets it again.
        visible = os.environ.get(DEVICES) if pool is self.cpus else ",".join(devices)
        spec = self._spec(session, {**self.site.environment, DEVICES: visible})
        spec.write()
        executor = submitit.LocalExecutor(spec.folder / "submitit")
        executor.update_parameters(timeout_min=NO_TIME_LIMIT_MIN)
        with _signals_left_to_the_runner():
            job = executor.submit(run_session_in, spec.folder)
        self.running.append(_Running(session, spec, job, devices))
        self.on_start(session)

    def _spec(self, session: Session, environment: dict[str, str | None]) -> SessionSpec:
        me = os.getpid()
        started = start_time(me)
        watched = None if started is None else (me, started)
        return spec_of(session, self.logdir, environment, watched=watched)


@contextlib.contextmanager
def _signals_left_to_the_runner() -> Iterator[None]:
    """Start submitit's controller deaf to the terminal's signals.

    Ctrl-C reaches every process of the terminal; the controller would answer by killing the
    runner after a second, in the middle of its cleaning up. The mask is inherited.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _signal(running: _Running, number: int) -> None:
    """To the runner itself if it is up; else to submitit's controller, as SIGTERM."""
    try:
        os.kill(int(running.spec.spool.pid.read_text("utf-8")), number)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(running.job.job_id), signal.SIGTERM)
