"""Ending processes and everything that they started, on Linux. Standard library only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.05
KILL_LIMIT_S = 30.0
"""A process that the kernel cannot end in this time (a driver call) is given up on."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Process:
    """A line of the process table; ``started`` is in clock ticks since boot."""

    pid: int
    parent: int
    group: int
    zombie: bool
    started: int


def adopt_orphans() -> None:
    """Become the parent of all descendants whose own parent dies (child subreaper)."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int, number: int) -> None:
    """Have the kernel send ``number`` to this process when ``parent`` dies, or has died."""
    _prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def dying_with(parent: int, number: int) -> Callable[[], None]:
    """``die_with_parent`` for ``preexec_fn``, with no signal blocked in the new program."""

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        die_with_parent(parent, number)

    return prepare


def start_time(pid: int) -> int | None:
    """Start of ``pid`` in clock ticks since boot: with it a pid is unique. None if it is gone."""
    process = _read(pid)
    return process.started if process and not process.zombie else None


def descendants(root: int) -> list[int]:
    """Living processes below ``root``, also those that left its process group or session."""
    children: dict[int, list[Process]] = {}
    for process in _table():
        children.setdefault(process.parent, []).append(process)
    found: list[int] = []
    parents = [root]
    while parents:
        below = children.get(parents.pop(), [])
        parents += [process.pid for process in below]
        found += [process.pid for process in below if not process.zombie]
    return found


def end_group(group: int, grace_s: float) -> None:
    """SIGTERM to a process group; SIGKILL to what is left of it after ``grace_s`` seconds."""
    if not signal_group(group, signal.SIGTERM):
        return
    end = time.monotonic() + grace_s
    while _group_lives(group):
        if time.monotonic() > end:
            signal_group(group, signal.SIGKILL)
            return
        time.sleep(POLL_S)


def signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; False if there is no such group any more."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def kill_descendants(root: int) -> None:
    """SIGKILL everything below ``root``, until nothing is left that could fork."""
    end = time.monotonic() + KILL_LIMIT_S
    while (found := descendants(root)) and time.monotonic() < end:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)


def reap_orphans(known: set[int]) -> None:
    """Collect the exit of adopted children; those in ``known`` are left to who waits for them."""
    with contextlib.suppress(ChildProcessError):
        peek = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while (info := os.waitid(os.P_ALL, 0, peek)) is not None and info.si_pid not in known:
            os.waitpid(info.si_pid, 0)


def _group_lives(group: int) -> bool:
    return any(process.group == group and not process.zombie for process in _table())


def _table() -> list[Process]:
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [process for pid in pids if (process := _read(pid)) is not None]


def _read(pid: int) -> Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The program's name stands in parentheses and may hold anything; fields count from its end.
    fields = text.rpartition(")")[2].split()
    return Process(pid, int(fields[1]), int(fields[2]), fields[0] in "ZX", int(fields[19]))


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
