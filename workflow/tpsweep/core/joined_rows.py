"""Rows of many files in one, with each file's size and time of change: a cache, and nothing else.

``rows.parquet`` has all of a manifest; a session leaves its own rows in ``.rows/``. Whoever reads
rows next opens only the files that are in neither, or have changed since (``results.rows``). All of
it may be deleted at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tpsweep.core import schema
from tpsweep.core.atomic import replacing
from tpsweep.core.row_file import read_table

ROWS = "rows.parquet"
"""Every row of the current manifest, with the columns of ``FILE`` beside those of a row."""
PARTS = ".rows"
"""Folder of the rows that a session measured, a file for each engine start."""
FILE = pa.schema(
    [("file_path", pa.string()), ("file_size", pa.int64()), ("file_changed_ns", pa.int64())]
)
"""The row's own file, below the results root, as it was when it was read."""
JOINED = pa.schema([*schema.SCHEMA, *FILE])
Stamp = tuple[str, int, int]


def stamp(results: Path, path: str) -> Stamp | None:
    """``FILE`` of the row at ``path`` below ``results``; None if there is none."""
    try:
        found = (results / path).stat()
    except OSError:
        return None
    return path, found.st_size, found.st_mtime_ns


def stamped(rows: pa.Table, stamps: Mapping[str, Stamp]) -> pa.Table:
    """``rows`` of the schema of a row, with the columns of ``FILE``; ``stamps`` by ``cell_id``."""
    own = [stamps[cell_id] for cell_id in rows["cell_id"].to_pylist()]
    columns = [pa.array([stamp[at] for stamp in own], f.type) for at, f in enumerate(FILE)]
    return pa.table([*rows.columns, *columns], schema=JOINED)


def write_joined(rows: pa.Table, path: Path) -> None:
    """Write rows of the schema ``JOINED``. Raises ``OSError``."""
    with replacing(path) as temporary:
        pq.write_table(rows, temporary, compression="zstd", write_page_checksum=True)


def read_joined(path: Path) -> pa.Table:
    """Rows of the schema ``JOINED``; none if the file is not there, damaged, or of another one."""
    try:
        table = read_table(path)
    except (OSError, pa.ArrowException):
        return JOINED.empty_table()
    return table if table.schema.equals(JOINED) else JOINED.empty_table()


def keep_part(results: Path, name: str, places: Mapping[str, str]) -> None:
    """Leave the rows of ``places`` (``cell_id`` to a path below ``results``) in ``.rows/``.

    What cannot be read as a row of today is left out: it will be read from its file. Raises
    ``OSError``.
    """
    tables, stamps = [schema.SCHEMA.empty_table()], {}
    for cell_id, path in places.items():
        # The stamp first: a file that changes meanwhile is then taken for changed.
        found = stamp(results, path)
        try:
            row = read_table(results / path)
        except (OSError, pa.ArrowException):
            continue
        if found and row.schema.equals(schema.SCHEMA) and row["cell_id"].to_pylist() == [cell_id]:
            tables.append(row)
            stamps[cell_id] = found
    if stamps:
        rows = pa.concat_tables(tables).combine_chunks()
        write_joined(stamped(rows, stamps), results / PARTS / f"{name}.parquet")
