"""Files that appear whole or not at all. Standard library only: the clients use it too."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_MODE = 0o644


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which becomes ``path`` at the end of the block.

    It is a dot-file in the same folder (made if needed): ``pandas.read_parquet(folder)`` passes
    over dot-files, and a rename within a folder is atomic. If the block raises, it is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(_MODE)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # pyarrow removes what it could not write itself
        raise
