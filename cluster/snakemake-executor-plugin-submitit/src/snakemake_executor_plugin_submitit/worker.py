"""The command and the cells of one session, one after another. Standard library only."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from .clock import Clock
from .expansion import ExpansionError, expand
from .memory import oom_kills
from .processes import (
    adopt_orphans,
    die_with_parent,
    dying_with,
    end_group,
    kill_descendants,
    reap_orphans,
    signal_group,
    start_time,
)
from .spec import Cell, SessionSpec
from .spool import REVOKED, Result, now

READY, FAILED, END_REASON = "ready", "failed", "cell_end_reason"
REASONS = {
    signal.SIGTERM: "preempted",
    signal.SIGHUP: "preempted",
    signal.SIGINT: "cancelled",
}
MOST_STARTS = 2
"""Failed starts in a row after which the command is not started again."""
POLL_S = 0.02
WATCH_EVERY_S = 0.5
OWNER_EVERY_S = 2.0
"""Between two looks at who owns the session: a file that may be on a far file system."""
NEAR_LIMIT_S = 120.0
"""A scheduler announces the time limit by SIGTERM up to this long before it."""
DYING_S = 0.5
"""After a failed cell, for a command that it took along to be seen gone."""
NO_ROOM_BYTES = 64 << 10
WRITE_LIMIT_S = 60.0
"""A result that cannot be written (a full disk) is tried for this long."""


class Worker:
    """The command and the cells of one session."""

    def __init__(self, spec: SessionSpec, folder: Path, supervisor: int, token: str) -> None:
        self.spec = spec
        self.folder = folder
        self.supervisor = supervisor
        self.token = token
        self.clock = Clock()
        self.began = self.clock.now()
        self.command: subprocess.Popen[bytes] | None = None
        self.failed_starts = 0
        self.stopped: str | None = None
        self.next_watch = self.next_owner = 0.0
        self.spare = spec.folder / ".spare"
        self.unset = ""  # why the site's environment cannot be had here
        self.environment = {
            **{key: value for key, value in os.environ.items() if key not in spec.environment},
            **self._site_environment(),
            "SESSION_DIR": str(folder),
            "SESSION_ID": spec.id,
            "SESSION_LOG": str(spec.spool.log),
        }

    def _site_environment(self) -> dict[str, str]:
        given = {key: value for key, value in self.spec.environment.items() if value is not None}
        try:
            return {key: expand(key, value, os.environ) for key, value in given.items()}
        except ExpansionError as error:
            self.unset = str(error)
            return {}

    def run(self) -> int:
        """All cells in order; 1 if the session was told to end first."""
        for number in REASONS:
            signal.signal(number, self._on_signal)
        adopt_orphans()
        die_with_parent(self.supervisor, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, REASONS)
        with contextlib.suppress(OSError):
            Result(0).write(self.spare)
        try:
            for order, cell in enumerate(self.spec.cells):
                if Result.read(self.spec.spool.result(cell.id)) is not None:
                    continue  # it ended before this session was cut off and run again
                self._ensure_command()
                if self._must_stop():
                    break
                result = self._run_cell(order, cell)
                if not result.ok and self.command is not None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self.command.wait(DYING_S)
                if self.stopped and not result.ok:
                    break  # cut off: no result, so that whoever comes next runs it again
                self._report(cell, result)
                if result.reason:
                    self._end_command()
        finally:
            self._end_command()
            shutil.rmtree(self.folder, ignore_errors=True)
        if self.stopped and self.stopped != REVOKED:
            self.spec.spool.end(self.stopped)
        return 1 if self.stopped else 0

    def _report(self, cell: Cell, result: Result) -> None:
        """Have the main process know the result; raises ``OSError`` after ``WRITE_LIMIT_S``."""
        end = time.monotonic() + WRITE_LIMIT_S
        while True:
            try:
                if result.ok:
                    _mark(cell)  # a nested Snakemake has removed them
                result.write(self.spec.spool.result(cell.id))
                self.spec.spool.tell()
                return
            except OSError as error:
                if result.ok and self._report_by_renaming(cell):
                    return
                if time.monotonic() > end or self._must_stop():
                    raise
                print(f"{cell.id}: result not written yet: {error}", file=sys.stderr)
                time.sleep(1)

    def _report_by_renaming(self, cell: Cell) -> bool:
        """Say that a cell ended well where there is no room to write it; False if that fails too.

        Its outputs are complete, and nobody would believe it.
        """
        try:
            self.spare.replace(self.spec.spool.result(cell.id))
            self.spec.spool.tell()
        except OSError:
            return False
        return True

    def _ensure_command(self) -> None:
        """Have the command up and ready, unless it is known that it does not start."""
        if self.spec.command is None or self._is_serving():
            return
        self._end_command()
        while self.failed_starts < MOST_STARTS and not self.stopped:
            why = self._start_command(self.spec.command)
            if why is None:
                self.failed_starts = 0
                return
            self.failed_starts += 1
            self._end_command()
            (self.folder / FAILED).write_text(f"{why}\n", "utf-8")

    def _is_serving(self) -> bool:
        alive = self.command is not None and self.command.poll() is None
        return alive and (self.folder / READY).exists()

    def _start_command(self, command: str) -> str | None:
        """Start the command in an empty SESSION_DIR; why it is not ready, None if it is."""
        _empty(self.folder)
        with self.spec.spool.starts.open("a", encoding="utf-8") as starts:
            starts.write(f"{now()}\n")
        try:
            process = self._popen(["bash", "-c", command], self.spec.spool.log, {})
        except OSError as error:
            return f"session command cannot start: {error}"
        self.command = process
        began = self.clock.now()
        end = self._deadline(self.spec.start_limit_s)
        while not (self.folder / READY).exists():
            if process.poll() is not None:
                return f"session command {_exit_text(process.returncode)} before it was ready"
            if self.clock.now() > end:
                return f"session command was not ready after {self.spec.start_limit_s:.0f} s"
            if self._must_stop():
                return f"session {self.stopped} before its command was ready"
            time.sleep(POLL_S)
        self.spec.spool.say_ready(self.clock.now() - began)
        return None

    def _run_cell(self, order: int, cell: Cell) -> Result:
        """One cell to its end, or to that of its time, or of the session."""
        (self.folder / END_REASON).unlink(missing_ok=True)
        serving = self.spec.command is None or self._is_serving()
        environment = {
            **cell.environment,
            "SESSION_ORDER": str(order),
            "SESSION_STATE": "ready" if serving else "failed",
        }
        try:
            for place in cell.folders:
                place.mkdir(parents=True, exist_ok=True)
            _mark(cell)
            for place in cell.stale:
                place.unlink(missing_ok=True)
            cell.log.unlink(missing_ok=True)
            process = self._popen(cell.argv, cell.log, environment)
        except OSError as error:
            cell.log.parent.mkdir(parents=True, exist_ok=True)
            cell.log.write_text(f"cannot start: {error}\n", "utf-8")
            return Result(127)
        began = self.clock.now()
        end = self._deadline(cell.limit_s)
        kills = oom_kills()
        reason = ""
        while not reason:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(WATCH_EVERY_S)
                break
            if self._must_stop():
                reason = self.stopped or ""
            elif self.clock.now() > end:
                reason = "timeout"
        if reason:
            (self.folder / END_REASON).write_text(reason, "utf-8")
            end_group(process.pid, self.spec.grace_s)
            process.wait()
        signal_group(process.pid, signal.SIGKILL)  # what it left in the background
        reap_orphans({self.command.pid} if self.command else set())
        if process.returncode != 0 and not reason and oom_kills() > kills:
            reason = "out_of_memory"
        if process.returncode == 0 and self.stopped:
            reason = ""  # told to end when it was done, it said so
        note = "" if process.returncode == 0 else _full_disk(cell)
        return Result(process.returncode, reason, round(self.clock.now() - began, 3), note)

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
                if self.spec.spool.owner != self.token:
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

    def _deadline(self, limit_s: float | None) -> float:
        return float("inf") if limit_s is None else self.clock.now() + limit_s


def _mark(cell: Cell) -> None:
    """Mark the outputs as incomplete, as Snakemake does; their time is that of the start."""
    for marker in cell.markers:
        if not marker.exists():
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.write_text('{"external_jobid": null}', "utf-8")


def _full_disk(cell: Cell) -> str:
    """Whether there is no room where the cell writes, in one line; "" if there is."""
    for folder in [*cell.folders, cell.log.parent]:
        with contextlib.suppress(OSError):
            state = os.statvfs(folder)
            if state.f_bavail * state.f_frsize < NO_ROOM_BYTES:
                return f"no space left on device in {folder}"
    return ""


def _empty(folder: Path) -> None:
    for entry in list(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


def _exit_text(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"exited with {code}"
