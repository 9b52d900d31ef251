"""Notice that an engine's processes died, where vLLM itself only waits.

vLLM 0.32's offline ``generate`` waits forever when its engine process is killed (its client is
shut down by a monitor thread, the call that waits for output is not woken). A thread of the daemon
therefore looks at the processes themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping

import psutil

from tpsweep.engine.vllm_api import PROCESS_TITLE

INTERVAL_S = 0.2
GRACE_S = 3.0
"""How long vLLM may take to say by itself why it died: its own words are the better ones."""


class Guard:
    """Watches the engine's processes (those of vLLM below this one, and ``also``) until ``stop``.

    ``on_death`` is called once, in the guard's thread, ``GRACE_S`` after one of them has gone,
    with a line that names it.
    """

    def __init__(
        self, on_death: Callable[[str], None], also: Mapping[str, psutil.Process] | None = None
    ) -> None:
        named = [(process, name) for name, process in (also or {}).items()]
        self._processes = named + _engine_processes({process.pid for process, _ in named})
        self._on_death = on_death
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="engine-guard").start()

    @property
    def watched(self) -> int:
        """How many processes are watched."""
        return len(self._processes)

    def stop(self) -> None:
        """End the watch: the engine is being shut down on purpose."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            gone = [title for process, title in self._processes if not _alive(process)]
            if gone:
                if not self._stopped.wait(GRACE_S):
                    self._on_death(f"vLLM's process {' and '.join(sorted(gone))} died")
                return


def _engine_processes(known: Collection[int]) -> list[tuple[psutil.Process, str]]:
    found = []
    for process in psutil.Process().children(recursive=True):
        title = " ".join(process.cmdline())
        if title.startswith(PROCESS_TITLE) and process.pid not in known:
            found.append((process, title.strip()))
    return found


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
