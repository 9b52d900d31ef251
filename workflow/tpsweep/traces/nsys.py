"""Reader of Nsight Systems' SQLite exports (``nsys export --type sqlite``, 2023 to 2026)."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain, islice
from pathlib import Path

import numpy as np

from tpsweep.core.errors import CaptureError
from tpsweep.traces.events import (
    Annotation,
    Ints,
    Place,
    RankEvents,
    parse_annotation,
)

FLAGS = (
    "--trace=cuda,nvtx --cuda-graph-trace=node --trace-fork-before-exec=true "
    "--capture-range=cudaProfilerApi --capture-range-end=stop"
)
"""What a capture of vLLM needs, for the messages."""

_COPY_KINDS = {1: "HtoD", 2: "DtoH", 8: "DtoD", 10: "PtoP"}
_PROCESS_MASK = ~0xFFFFFF  # the low 24 bits of a globalTid are the thread
_EVENT_COLUMNS = ("start", "end", "deviceId", "streamId", "correlationId", "globalPid")
_EVENT_TABLES = {  # and what their events' names are made of
    "CUPTI_ACTIVITY_KIND_KERNEL": "demangledName",
    "CUPTI_ACTIVITY_KIND_MEMCPY": "-2 - copyKind",
    "CUPTI_ACTIVITY_KIND_MEMSET": "-1",
}
_CHUNK = 1 << 16


def read(path: Path, first_rank: int = 0) -> list[RankEvents]:
    """One ``RankEvents`` per GPU context of the export, in order of vLLM's names of the processes
    (``Worker_DP0_TP1``) if it has them, else of device, then process.

    An export does not tell ranks: they are numbered from ``first_rank`` on.
    Kernels, copies and memsets; memory is 40 bytes per event (about 100 while reading) whatever
    the file holds beside them. Raises ``CaptureError``.
    """
    with _database(path) as connection:
        columns = _tables(connection)
        _require_kernels(path, connection, columns)
        names = dict(connection.execute("SELECT id, value FROM StringIds"))
        used = [
            table for table in _EVENT_TABLES if set(_EVENT_COLUMNS) <= columns.get(table, set())
        ]
        events = _events(connection, used)
        annotations = _annotations(connection, columns)
        devices = _devices(connection, columns)
        places = _places(connection, columns)
        communicators = _communicators(connection, columns)
    used_names, events["name"] = np.unique(events["name"], return_inverse=True)
    texts = [_text(int(identifier), names) for identifier in used_names]
    parts = _by_context(events)
    order = sorted(
        range(len(parts)),
        key=lambda at: _order(places.get(parts[at][0]), devices, parts[at][0], parts[at][1], at),
    )
    return [
        _rank(
            path,
            rank,
            parts[at][2],
            texts,
            annotations.get(parts[at][0], []),
            parts[at][0],
            communicators.get(parts[at][0], frozenset()),
            places.get(parts[at][0], Place()),
        )
        for rank, at in enumerate(order, first_rank)
    ]


def _order(
    place: Place | None, devices: dict[tuple[int, int], int], process: int, device: int, at: int
) -> tuple[int, ...]:
    """Sort key of a GPU context: its place in the layout, the number of its GPU on the node (a
    process counts only those that it sees), then as found."""
    named = place or Place()
    gpu = devices.get((process, device), device)
    return (named.dp or 0, named.pp or 0, named.tp or 0, gpu, at)


def _by_context(events: dict[str, Ints]) -> list[tuple[int, int, dict[str, Ints]]]:
    """Process, device and events of each GPU context, by device, then process; by start within."""
    device, process = events.pop("deviceId"), events.pop("globalPid")
    order = np.lexsort((events["start"], process, device))
    device, process = device[order], process[order]
    fresh = np.flatnonzero((np.diff(device) != 0) | (np.diff(process) != 0)) + 1
    ends = [0, *fresh.tolist(), len(order)]
    owners, on = process[ends[:-1]].tolist(), device[ends[:-1]].tolist()
    del device, process
    for name in list(events):  # one after the other: never all columns twice
        events[name] = events.pop(name)[order]
    return [
        (owner, gpu, {name: column[begin:end] for name, column in events.items()})
        for owner, gpu, begin, end in zip(owners, on, ends[:-1], ends[1:], strict=True)
    ]


def _rank(
    path: Path,
    rank: int,
    part: dict[str, Ints],
    names: list[str],
    annotations: list[Annotation],
    process: int,
    communicators: frozenset[str],
    place: Place,
) -> RankEvents:
    return RankEvents(
        rank=rank,
        source=path.name,
        names=names,
        name=part["name"],
        start=part["start"],
        end=part["end"],
        stream=part["streamId"],
        annotations=annotations,
        launched=lambda: _launches(path, process, part["correlationId"]),
        communicators=communicators,
        place=place,
    )


def _devices(
    connection: sqlite3.Connection, columns: dict[str, set[str]]
) -> dict[tuple[int, int], int]:
    """Number on the node of each GPU, by process (as a globalPid) and its number in there."""
    if not {"gpuId", "cudaId", "pid"} <= columns.get("TARGET_INFO_CUDA_DEVICE", set()):
        return {}
    rows = connection.execute("SELECT pid, cudaId, gpuId FROM TARGET_INFO_CUDA_DEVICE")
    return {((pid or 0) << 24, cuda): gpu for pid, cuda, gpu in rows if gpu is not None}


def _places(connection: sqlite3.Connection, columns: dict[str, set[str]]) -> dict[int, Place]:
    """Place in the layout of each process (as a globalPid), by the name that vLLM gives it."""
    if not {"globalPid", "name"} <= columns.get("PROCESSES", set()):
        return {}
    found = {}
    for process, name in connection.execute("SELECT globalPid, name FROM PROCESSES"):
        if isinstance(name, str) and "Worker" in name:
            places = {key.lower(): int(at) for key, at in _PLACE_IN_NAME.findall(name)}
            if places:
                found[process] = Place(**places)
    return found


_PLACE_IN_NAME = re.compile(r"_(DP|PP|TP)(\d+)")
_COMMUNICATOR = re.compile(r'"[^"]*communicator[^"]*"\s*:\s*"?(0x[0-9a-f]+|[\d,]+)', re.IGNORECASE)


def _communicators(
    connection: sqlite3.Connection, columns: dict[str, set[str]]
) -> dict[int, frozenset[str]]:
    """Communicators with which each process (as a globalPid) reduced, by NCCL's own ranges."""
    if not {"text", "jsonText", "globalTid"} <= columns.get("NVTX_EVENTS", set()):
        return {}
    text, join = "n.text", ""
    if "textId" in columns["NVTX_EVENTS"]:
        text, join = "coalesce(n.text, s.value)", "LEFT JOIN StringIds s ON s.id = n.textId"
    query = (
        f"SELECT DISTINCT {text} AS words, n.jsonText, n.globalTid & ? FROM NVTX_EVENTS n {join} "
        "WHERE words LIKE 'ncclAllReduce%' AND n.jsonText IS NOT NULL"
    )
    found: dict[int, set[str]] = {}
    for _, payload, process in connection.execute(query, (_PROCESS_MASK,)):
        if match := _COMMUNICATOR.search(str(payload)):
            found.setdefault(process, set()).add(match[1])
    return {process: frozenset(ids) for process, ids in found.items()}


