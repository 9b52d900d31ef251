"""One main process per log folder; a killed one leaves no lock behind."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path

NOT_SUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}


class LockedError(RuntimeError):
    """Another main process follows the sessions of this folder; one line."""


class Lock:
    """Holds ``path`` until the process ends, however it ends: the kernel releases it.

    Raises ``LockedError`` if another process holds it. On a file system that cannot lock (Lustre
    mounted without ``flock``) ``is_held`` is False.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+", encoding="utf-8")
        self.is_held = False
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "an unknown process"
            raise LockedError(f"{path}: another snakemake is running here: {holder}") from error
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:
                raise
            return
        self.is_held = True
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def release(self) -> None:
        """Release it."""
        self._file.close()
