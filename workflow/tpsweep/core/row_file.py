"""A row on disk: one Parquet file with exactly one row of ``tpsweep.core.schema``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tpsweep.core.atomic import replacing
from tpsweep.core.errors import one_line
from tpsweep.core.schema import SCHEMA


def write_row(row: dict[str, Any], path: Path) -> None:
    """Write one row as Parquet at ``path``, atomically (temporary dot-file, then replace).

    Raises ``KeyError`` for a column that the schema does not have: an undocumented
    value must not get lost silently. Columns that are left out are null.
    """
    unknown = sorted(set(row) - set(SCHEMA.names))
    if unknown:
        raise KeyError(f"columns that the schema does not have: {', '.join(unknown)}")
    table = pa.Table.from_pylist([{name: row.get(name) for name in SCHEMA.names}], schema=SCHEMA)
    with replacing(path) as temporary:
        # For one row, dictionaries and statistics only repeat its values: without them, and with
        # snappy instead of zstd, a file is a quarter smaller and reads in a third of the time.
        # What the columns mean, in Arrow's own schema, would take more than half of what is left:
        # rows.parquet and docs/columns.md have it. Checksums: a flipped bit would silently change
        # a value.
        pq.write_table(
            table,
            temporary,
            compression="snappy",
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
            store_schema=False,
        )


def read_table(path: Path) -> pa.Table:
    """A Parquet file, its checksums verified. Raises ``OSError`` and ``pa.ArrowException``."""
    # The whole file at once: reads of one column chunk after the other take a sixth longer.
    source = pa.BufferReader(path.read_bytes())
    return pq.ParquetFile(source, page_checksum_verification=True).read(use_threads=False)


def read_row(path: Path) -> dict[str, Any]:
    """The one row of a cell's file. Raises ``ValueError`` if it is not exactly one such row."""
    try:
        table = pq.read_table(path, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file: {one_line(error)}") from error
    if table.num_rows != 1 or "cell_id" not in table.column_names:
        raise ValueError(f"{path}: expected one row with a cell_id, found {table.num_rows} rows")
    row: dict[str, Any] = table.to_pylist()[0]
    return row
