"""A shared folder as a network file system shows it: the nodes see what this host wrote later.

Nodes get a folder of their own in place of the shared one (a bind mount in their own mount
namespace; root only), and a thread carries each change over after a delay, both ways. Whoever has
written something sees it at once.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.slurm.lab import Lab

Stamp = tuple[int, int, int]


class Mirror(threading.Thread):
    """Keeps two trees equal, each change ``lag_s`` late; folders are made at once."""

    def __init__(self, here: Path, there: Path, lag_s: float) -> None:
        super().__init__(daemon=True)
        self.sides = (here, there)
        self.lag_s = lag_s
        self.known: list[dict[str, Stamp]] = [{}, {}]
        self.due: list[dict[str, float]] = [{}, {}]
        self.is_over = threading.Event()

    def run(self) -> None:
        """Until told to end."""
        while not self.is_over.wait(0.1):
            for side in (0, 1):
                self._carry(side)

    def _carry(self, side: int) -> None:
        source, target = self.sides[side], self.sides[1 - side]
        found = _stamps(source)
        for folder in (path for path in source.rglob("*") if path.is_dir()):
            (target / folder.relative_to(source)).mkdir(parents=True, exist_ok=True)
        now = time.monotonic()
        changed = {n for n, stamp in found.items() if self.known[side].get(n) != stamp}
        gone = self.known[side].keys() - found.keys()
        for name in changed | gone:
            self.due[side].setdefault(name, now + self.lag_s)
        for name in [name for name, due in self.due[side].items() if due <= now]:
            del self.due[side][name]
            self._copy(side, name)
        for name in changed | gone:  # what is changed again is carried over again
            if name in found:
                self.known[side][name] = found[name]
            else:
                self.known[side].pop(name, None)

    def _copy(self, side: int, name: str) -> None:
        source, target = self.sides[side] / name, self.sides[1 - side] / name
        with contextlib.suppress(FileNotFoundError):
            if source.exists():
                temporary = target.with_name(f".lag-{target.name}")
                shutil.copy2(source, temporary)
                temporary.replace(target)
                self.known[1 - side][name] = _stamp(target)
            else:
                target.unlink()
                self.known[1 - side].pop(name, None)


@contextlib.contextmanager
def lagging(lab: Lab, folders: list[Path], store: Path, lag_s: float) -> Iterator[None]:
    """All nodes of ``lab`` see changes in ``folders`` late, and this host theirs."""
    mirrors = []
    mounts = []
    for number, folder in enumerate(folders):
        there = store / str(number)
        for place in (folder, there):
            place.mkdir(parents=True, exist_ok=True)
        mirrors.append(Mirror(folder, there, lag_s))
        mounts.append(f"mount --bind {shlex.quote(str(there))} {shlex.quote(str(folder))}")
    script = " && ".join([*mounts, 'exec "$@"'])
    for mirror in mirrors:
        mirror.start()
    try:
        _restart(lab, ["unshare", "--mount", "bash", "-c", script, "node"])
        yield
    finally:
        _restart(lab, [])
        for mirror in mirrors:
            mirror.is_over.set()
            mirror.join()


def _restart(lab: Lab, prefix: list[str]) -> None:
    lab.node_prefix = prefix
    for name in lab.config.node_names:
        lab.daemons.stop(f"slurmd-{name}")
        lab.start_node(name)
    lab.wait_idle()


def _stamps(root: Path) -> dict[str, Stamp]:
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            if not name.startswith("."):
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    found[str(path.relative_to(root))] = _stamp(path)
    return found


def _stamp(path: Path) -> Stamp:
    state = path.stat()
    return state.st_ino, state.st_mtime_ns, state.st_size
