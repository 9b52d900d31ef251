"""Rows from their files: thousands of small ones, read in processes side by side, and only once.

What was read is kept in ``.rows.arrow`` below the results root, with each file's size and time of
change: the next command reads the files that are new or changed. The cache may be deleted at any
time, and nothing but its own speed depends on it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tpsweep.core import schema
from tpsweep.core.atomic import replacing
from tpsweep.core.axes import BY_NAME

CACHE = ".rows.arrow"
MANY = 400
"""Files from which on processes and a cache are worth their start."""
_PART = 100
_STAMP = pa.schema([("path", pa.string()), ("size", pa.int64()), ("changed_ns", pa.int64())])
_CACHED = pa.schema([*schema.SCHEMA, *(pa.field(f"file_{f.name}", f.type) for f in _STAMP)])


@dataclass(frozen=True)
class Read:
    """``rows`` has the schema of ``row``; ``errors`` says why files cannot be read, by cell."""

    rows: pa.Table
    errors: dict[str, str]


def read_rows(results: Path, places: Mapping[str, str]) -> Read:
    """The rows of the cells in ``places`` (``cell_id`` to a path below ``results``) that exist."""
    found = {cell_id: _stamp(results, path) for cell_id, path in places.items()}
    stamps = {cell_id: stamp for cell_id, stamp in found.items() if stamp is not None}
    cached = _cached(results / CACHE, stamps)
    known = set(cached["cell_id"].to_pylist())
    wanted = [(cell_id, stamp[0]) for cell_id, stamp in stamps.items() if cell_id not in known]
    parts = [cached.select(schema.SCHEMA.names)]
    errors: dict[str, str] = {}
    for table, failed in _read_all(results, wanted):
        parts.append(table)
        errors |= failed
    rows = _in_order(pa.concat_tables(parts).combine_chunks(), stamps)
    if wanted and len(rows) >= MANY:
        _keep(results / CACHE, rows, stamps)
    return Read(rows, errors)


def _in_order(rows: pa.Table, stamps: Mapping[str, object]) -> pa.Table:
    """Rows as the cells were given: what was cached must not come first."""
    place = {cell_id: at for at, cell_id in enumerate(stamps)}
    order = [place[cell_id] for cell_id in rows["cell_id"].to_pylist()]
    return rows.take(np.argsort(order, kind="stable"))


def read_file(path: Path, cell_id: str) -> pa.Table:
    """A cell's row, checksums and all. Raises ``ValueError`` or ``OSError`` if it is none."""
    # The whole file at once: reads of one column chunk after the other take a sixth longer.
    source = pa.BufferReader(path.read_bytes())
    table = pq.ParquetFile(source, page_checksum_verification=True).read(use_threads=False)
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
    present = set(table.column_names)
    missing = sorted(set(required) - present)
    if missing:
        raise ValueError(f"no column {', '.join(missing)}")
    arrays = [
        table[field.name].cast(field.type)
        if field.name in present
        else _absent(field, table.num_rows)
        for field in schema
    ]
    return pa.table(arrays, schema=schema)


def _absent(field: pa.Field, length: int) -> pa.Array:
    default = BY_NAME[field.name].default if field.name in BY_NAME else None
    return (
        pa.array([default] * length, field.type)
        if default is not None
        else pa.nulls(length, field.type)
    )


def _stamp(results: Path, path: str) -> tuple[str, int, int] | None:
    try:
        found = (results / path).stat()
    except OSError:
        return None
    return path, found.st_size, found.st_mtime_ns


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
            errors[cell_id] = " ".join(str(error).split())[:300] or type(error).__name__
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema.SCHEMA) as writer:
        writer.write_table(pa.concat_tables(tables).combine_chunks())
    return sink.getvalue().to_pybytes(), errors


def _cached(path: Path, stamps: Mapping[str, tuple[str, int, int]]) -> pa.Table:
    """Cached rows whose files are as they were; none if there is no cache of this schema."""
    try:
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
    except (OSError, pa.ArrowException):
        return _CACHED.empty_table()
    if not table.schema.equals(_CACHED):
        return _CACHED.empty_table()
    columns = [table[name].to_pylist() for name in ("cell_id", *_STAMP_NAMES)]
    same = [stamps.get(cell_id) == (*stamp,) for cell_id, *stamp in zip(*columns, strict=True)]
    return table.filter(pa.array(same, pa.bool_()))


_STAMP_NAMES = tuple(f"file_{name}" for name in _STAMP.names)


def _keep(path: Path, rows: pa.Table, stamps: Mapping[str, tuple[str, int, int]]) -> None:
    """Write the cache; a folder that cannot be written has none."""
    kept = [stamps[cell_id] for cell_id in rows["cell_id"].to_pylist()]
    columns = [pa.array([stamp[at] for stamp in kept], f.type) for at, f in enumerate(_STAMP)]
    table = pa.table([*rows.columns, *columns], schema=_CACHED)
    with (
        contextlib.suppress(OSError),
        replacing(path) as temporary,
        pa.ipc.new_file(str(temporary), _CACHED) as writer,
    ):
        writer.write_table(table)
