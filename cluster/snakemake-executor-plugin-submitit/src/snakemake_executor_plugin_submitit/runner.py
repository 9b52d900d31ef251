"""A session: one command that stays up, and the cells that use it, one after another.

Runs in the task that the cluster started; standard library only. Two processes guard each other:
the supervisor (the task itself) adopts and ends every descendant however the worker dies, and the
worker (its child) starts the command and the cells and ends itself if the supervisor dies.

Environment of the command and the cells: ``SESSION_DIR`` (node-local, private, gone after the
session), ``SESSION_ID``, ``SESSION_LOG``; of the cells besides ``SESSION_ORDER`` (position from 0)
and ``SESSION_STATE`` (``ready`` or ``failed``; without a command always ``ready``).

Files in ``SESSION_DIR``: ``ready`` (made by the command when it takes cells, removed by it if it
takes no more), ``failed`` (one line: why the command could not be started), ``cell_end_reason``
(``timeout``, ``preempted``, ``cancelled`` or ``revoked``: why the running cell is being ended).

Of a session of several nodes each runs this (see ``nodes``): the first as said here, the others
their part of the command alone, with ``SESSION_LOG`` and ``SESSION_DIR`` of their own.

A session may be run again after it was cut off (a requeued job): cells with a result are skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from .nodes import dismiss, node_of
from .other_node import OtherNode
from .processes import adopt_orphans, die_with_parent, kill_descendants
from .spec import SessionSpec
from .spool import now
from .task import REASONS
from .worker import Worker

LONGEST_DIR = 90
"""A unix socket's path has at most 107 bytes; this leaves room for its name."""


def run_session_in(folder: Path) -> int:
    """``run_session`` of the specification in a spool: what the scheduler's job calls."""
    return run_session(SessionSpec.read(folder))


def run_session(spec: SessionSpec) -> int:
    """Run a session to its end; 0 if the worker came to the end of its cells, 1 if it did not.

    On another node than the first: its part of the command alone; 0. Raises ``OSError`` if there is
    no room for the session's folder, ``RuntimeError`` if the runner of such a part fails.
    """
    # A signal that comes before its handler is there must neither kill nor get lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, REASONS)
    adopt_orphans()
    if spec.watched is not None:
        die_with_parent(os.getppid(), signal.SIGTERM)
    spec.folder.mkdir(parents=True, exist_ok=True)
    if spec.nodes > 1 and (node := node_of(os.environ)):
        return _run_part(spec, node)
    supervisor = os.getpid()
    token = spec.spool.claim()
    if token is None:
        return 1
    spec.spool.forget_end()
    started = now()
    folder = _session_dir()
    spec.spool.pid.write_text(str(supervisor))
    code = _supervise(folder, lambda: Worker(spec, folder, supervisor, token).run())
    _record(spec, started)
    if code != 0 and spec.spool.owner == token and spec.spool.end_reason is None:
        spec.spool.end("crash")  # of the worker, which had no time to say so
    if spec.nodes > 1:
        dismiss(spec.spool, token)
    return code


def _run_part(spec: SessionSpec, node: int) -> int:
    """Of a node that is not the first; 0. Raises ``RuntimeError`` if it cannot go on: srun ends
    the whole session when a task of it fails."""
    folder, supervisor = _session_dir(), os.getpid()
    code = _supervise(folder, lambda: OtherNode(spec, folder, supervisor, node).run())
    if code != 0:
        raise RuntimeError(f"the session's runner on node {node} ended with {code}")
    return 0


def _supervise(folder: Path, work: Callable[[], int]) -> int:
    """Do the work in a child, forward signals to it, and end what it leaves; its exit code."""
    worker = os.fork()
    if worker == 0:
        code = 1
        try:
            code = work()
        except Exception:  # noqa: BLE001 (the fork ends here; its cells are reported as lost)
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def forward(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, number)

    for number in REASONS:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, REASONS)
    code = _reap_until(worker)
    for number in REASONS:
        signal.signal(number, signal.SIG_IGN)
    kill_descendants(os.getpid())
    shutil.rmtree(folder, ignore_errors=True)
    return code


def _reap_until(worker: int) -> int:
    """Collect all children's exits until ``worker``'s; its exit code."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == worker:
            return os.waitstatus_to_exitcode(status)


def _session_dir() -> Path:
    """A fresh private folder with a path short enough for a unix socket in it."""
    for place in (os.environ.get("TMPDIR"), "/tmp"):
        if place and len(place) + len("/session-12345678") < LONGEST_DIR and Path(place).is_dir():
            return Path(tempfile.mkdtemp(prefix="session-", dir=Path(place).resolve()))
    raise OSError("no folder for the session: neither $TMPDIR nor /tmp can be used")


def _record(spec: SessionSpec, started: str) -> None:
    """One line on the session, in one write: others append to the same file."""
    starts = spec.spool.starts
    record = {
        "session_id": spec.id,
        "session": spec.key,
        "cells": [cell.id for cell in spec.cells],
        "gpus": spec.gpus,
        "nodes": spec.nodes,
        "job": os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID", ""),
        "node": os.environ.get("SLURMD_NODENAME", ""),
        "started_at": started,
        "ended_at": now(),
        "starts": len(starts.read_text("utf-8").splitlines()) if starts.exists() else 0,
    }
    descriptor = os.open(spec.spool.records, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    with contextlib.closing(os.fdopen(descriptor, "wb", buffering=0)) as file:
        file.write(json.dumps(record).encode() + b"\n")
