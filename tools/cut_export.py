"""An Nsight Systems export without what the analysis does not read."""

from __future__ import annotations

import hashlib
import lzma
import sqlite3
import tempfile
from collections.abc import Iterable, Sequence, Set
from contextlib import closing
from pathlib import Path
from typing import Any

from tools.grouping import grouped

_EVENTS = {  # table: the column that names its events
    "CUPTI_ACTIVITY_KIND_KERNEL": "demangledName",
    "CUPTI_ACTIVITY_KIND_MEMCPY": "copyKind",
    "CUPTI_ACTIVITY_KIND_MEMSET": None,
}
_COLUMNS = ("start", "end", "deviceId", "streamId", "correlationId", "globalPid")
_FACTS = {
    "META_DATA_EXPORT": "name GLOB 'EXPORT_PRODUCT_*' OR name GLOB 'EXPORT_SCHEMA_*'",
    "TARGET_INFO_GPU": "1",
    "TARGET_INFO_SESSION_START_TIME": "1",
}
"""Small tables that say by which nsys, of which GPUs and when, and which rows of them stay."""
_RUNTIME = "CUPTI_ACTIVITY_KIND_RUNTIME"
_MARK = "TPSWEEP_CUT"


def is_cut(path: Path) -> bool:
    """Whether an export (packed by xz) is one that ``cut`` has written."""
    with tempfile.TemporaryDirectory() as folder, closing(_open(path, Path(folder))) as source:
        return _MARK in _tables(source)


def cut(path: Path, target: Path, step_starts: Set[int]) -> None:
    """Write to ``target`` what ``nsys.read`` needs of ``path``; both are packed by xz.

    Events keep name, time, stream, device and process. Of the runtime calls only those stay that
    launched an event with a start in ``step_starts`` (ns): they mark where a step begins. The
    environment, processes and threads of the host go.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "cut.sqlite"
        with (
            closing(_open(path, Path(folder))) as source,
            closing(sqlite3.connect(made)) as result,
        ):
            tables = _tables(source)
            for table, name in _EVENTS.items():
                if {*_COLUMNS, *([name] if name else [])} <= tables.get(table, set()):
                    _events(source, result, table, name, step_starts)
            _strings(source, result)
            if _RUNTIME in tables:
                _launches(source, result)
            if "NVTX_EVENTS" in tables:
                _announced(source, result, tables["NVTX_EVENTS"])
            for table in sorted(_FACTS.keys() & tables.keys()):
                _copy(source, result, table)
            _mark(result, path)
            result.commit()
            result.execute("VACUUM")
        target.write_bytes(lzma.compress(made.read_bytes(), preset=9 | lzma.PRESET_EXTREME))


def _open(path: Path, folder: Path) -> sqlite3.Connection:
    unpacked = folder / "whole.sqlite"
    unpacked.write_bytes(lzma.decompress(path.read_bytes()))
    return sqlite3.connect(f"{unpacked.resolve().as_uri()}?mode=ro", uri=True)


def _tables(source: sqlite3.Connection) -> dict[str, set[str]]:
    names = [
        name for (name,) in source.execute("SELECT name FROM sqlite_master WHERE type='table'")
    ]
    return {
        name: {row[1] for row in source.execute("SELECT * FROM pragma_table_info(?)", (name,))}
        for name in names
    }


def _events(
    source: sqlite3.Connection,
    result: sqlite3.Connection,
    table: str,
    name: str | None,
    step_starts: Set[int],
) -> None:
    columns = (*_COLUMNS, name) if name else _COLUMNS
    rows = source.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY rowid").fetchall()
    place = _COLUMNS.index("correlationId")
    order = grouped([(*row[2:4], row[-1]) for row in rows], [row[0] for row in rows])
    slim = (
        rows[at]
        if rows[at][0] in step_starts
        else (*rows[at][:place], None, *rows[at][place + 1 :])
        for at in order
    )
    _fill(result, table, columns, slim)


def _strings(source: sqlite3.Connection, result: sqlite3.Connection) -> None:
    used = [
        row
        for row in result.execute("SELECT DISTINCT demangledName FROM CUPTI_ACTIVITY_KIND_KERNEL")
    ]
    rows = [
        row
        for (identifier,) in sorted(used)
        for row in source.execute("SELECT id, value FROM StringIds WHERE id = ?", (identifier,))
    ]
    _fill(result, "StringIds", ("id", "value"), rows)


def _launches(source: sqlite3.Connection, result: sqlite3.Connection) -> None:
    present = {name for (name,) in result.execute("SELECT name FROM sqlite_master")}
    kept = {
        correlation
        for table in _EVENTS
        if table in present
        for (correlation,) in result.execute(
            f"SELECT correlationId FROM {table} WHERE correlationId IS NOT NULL"
        )
    }
    columns = ("start", "globalTid", "correlationId")
    rows = source.execute(f"SELECT {', '.join(columns)} FROM {_RUNTIME} ORDER BY rowid")
    _fill(result, _RUNTIME, columns, (row for row in rows if row[2] in kept))


def _announced(source: sqlite3.Connection, result: sqlite3.Connection, columns: set[str]) -> None:
    """The steps' annotations, their texts in place."""
    text, join = "n.text", ""
    if "textId" in columns:
        text, join = "coalesce(n.text, s.value)", "LEFT JOIN StringIds s ON s.id = n.textId"
    rows = source.execute(
        f"SELECT n.start, {text} AS words, n.globalTid FROM NVTX_EVENTS n {join} "
        "WHERE words LIKE 'execute_%context_%' ORDER BY n.rowid"
    )
    _fill(result, "NVTX_EVENTS", ("start", "text", "globalTid"), rows)


def _copy(source: sqlite3.Connection, result: sqlite3.Connection, table: str) -> None:
    found = source.execute(f"SELECT * FROM {table} WHERE {_FACTS[table]} ORDER BY rowid")
    _fill(result, table, [column[0] for column in found.description], found)


def _mark(result: sqlite3.Connection, path: Path) -> None:
    packed = path.read_bytes()
    facts = [
        ("original_sha256", hashlib.sha256(packed).hexdigest()),
        ("original_bytes", str(len(packed))),
    ]
    _fill(result, _MARK, ("name", "value"), facts)


def _fill(
    result: sqlite3.Connection, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    quoted = ", ".join(f'"{column}"' for column in columns)
    result.execute(f"CREATE TABLE {table} ({quoted})")
    result.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", rows)
