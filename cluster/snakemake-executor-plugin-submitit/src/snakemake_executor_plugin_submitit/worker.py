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

from .memory import oom_kills
from .nodes import OtherNodes
from .processes import end_group, reap_orphans, signal_group
from .spec import Cell, SessionSpec
from .spool import REVOKED, Result, now
from .task import WATCH_EVERY_S, Task, empty, exit_text

READY, FAILED, END_REASON = "ready", "failed", "cell_end_reason"
MOST_STARTS = 2
"""Failed starts in a row after which the command is not started again."""
POLL_S = 0.02
DYING_S = 0.5
"""After a failed cell, for a command that it took along to be seen gone."""
NO_ROOM_BYTES = 64 << 10
WRITE_LIMIT_S = 60.0
"""A result that cannot be written (a full disk) is tried for this long."""


class Worker(Task):
    """The command and the cells of one session, on its first node."""

    def __init__(self, spec: SessionSpec, folder: Path, supervisor: int, token: str) -> None:
        super().__init__(spec, folder, supervisor, token, spec.spool.log)
        self.failed_starts = 0
        self.spare = spec.folder / ".spare"
        self.others = OtherNodes(spec.spool, spec.nodes, token) if spec.nodes > 1 else None

    def run(self) -> int:
        """All cells in order; 1 if the session was told to end first."""
        self._guard()
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
        return alive and (self.folder / READY).exists() and not self._trouble()

    def _start_command(self, command: str) -> str | None:
        """Start the command in an empty SESSION_DIR; why it is not ready, None if it is."""
        if self.others is not None and (left := self.others.wait_ended(self.spec.grace_s)):
            return f"session command still runs on {left}"
        empty(self.folder)
        with self.spec.spool.starts.open("a", encoding="utf-8") as starts:
            starts.write(f"{now()}\n")
        try:
            place = self.others.start() if self.others is not None else {}
            process = self._popen(["bash", "-c", command], self.log, place)
        except OSError as error:
            return f"session command cannot start: {error}"
        self.command = process
        began = self.clock.now()
        end = self._deadline(self.spec.start_limit_s)
        while not (self.folder / READY).exists():
            if process.poll() is not None:
                ended = f"session command {exit_text(process.returncode)} before it was ready"
                return self._trouble() or ended
            if self.clock.now() > end:
                unseen = self.others.unseen() if self.others is not None else ""
                late = f"session command was not ready after {self.spec.start_limit_s:.0f} s"
                return f"{late}; no runner on {unseen}" if unseen else late
            if trouble := self._trouble():
                return trouble
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
            elif trouble := self._trouble():
                self._give_up_command(trouble)
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

    def _trouble(self) -> str:
        """Which part of the command, on another node, has ended by itself, and why; "" if none."""
        return self.others.trouble() if self.others is not None else ""

    def _give_up_command(self, why: str) -> None:
        """End the command here, at once: without all of its parts it may wait for ever."""
        if self.command is None or self.command.poll() is not None:
            return
        with contextlib.suppress(OSError), self.log.open("a", encoding="utf-8") as log:
            log.write(f"session: {why}\n")
        signal_group(self.command.pid, signal.SIGKILL)

    def _end_command(self) -> None:
        """End the command here, and all that it, or a cell, left behind; have the other nodes end
        it, too."""
        try:
            if self.others is not None:
                self.others.stop()
        finally:
            super()._end_command()

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
