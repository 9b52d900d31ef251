"""Rows from their files, thousands of small ones, and from where they are joined already.

``tpsweep tables`` keeps ``rows.parquet``, and sessions leave their rows in ``.rows/``
(``core.joined_rows``): only files that are in neither, or have changed since, are opened.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from tpsweep.core import schema
from tpsweep.core.axes import BY_NAME
from tpsweep.core.errors import one_line
from tpsweep.core.joined_rows import (
    FILE,
    PARTS,
    ROWS,
    Stamp,
    read_joined,
    stamp,
    stamped,
    write_joined,
)
from tpsweep.core.row_file import read_table

LONGEST = 300
"""Characters of a library's error that people get to see: some print all that they were given."""
MANY = 400
"""Files from which on processes are worth their start."""
_PART = 100


@dataclass(frozen=True)
class Read:
    """``rows`` has the schema ``JOINED``; ``errors`` says why files cannot be read, by cell.

    ``is_kept``: ``rows.parquet`` holds just these rows. ``parts``: the files of ``.rows/`` that
    were read.
    """

    rows: pa.Table
    errors: dict[str, str]
    is_kept: bool
    parts: tuple[Path, ...] = ()


def read_rows(results: Path, places: Mapping[str, str]) -> Read:
    """The rows of the cells in ``places`` (``cell_id`` to a path below ``results``) that exist."""
    found = {cell_id: stamp(results, path) for cell_id, path in places.items()}
    stamps = {cell_id: one for cell_id, one in found.items() if one is not None}
    kept = read_joined(results / ROWS)
    same = _unchanged(kept, stamps)
    left, tables = _without(stamps, same), [same]
    parts = tuple(sorted((results / PARTS).glob("*.parquet")))
    for part in parts:
        if left:
            tables.append(_unchanged(read_joined(part), left))
            left = _without(left, tables[-1])
    errors: dict[str, str] = {}
    wanted = [(cell_id, one[0]) for cell_id, one in left.items()]
    for table, failed in _read_all(results, wanted):
        tables.append(stamped(table, stamps))
        errors |= failed
    rows = pa.concat_tables(tables).combine_chunks()
    is_kept = len(same) == len(kept) == len(rows) and (results / ROWS).exists()
    return Read(_in_order(rows, stamps), errors, is_kept, parts)


def keep_rows(results: Path, read: Read) -> None:
    """Write ``rows.parquet``, unless it is there already; parts whose rows it has then are
    removed. Raises ``OSError``."""
    if not read.is_kept:
        write_joined(read.rows, results / ROWS)
    for part in read.parts:
        part.unlink(missing_ok=True)


def _in_order(rows: pa.Table, stamps: Mapping[str, object]) -> pa.Table:
    """Rows as the cells were given: what was kept must not come first."""
    place = {cell_id: at for at, cell_id in enumerate(stamps)}
    order = [place[cell_id] for cell_id in rows["cell_id"].to_pylist()]
    return rows.take(np.argsort(order, kind="stable"))


def read_file(path: Path, cell_id: str) -> pa.Table:
    """A cell's row, checksums and all. Raises ``ValueError`` or ``OSError`` if it is none."""
    table = read_table(path)
    found = table["cell_id"].to_pylist()
    if found != [cell_id]:
        raise ValueError(f"expected one row of the cell {cell_id}, found {found[:3]}")
    return conform(table, schema.SCHEMA, required=("cell_id",))


def conform(table: pa.Table, schema: pa.Schema, required: Sequence[str]) -> pa.Table:
    """``table`` with the columns and types of ``schema``.

    An absent axis has its default: the file is older than the axis. Other absent columns are null.
    Raises ``ValueError`` if one of ``required`` is absent, or a column cannot be cast.
    """
    if table.schema.equals(schema):
        return table.replace_schema_metadata(schema.metadata)
    present = dict(zip(table.column_names, table.columns, strict=True))
    missing = sorted(set(required) - set(present))
    if missing:
        raise ValueError(f"no column {', '.join(missing)}")
    arrays = [
        _cast(present[field.name], field.type)
        if field.name in present
        else _absent(field, table.num_rows)
        for field in schema
    ]
    return pa.table(arrays, schema=schema)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    # Ten thousand rows of an older schema have a million columns: most are of the type already.
    if column.type == kind:
        return column
    if column.type == pa.bool_() and kind == pa.string():
        # `saturated` by the older rule, which told too much: tables judge the samples again.
        return pa.chunked_array([pa.nulls(len(column), kind)])
    return column.cast(kind)


def _absent(field: pa.Field, length: int) -> pa.Array:
    default = BY_NAME[field.name].default if field.name in BY_NAME else None
    return (
        pa.array([default] * length, field.type)
        if default is not None
        else pa.nulls(length, field.type)
    )


def _read_all(
    results: Path, wanted: Sequence[tuple[str, str]]
) -> Iterator[tuple[pa.Table, dict[str, str]]]:
    parts = [wanted[at : at + _PART] for at in range(0, len(wanted), _PART)]
    with _pool(len(wanted)) as pool:
        for serialized, errors in pool.map(partial(_read_part, results), parts):
            yield pa.ipc.open_stream(serialized).read_all(), errors


def _pool(files: int) -> Executor:
    workers = min(8, len(os.sched_getaffinity(0)))
    if files < MANY or workers < 2:
        return ThreadPoolExecutor(workers)
    # spawn: a fork of a process with pyarrow's threads may hang.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))


def _read_part(results: Path, wanted: Sequence[tuple[str, str]]) -> tuple[bytes, dict[str, str]]:
    """Rows as an Arrow stream, which passes between processes as it is."""
    tables = [schema.SCHEMA.empty_table()]
    errors: dict[str, str] = {}
    for cell_id, path in wanted:
        try:
            tables.append(read_file(results / path, cell_id))
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            errors[cell_id] = one_line(error, LONGEST)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema.SCHEMA) as writer:
        writer.write_table(pa.concat_tables(tables).combine_chunks())
    return sink.getvalue().to_pybytes(), errors


def _unchanged(kept: pa.Table, stamps: Mapping[str, Stamp]) -> pa.Table:
    """The rows of ``kept`` whose files are as they were."""
    columns = [kept[name].to_pylist() for name in ("cell_id", *FILE.names)]
    same = [stamps.get(cell_id) == (*stamp,) for cell_id, *stamp in zip(*columns, strict=True)]
    return kept.filter(pa.array(same, pa.bool_()))


def _without(stamps: Mapping[str, Stamp], found: pa.Table) -> dict[str, Stamp]:
    known = set(found["cell_id"].to_pylist())
    return {cell_id: one for cell_id, one in stamps.items() if cell_id not in known}
