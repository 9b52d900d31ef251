"""Blocks of free ports on loopback, for labs of all users that start at the same time."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Iterator

FIRST_PORT, LAST_PORT = 17800, 29800


@contextlib.contextmanager
def free_ports(size: int, needed: Iterable[int]) -> Iterator[int]:
    """The first of ``size`` ports; nobody uses those at the offsets ``needed``.

    No other lab gets the same block inside the context: bring the daemons up there.
    Raises ``OSError`` if there is no such block.
    """
    needed = list(needed)
    for port in range(FIRST_PORT, LAST_PORT, size):
        with socket.socket(socket.AF_UNIX) as lock:
            try:
                # A name, not a file: it is gone with its process, and no other user owns it.
                lock.bind(f"\0tpsweep-lab-{port}")
            except OSError:
                continue
            if not any(_is_taken(port + offset) for offset in needed):
                yield port
                return
    raise OSError(f"no block of {size} free ports from {FIRST_PORT} to {LAST_PORT}")


def is_open(port: int) -> bool:
    """Whether somebody listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
