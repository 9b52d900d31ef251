"""Reader of Nsight Systems' SQLite exports (``nsys export --type sqlite``, 2023 to 2026)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path

import numpy as np

from tpsweep.capture.events import Annotation, CaptureError, Ints, RankEvents, parse_annotation

FLAGS = (
    "--trace=cuda,nvtx --cuda-graph-trace=node --trace-fork-before-exec=true "
    "--capture-range=cudaProfilerApi --capture-range-end=stop"
)
"""What a capture of vLLM needs, for the messages."""

_COPY_KINDS = {1: "HtoD", 2: "DtoH", 8: "DtoD", 10: "PtoP"}
_PROCESS_MASK = ~0xFFFFFF  # the low 24 bits of a globalTid are the thread
_EVENT_COLUMNS = ("start", "end", "deviceId", "streamId", "correlationId", "globalPid")


def read(path: Path, first_rank: int = 0) -> list[RankEvents]:
    """One ``RankEvents`` per GPU context of the export, in order of device, then process.

    An export does not tell tensor-parallel ranks: they are numbered from ``first_rank`` on.
    Kernels, copies and memsets; 40 bytes of memory per event whatever the file holds beside them.
    Raises ``CaptureError``.
    """
    with _database(path) as connection:
        columns = _tables(connection)
        _require_kernels(path, connection, columns)
        names = dict(connection.execute("SELECT id, value FROM StringIds"))
        events = np.concatenate(
            [
                _kernels(connection),
                *(
                    _copies(connection, table, names)
                    for table in ("CUPTI_ACTIVITY_KIND_MEMCPY", "CUPTI_ACTIVITY_KIND_MEMSET")
                    if set(_EVENT_COLUMNS) <= columns.get(table, set())
                ),
            ]
        )
        annotations = _annotations(connection, columns)
    used, events[:, 6] = np.unique(events[:, 6], return_inverse=True)
    texts = [names.get(int(identifier), f"string {identifier}") for identifier in used]
    contexts = _contexts(events)
    return [
        _rank(
            path,
            rank,
            events[(events[:, 2] == device) & (events[:, 5] == process)],
            texts,
            annotations,
        )
        for rank, (device, process) in enumerate(contexts, first_rank)
    ]


def _contexts(events: Ints) -> list[tuple[int, int]]:
    """(device, process) of all events, sorted."""
    processes = np.unique(events[:, 5]).tolist()
    return sorted(
        (device, process)
        for process in processes
        for device in np.unique(events[events[:, 5] == process, 2]).tolist()
    )


def _rank(
    path: Path, rank: int, rows: Ints, names: list[str], annotations: dict[int, list[Annotation]]
) -> RankEvents:
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    process = int(rows[0, 5])
    correlation = np.ascontiguousarray(rows[:, 4])
    return RankEvents(
        rank=rank,
        source=path.name,
        names=names,
        name=np.ascontiguousarray(rows[:, 6]),
        start=np.ascontiguousarray(rows[:, 0]),
        end=np.ascontiguousarray(rows[:, 1]),
        stream=np.ascontiguousarray(rows[:, 3]),
        annotations=annotations.get(process, []),
        launched=lambda: _launches(path, process, correlation),
    )


@contextmanager
def _database(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise CaptureError(
            f"{path}: not a whole SQLite export ({error}); make it again with "
            "`nsys export --type sqlite` on a disk with room and file locks"
        ) from error


def _tables(connection: sqlite3.Connection) -> dict[str, set[str]]:
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return {
        name: {row[1] for row in connection.execute("SELECT * FROM pragma_table_info(?)", (name,))}
        for (name,) in tables
    }


def _require_kernels(
    path: Path, connection: sqlite3.Connection, columns: dict[str, set[str]]
) -> None:
    """Refuse exports that cannot hold every kernel, with the flag that mends it."""
    kernels = "CUPTI_ACTIVITY_KIND_KERNEL"
    if not columns:
        raise CaptureError(f"{path}: an empty database; run `nsys export --type sqlite` again")
    if _rows(connection, columns, "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"):
        raise CaptureError(
            f"{path}: CUDA graphs are traced as a whole, their kernels are not in the capture; "
            "run nsys with --cuda-graph-trace=node"
        )
    if not _rows(connection, columns, kernels):
        raise CaptureError(f"{path}: no GPU kernels in the capture; run nsys with {FLAGS}")
    missing = sorted({*_EVENT_COLUMNS, "demangledName"} - columns[kernels])
    if missing or "StringIds" not in columns:
        version = "unknown"
        for table in {"META_DATA_EXPORT", "EXPORT_META_DATA"} & set(columns):
            query = f"SELECT value FROM {table} WHERE name = 'EXPORT_SCHEMA_VERSION'"
            version = (connection.execute(query).fetchone() or (version,))[0]
        what = f"{kernels}: {', '.join(missing)}" if missing else "StringIds"
        raise CaptureError(
            f"{path}: export schema {version} lacks {what}; export the .nsys-rep again with "
            "nsys 2023.1 or newer (read: schema 3)"
        )


def _rows(connection: sqlite3.Connection, columns: dict[str, set[str]], table: str) -> bool:
    return table in columns and bool(
        connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()
    )


def _fetch(
    connection: sqlite3.Connection, query: str, width: int, values: Sequence[int] = ()
) -> Ints:
    """Rows of integers as an array of shape (rows, width), without a list of Python rows."""
    flat = chain.from_iterable(connection.execute(query, values))
    return np.fromiter(flat, dtype=np.int64).reshape(-1, width)


def _kernels(connection: sqlite3.Connection) -> Ints:
    """Columns: those of ``_EVENT_COLUMNS``, then the id of the name."""
    return _fetch(
        connection,
        "SELECT start, end, deviceId, streamId, coalesce(correlationId, -1), "
        "coalesce(globalPid, -1), demangledName FROM CUPTI_ACTIVITY_KIND_KERNEL",
        7,
    )


def _copies(connection: sqlite3.Connection, table: str, names: dict[int, str]) -> Ints:
    """Copies or memsets as events like kernels; their names, negative ids, go into ``names``."""
    kind = "copyKind" if table.endswith("MEMCPY") else "-1"
    rows = _fetch(
        connection,
        "SELECT start, end, deviceId, streamId, coalesce(correlationId, -1), "
        f"coalesce(globalPid, -1), {kind} FROM {table}",
        7,
    )
    rows[:, 6] = -2 - rows[:, 6]
    for identifier in np.unique(rows[:, 6]).tolist():
        copy = -2 - identifier
        names[identifier] = f"Memcpy {_COPY_KINDS.get(copy, copy)}" if copy >= 0 else "Memset"
    return rows


def _annotations(
    connection: sqlite3.Connection, columns: dict[str, set[str]]
) -> dict[int, list[Annotation]]:
    """Steps announced by each process, in order of time; the process as a globalPid."""
    if not {"start", "text", "globalTid"} <= columns.get("NVTX_EVENTS", set()):
        return {}
    text, join = "n.text", ""
    if "textId" in columns["NVTX_EVENTS"]:
        text, join = "coalesce(n.text, s.value)", "LEFT JOIN StringIds s ON s.id = n.textId"
    query = (
        f"SELECT n.start, {text} AS words, n.globalTid FROM NVTX_EVENTS n {join} "
        "WHERE words LIKE 'execute_%context_%' ORDER BY n.start"
    )
    found: dict[int, list[Annotation]] = {}
    for start, words, thread in connection.execute(query):
        if annotation := parse_annotation(start, words):
            found.setdefault((thread or 0) & _PROCESS_MASK, []).append(annotation)
    return found


def _launches(path: Path, process: int, correlation: Ints) -> Ints:
    """Host time in ns at which each event of a process was launched (-1: not in the capture)."""
    with _database(path) as connection:
        if "CUPTI_ACTIVITY_KIND_RUNTIME" not in _tables(connection):
            return np.full(len(correlation), -1, dtype=np.int64)
        calls = _fetch(
            connection,
            "SELECT correlationId, min(start) FROM CUPTI_ACTIVITY_KIND_RUNTIME "
            "WHERE correlationId IS NOT NULL AND (globalTid & ?) = ? "
            "GROUP BY correlationId ORDER BY correlationId",
            2,
            (_PROCESS_MASK, process),
        )
    return look_up(calls, correlation)


def look_up(calls: Ints, correlation: Ints) -> Ints:
    """Time of each correlation id in ``calls`` (id, time; sorted by id), -1 where it is not."""
    if not len(calls):
        return np.full(len(correlation), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(calls[:, 0], correlation), len(calls) - 1)
    return np.where(calls[place, 0] == correlation, calls[place, 1], -1)
