"""What a session does on each of its nodes: start programs, and end them all. Standard library
only."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import FrameType

from .clock import Clock
from .expansion import ExpansionError, expand
from .processes import (
    adopt_orphans,
    die_with_parent,
    dying_with,
    end_group,
    kill_descendants,
    reap_orphans,
    start_time,
)
from .spec import SessionSpec
from .spool import REVOKED

REASONS = {
    signal.SIGTERM: "preempted",
    signal.SIGHUP: "preempted",
    signal.SIGINT: "cancelled",
}
WATCH_EVERY_S = 0.5
OWNER_EVERY_S = 2.0
"""Between two looks at who owns the session: a file that may be on a far file system."""
NEAR_LIMIT_S = 120.0
"""A scheduler announces the time limit by SIGTERM up to this long before it."""


class Task:
    """The session's command, or its part, on this node; ``log`` takes its output.

    ``token`` is the owner's that this runner works for; None as long as it knows none.
    """

    def __init__(
        self, spec: SessionSpec, folder: Path, supervisor: int, token: str | None, log: Path
    ) -> None:
        self.spec = spec
        self.folder = folder
        self.supervisor = supervisor
        self.token = token
        self.log = log
        self.clock = Clock()
        self.began = self.clock.now()
        self.command: subprocess.Popen[bytes] | None = None
        self.stopped: str | None = None
        self.next_watch = self.next_owner = 0.0
        self.unset = ""  # why the site's environment cannot be had here
        self.environment = {
            **{key: value for key, value in os.environ.items() if key not in spec.environment},
            **self._site_environment(),
            "SESSION_DIR": str(folder),
            "SESSION_ID": spec.id,
            "SESSION_LOG": str(log),
        }

    def _site_environment(self) -> dict[str, str]:
        given = {key: value for key, value in self.spec.environment.items() if value is not None}
        try:
            return {key: expand(key, value, os.environ) for key, value in given.items()}
        except ExpansionError as error:
            self.unset = str(error)
            return {}

    def _guard(self) -> None:
        """Take signals and orphans, and do not outlive the supervisor."""
        for number in REASONS:
            signal.signal(number, self._on_signal)
        adopt_orphans()
        die_with_parent(self.supervisor, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, REASONS)

    def _popen(
        self, argv: list[str], log: Path, environment: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a program as the leader of its own process group.

        Not of its own session: a kernel that shares processors between sessions (autogroup) lets
        an engine that spins while it waits keep all other sessions off them for a second.
        Raises ``OSError``, also for an environment that cannot be had.
        """
        if self.unset:
            raise OSError(self.unset)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.spec.workdir,
                env={**self.environment, **environment},
                process_group=0,
                preexec_fn=dying_with(os.getpid(), signal.SIGKILL),
            )

    def _end_command(self) -> None:
        """End the command and all that it, or a cell, left behind."""
        if self.command is not None:
            end_group(self.command.pid, self.spec.grace_s)
        kill_descendants(os.getpid())
        if self.command is not None:
            self.command.wait()
            self.command = None
        reap_orphans(set())

    def _must_stop(self) -> bool:
        """A signal came, the watched process is gone, or the session is another's by now."""
        now = self.clock.now()
        if self.spec.watched is not None and now > self.next_watch:
            self.next_watch = now + WATCH_EVERY_S
            pid, started = self.spec.watched
            if start_time(pid) != started:
                self.stopped = self.stopped or "cancelled"
        if now > self.next_owner:
            self.next_owner = now + OWNER_EVERY_S
            with contextlib.suppress(OSError):  # not to be reached for a moment
                owner = self.spec.spool.owner
                if owner == REVOKED or (self.token is not None and owner != self.token):
                    self.stopped = REVOKED
        return self.stopped is not None

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        reason = REASONS[signal.Signals(number)]
        if self.spec.watched is not None:  # no scheduler takes this host away: somebody ends us
            reason = "cancelled"
        limit = self.spec.limit_s
        if limit is not None and self.clock.now() - self.began > limit - NEAR_LIMIT_S:
            reason = "timeout"  # the scheduler's announcement of it
        self.stopped = self.stopped or reason


def empty(folder: Path) -> None:
    """Remove what is in a folder."""
    for entry in list(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


def exit_text(code: int) -> str:
    """How a program ended, for a message that begins with its name."""
    return f"was ended by signal {-code}" if code < 0 else f"exited with {code}"
