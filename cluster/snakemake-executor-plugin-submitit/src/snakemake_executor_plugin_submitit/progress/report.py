"""Progress as the executor reports it: a block on a terminal, plain lines everywhere else."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError

from ..outcome import Outcome
from ..packing import Request, Session
from ..spool import Spool
from .model import Model, SessionProgress, State
from .terminal import Block
from .text import block, ended_line, last_line, total_line

MODES = ("auto", "plain", "none")
BLOCK_EVERY_S = 1.0
READY_EVERY_S = 5.0
"""Between two looks for commands that have become ready: a file each, maybe far away."""


class Progress:
    """Takes what happens from any thread, and says it when looked at; it has no thread of its own.

    ``every_s`` seconds lie between two plain lines. ``handler`` is Snakemake's own and writes to a
    terminal, which then gets a block instead of them.
    """

    def __init__(
        self,
        is_on: bool,
        say: Callable[[str], None],
        logdir: Path,
        every_s: float,
        handler: logging.StreamHandler[Any] | None = None,
    ) -> None:
        self.say = say
        self.logdir = logdir
        self.every_s = every_s
        self.model = Model()
        self.lock = threading.RLock()
        self.is_on = is_on
        self.block: Block | None = None
        self.handler = handler
        self.began_at: float | None = None
        self.next_look = self.next_ready = 0.0
        self.said = (0, 0, 0, 0, 0)

    def handed(self, request: Request) -> None:
        """Snakemake has handed a job over."""
        with self.lock:
            self._begin()
            self.model.handed(request.cell.id, request.key)

    def formed(self, sessions: list[Session]) -> list[Session]:
        """These sessions wait from now on; returned as they are."""
        with self.lock:
            for session in sessions:
                self.model.formed(session.id, session.key, (cell.id for cell in session.cells))
        return sessions

    def followed(self, session: str, job: str, is_running: bool) -> None:
        """A job is in a session of an earlier main process."""
        with self.lock:
            self.model.followed(session, job, is_running, time.monotonic())

    def moved(self, job: str) -> None:
        """A job leaves the session that it was in, and will be in another."""
        with self.lock:
            self.model.moved(job, time.monotonic())

    def changed(self, session: str, jobs: Iterable[str], is_running: bool) -> None:
        """A session runs, or is back in the queue."""
        with self.lock:
            self.model.changed(session, jobs, is_running, time.monotonic())

    def ended(self, job: str, outcome: Outcome) -> None:
        """A job has ended; if its session has, that is said."""
        with self.lock:
            self._begin()
            now = time.monotonic()
            if (began := self.model.session_of(job)) is not None:
                self._find_ready(began, now)  # it may have ended before it was looked at
            session = self.model.ended(job, not outcome.kind, outcome.seconds, now)
            line = None if session is None else ended_line(session, now)
            # One job alone, in no session of the user's: Snakemake's own words will do.
            is_worth_it = session is not None and (session.jobs > 1 or session.key.session)
        if line and is_worth_it and self.is_on:
            self.say(line)

    def look(self) -> None:
        """Say what is due: to be called often."""
        with self.lock:
            now = time.monotonic()
            if not self.is_on or self.began_at is None:
                return
            if now >= self.next_ready:
                self.next_ready = now + READY_EVERY_S
                for running in list(self.model.sessions.values()):
                    self._find_ready(running, now)
            if now < self.next_look:
                return
            if self.handler is not None:
                self.next_look = now + BLOCK_EVERY_S
                self._show(self.handler, now)
            elif (counts := self._counts()) != self.said:
                self.next_look = now + self.every_s
                self.said = counts
                self.say(total_line(self.model, now))

    def stopped(self) -> str:
        """What to say when the user has ended Snakemake."""
        with self.lock:
            done = self.model.done
            left = self.model.jobs - done
        return f"stopped by you: {done} jobs done, {left} left; the same command continues"

    def close(self) -> None:
        """Remove the block and say what it came to; nothing more is said or shown then."""
        with self.lock:
            is_on, self.is_on = self.is_on, False
            if self.block is not None:
                self.block.remove()
                atexit.unregister(self.block.remove)
            if is_on and self.began_at is not None:
                self.say(last_line(self.model, time.monotonic() - self.began_at))

    def _begin(self) -> None:
        if self.began_at is None:
            self.began_at = time.monotonic()
            self.next_look = self.began_at + (BLOCK_EVERY_S if self.handler else self.every_s)

    def _counts(self) -> tuple[int, int, int, int, int]:
        model = self.model
        return model.jobs, model.done, model.failed, model.running, model.waiting

    def _find_ready(self, session: SessionProgress, now: float) -> None:
        if session.state is State.RUNNING and session.is_starting:
            took_s = Spool(self.logdir / session.name).ready_after_s
            if took_s is not None:
                self.model.ready(session.name, took_s, now)

    def _show(self, handler: logging.StreamHandler[Any], now: float) -> None:
        if self.block is None:
            self.block = Block(handler.stream)
            self.block.install(handler)
            atexit.register(self.block.remove)  # whatever ends Snakemake without a word to us
        self.block.show(block(self.model, now, *self.block.size()))


def progress_of(settings: Any, is_quiet: bool, logger: logging.Logger, logdir: Path) -> Progress:
    """As the executor's settings say; raises ``WorkflowError`` for what they may not be."""
    asked, every_s = settings.progress, settings.progress_seconds
    if asked not in MODES:
        raise WorkflowError(f"submitit-progress: {asked!r}, allowed: {', '.join(MODES)}")
    if every_s < 0:
        raise WorkflowError(f"submitit-progress-seconds: {every_s}, allowed: >= 0")
    handler = _on_terminal(logger) if asked == "auto" else None
    is_on = asked != "none" and not is_quiet
    return Progress(is_on, logger.info, logdir, float(every_s), handler)


def _on_terminal(logger: logging.Logger) -> logging.StreamHandler[Any] | None:
    """The handler that writes to a terminal, if it is one that can move its cursor."""
    if os.environ.get("TERM", "dumb") == "dumb":
        return None
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream.isatty():
            return handler  # a log file's is one, too, but no terminal
    return None
