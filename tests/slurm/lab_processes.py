"""A lab's daemons: started, recorded by pid and start time, and only those ended again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

STOP_LIMIT_S = 15.0


class Daemons:
    """The daemons of the lab in ``folder``; their record outlives the process that started them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = folder / "pids.json"

    def start(self, name: str, words: list[str], env: Mapping[str, str]) -> None:
        """Start a daemon in a session of its own and record it."""
        with (self.folder / "log" / f"{name}.out").open("ab") as output:
            process = subprocess.Popen(
                words,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        # A pid alone may name somebody else's process by the time that it is to be ended.
        self._write({**self._read(), name: (process.pid, _started(process.pid))})

    def freeze(self, name: str) -> None:
        """Let a daemon do nothing more until it is killed."""
        if self.runs(name):
            _kill(self._read()[name][0], signal.SIGSTOP)

    def stop(self, *names: str, number: int = signal.SIGTERM) -> None:
        """Send a signal to those of the daemons that run; SIGKILL to what is left after a while."""
        known = self._read()
        pids = [known[name][0] for name in names if self.runs(name)]
        for pid in pids:
            _kill(pid, number)
        end = time.monotonic() + STOP_LIMIT_S
        while any(is_alive(pid) for pid in pids):
            if time.monotonic() > end:
                for pid in pids:
                    _kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        for pid in pids:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if known:
            self._write({name: known[name] for name in known if name not in names})

    def names(self, start: str = "") -> list[str]:
        """Daemons that were started and not stopped, whose names begin with ``start``."""
        return [name for name in self._read() if name.startswith(start)]

    def pids(self) -> list[int]:
        """Their process ids."""
        return [pid for pid, _ in self._read().values()]

    def runs(self, name: str) -> bool:
        """Whether a daemon that was started still runs."""
        pid, started = self._read().get(name, (0, ""))
        return pid > 0 and is_alive(pid) and _started(pid) == started

    def kill_steps(self, log: str) -> None:
        """SIGKILL slurmstepds and all below them whose log file's name starts with ``log``.

        A slurmstepd wipes its command line and environment; its open log file names its node.
        It is stopped and killed before what is below it: else it may still tell Slurm that its
        job has failed, which a lost machine cannot.
        """
        start = str(self.folder / "log" / log)
        for pid in _stepds():
            with contextlib.suppress(OSError):
                files = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
                if any(file.startswith(start) for file in files):
                    _kill(pid, signal.SIGSTOP)
                    for victim in [pid, *_below(pid)]:
                        _kill(victim, signal.SIGKILL)

    def _read(self) -> dict[str, tuple[int, str]]:
        if not self.record.exists():
            return {}
        return {name: (pid, at) for name, (pid, at) in json.loads(self.record.read_text()).items()}

    def _write(self, known: Mapping[str, tuple[int, str]]) -> None:
        self.record.write_text(json.dumps(known))


def remove_cgroups(nodes: list[str]) -> None:
    """Remove the empty control groups (v1) that slurmd leaves behind for its node."""
    for node in nodes:
        for top in Path("/sys/fs/cgroup").glob(f"*/slurm_{node}"):
            for group in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
                with contextlib.suppress(OSError):  # another lab's node of that name uses it
                    group.rmdir()
            with contextlib.suppress(OSError):
                top.rmdir()


def is_alive(pid: int) -> bool:
    """A daemon that has ended may stay a zombie for seconds: that is not alive."""
    return _stat(pid)[:1] not in ([], ["Z"], ["X"])


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty if there is none."""
    return "".join(_stat(pid)[19:20])


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat (proc(5)) from the third, the state; none if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _stepds() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "comm").read_text().strip() == "slurmstepd":
                    yield int(entry.name)


def _below(pid: int) -> list[int]:
    """Descendants of ``pid``, the deepest first."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [*_below(child), child]
    return found