@contextmanager
def _database(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            yield connection
    except CaptureError:
        raise
    except (sqlite3.Error, TypeError, ValueError, OverflowError) as error:
        # The last three: a null, a text or too large a number where a time or an id must be.
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


def _chunks(
    connection: sqlite3.Connection, query: str, width: int, values: Sequence[int] = ()
) -> Iterator[Ints]:
    """Rows of integers in arrays of shape (rows, width), without a list of Python rows."""
    rows = connection.execute(query, values)
    while len(chunk := np.fromiter(chain.from_iterable(islice(rows, _CHUNK)), dtype=np.int64)):
        yield chunk.reshape(-1, width)


def _events(connection: sqlite3.Connection, tables: Sequence[str]) -> dict[str, Ints]:
    """All events of the tables: ``_EVENT_COLUMNS``, and ``name``: the id of a text, negative for
    copies and memsets (see ``_text``)."""
    counts = [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]
    found = {name: np.empty(sum(counts), dtype=np.int64) for name in (*_EVENT_COLUMNS, "name")}
    at = 0
    for table in tables:
        query = (
            "SELECT start, end, deviceId, streamId, coalesce(correlationId, -1), "
            f"coalesce(globalPid, -1), {_EVENT_TABLES[table]} FROM {table}"
        )
        for chunk in _chunks(connection, query, len(found)):
            for column, values in zip(found.values(), chunk.T, strict=True):
                column[at : at + len(chunk)] = values
            at += len(chunk)
    return found


def _text(identifier: int, names: dict[int, str]) -> str:
    if identifier >= 0:
        return names.get(identifier, f"string {identifier}")
    copy = -2 - identifier
    return f"Memcpy {_COPY_KINDS.get(copy, copy)}" if copy >= 0 else "Memset"


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
        "WHERE words LIKE 'execute_%context_%' OR words LIKE 'step[%' "
        "OR words LIKE '[Executor] _forward_step%' ORDER BY n.start"
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
        chunks = _chunks(
            connection,
            "SELECT correlationId, min(start) FROM CUPTI_ACTIVITY_KIND_RUNTIME "
            "WHERE correlationId IS NOT NULL AND (globalTid & ?) = ? "
            "GROUP BY correlationId ORDER BY correlationId",
            2,
            (_PROCESS_MASK, process),
        )
        calls = np.concatenate([np.empty((0, 2), dtype=np.int64), *chunks])
    return look_up(calls, correlation)


def look_up(calls: Ints, correlation: Ints) -> Ints:
    """Time of each correlation id in ``calls`` (id, time; sorted by id), -1 where it is not."""
    if not len(calls):
        return np.full(len(correlation), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(calls[:, 0], correlation), len(calls) - 1)
    return np.where(calls[place, 0] == correlation, calls[place, 1], -1)
