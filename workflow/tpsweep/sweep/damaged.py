"""Rows whose files are there and say nothing: they must not count as done, and are measured again.

Planning looks at thousands of rows each time, so it only sees whether a file was cut off. The
tables read every row, and leave a failure record of what they could not read: a row with a
failure record beside it is not done either.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from tpsweep.core import results_paths

_MAGIC = b"PAR1"
_SMALLEST = 12
"""Magic at both ends, and the length of the footer."""


def damaged(results: Path, rows: Iterable[str]) -> Iterator[str]:
    """Those of ``rows`` (paths below ``results``) that are there and cannot count as done."""
    failures = results / results_paths.FAILURES
    failed = {path.stem for path in failures.glob("*.json")}
    for row in rows:
        whole = _is_whole(results / row)
        if whole is False or (whole and results_paths.cell_id_of(row) in failed):
            yield row


def _is_whole(path: Path) -> bool | None:
    """Whether a Parquet file has its end; None if there is none."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - 8))
            end = file.read()
    except FileNotFoundError:
        return None
    except OSError:
        return False
    return size >= _SMALLEST and end[4:] == _MAGIC and int.from_bytes(end[:4], "little") < size
