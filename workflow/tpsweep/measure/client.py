"""The client that a Snakemake job runs: hand a cell to the session's engine, wait, report.

Standard library only, because it is started once per cell (importing vLLM's benchmark code takes
10 s, pandas half a second). The daemon (``measure.daemon``) measures and writes the row; this
program writes the failure record if there will be no row, even if the daemon has died.

Environment, set by the executor's session runner: ``SESSION_DIR`` (the daemon's socket is in it),
``SESSION_STATE`` (``ready``, or ``failed``: the engine did not start), ``SESSION_ID``,
``SESSION_LOG``, ``SESSION_ORDER``. Without ``SESSION_DIR`` the
session's command is started for this cell alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from tpsweep.core import results_paths
from tpsweep.core.cell import Cell
from tpsweep.core.failure import (
    FINAL_EXIT_CODE,
    WOULD_FAIL_AGAIN,
    Failure,
    classify,
    log_since,
    log_size,
    telling_lines,
)
from tpsweep.core.request import SOCKET_NAME, Answer, Request, StartFailure

END_REASON = "cell_end_reason"
OWN_START_LIMIT_S = 1800.0
OWN_END_LIMIT_S = 30.0


class CellError(Exception):
    """The cell has no row: ``type`` is one of ``tpsweep.core.failure.TYPES``."""

    def __init__(self, type_: str, message: str) -> None:
        super().__init__(message)
        self.type = type_


def main(arguments: list[str] | None = None) -> int:
    """Run one cell; 0 if its row was written, else there is a failure record.

    65 says that it would fail again, 1 that it may not, 2 bad usage.
    """
    parser = argparse.ArgumentParser(description="Measure one cell.")
    parser.add_argument("--workload", required=True, help="that of the rule, and of the cell")
    parser.add_argument("--cell", required=True, help="the cell, as canonical JSON")
    parser.add_argument("--results", required=True, type=Path, help="the results root")
    parser.add_argument("--session-command", required=True, help="starts the engine's daemon")
    parser.add_argument("--dataset", default="", help="file of conversations or lengths")
    parser.add_argument("--log", type=Path, help="where to say how it went")
    options = parser.parse_args(arguments)
    try:
        cell = Cell.from_json(options.cell)
    except (KeyError, TypeError, ValueError) as error:
        print(f"--cell: not a cell: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    if cell.workload != options.workload:
        said = f"its workload is {cell.workload!r}, allowed: {options.workload!r}"
        print(f"--cell: {said}", file=sys.stderr)
        return 2
    failure = run(cell, options.results, options.session_command, options.dataset)
    said = f"{failure.type}: {failure.message}" if failure else f"measured {cell.path}"
    print(said, file=sys.stderr if failure else sys.stdout)
    if options.log:
        session, log = (os.environ.get(name, "-") for name in ("SESSION_ID", "SESSION_LOG"))
        telling = failure.telling_lines if failure else []
        lines = [said, f"session {session}, log {log}", *telling]
        try:
            options.log.parent.mkdir(parents=True, exist_ok=True)
            options.log.write_text("\n".join(lines) + "\n", "utf-8")
        except OSError as error:  # the row or the failure record counts, not this
            print(f"--log: {options.log}: {error.strerror}", file=sys.stderr)
    if failure is None:
        return 0
    return FINAL_EXIT_CODE if failure.type in WOULD_FAIL_AGAIN else 1


def run(cell: Cell, results: Path, session_command: str, dataset: str = "") -> Failure | None:
    """Have ``cell`` measured into ``results``; its failure record appears, or disappears."""
    log = os.environ.get("SESSION_LOG", "")
    offset = log_size(log)
    failures = results / results_paths.FAILURES
    try:
        _end_on_signal()
        with _session_dir(session_command) as folder:
            if os.environ.get("SESSION_STATE") == "failed":
                raise _start_failed(folder)
            _measure(cell, results, folder, dataset)
            _ignore_signals()
    except CellError as error:
        _ignore_signals()
        text = log_since(log, offset)
        failure = Failure(
            cell_id=cell.cell_id,
            workload=cell.workload,
            cell=cell.path,
            type=classify(error.type, f"{error}\n{text}") if error.type == "crash" else error.type,
            message=str(error),
            log=log,
            telling_lines=telling_lines(text or log_since(log)),
            session_id=os.environ.get("SESSION_ID", ""),
            host=socket.gethostname(),
        )
        try:
            failure.write(failures)
        except OSError as unwritten:  # a full disk may be what failed the cell
            print(f"{failures}: failure record not written: {unwritten}", file=sys.stderr)
        return failure
    (results / results_paths.failure_record(cell.cell_id)).unlink(missing_ok=True)
    return None


def _measure(cell: Cell, results: Path, folder: Path, dataset: str) -> None:
    row = (results / cell.path).resolve()
    request = Request(
        cell=cell.to_json(),
        row=str(row),
        session_id=os.environ.get("SESSION_ID", ""),
        session_log=os.environ.get("SESSION_LOG", ""),
        dataset=str(Path(dataset).resolve()) if dataset else "",
    )
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(folder / SOCKET_NAME))
            connection.sendall(request.to_line())
            line = connection.makefile("rb").readline()
        except OSError as error:
            raise CellError("crash", f"lost the engine daemon: {error}") from error
    if not line.endswith(b"\n"):
        raise CellError("crash", "the engine daemon died during this cell")
    answer = Answer.from_line(line)
    if not answer.ok:
        raise CellError(answer.type, answer.message)


def _start_failed(folder: Path) -> CellError:
    """What the daemon said of its failed start; else what the session runner saw."""
    with contextlib.suppress(OSError, ValueError):
        said = StartFailure.read(folder)
        return CellError(said.type, said.message)
    with contextlib.suppress(OSError):
        return CellError("engine_start", (folder / "failed").read_text("utf-8").strip())
    return CellError("engine_start", "the engine did not start")


def _end_on_signal() -> None:
    """SIGTERM and SIGINT end the cell with the reason that the session runner left, if any."""

    def end(number: int, _frame: FrameType | None) -> None:
        _ignore_signals()
        reason = "cancelled" if number == signal.SIGINT else "preempted"
        with contextlib.suppress(OSError, KeyError):
            reason = (Path(os.environ["SESSION_DIR"]) / END_REASON).read_text().strip() or reason
        raise CellError(reason, f"ended by {signal.Signals(number).name}")

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


def _ignore_signals() -> None:
    """Once a cell's outcome is known, a second signal must not keep it from being recorded."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _session_dir(session_command: str) -> Iterator[Path]:
    """The session's folder; without a session, that of a daemon for this cell alone."""
    given = os.environ.get("SESSION_DIR")
    if given:
        yield Path(given)
        return
    with tempfile.TemporaryDirectory(prefix="tpsweep-") as name:
        folder = Path(name)
        environment = {**os.environ, "SESSION_DIR": name}
        try:
            daemon = subprocess.Popen(shlex.split(session_command), env=environment)
        except (OSError, ValueError) as error:
            raise CellError("engine_start", f"--session-command: {error}") from error
        try:
            _await_ready(daemon, folder)
            yield folder
        finally:
            daemon.terminate()
            try:
                daemon.wait(OWN_END_LIMIT_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _await_ready(daemon: subprocess.Popen[bytes], folder: Path) -> None:
    end = time.monotonic() + OWN_START_LIMIT_S
    while not (folder / "ready").exists():
        if daemon.poll() is not None:
            raise _start_failed(folder)
        if time.monotonic() > end:
            raise CellError("engine_start", f"not ready after {OWN_START_LIMIT_S:.0f} s")
        time.sleep(0.1)
