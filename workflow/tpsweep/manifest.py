"""results/matrix.parquet: every cell of the current matrix, planned or not, with its reason."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tpsweep.atomic import replacing
from tpsweep.matrix import Planned
from tpsweep.row import FLOAT, IDENTITY, INT, TEXT, Column

COLUMNS = (
    *IDENTITY,
    Column("path", TEXT, "the row's place below the results root"),
    Column("status", TEXT, "planned, infeasible or excluded"),
    Column("reason", TEXT, "why it is not planned; null if it is"),
    Column("session", TEXT, "cells with an equal key share an engine"),
    Column("settings", TEXT, "digest of what else can change a number; cells compare within it"),
    Column("minutes", INT, "the cell's own time limit"),
    Column("entry", TEXT, "the workload's name in the config"),
    Column("workload_label", TEXT, "for people, from the config"),
    Column("model_label", TEXT, "for people, from the config"),
    Column(
        "gpu_hour_usd", FLOAT, "price of a GPU-hour of its node class, from the config; or null"
    ),
)
_OF_PLAN = ("status", "reason", "minutes", "entry", "workload_label", "model_label")
_SWEEP = b"sweep_sha256"
SCHEMA = pa.schema([pa.field(c.name, c.type, metadata={"doc": c.doc}) for c in COLUMNS])


def write_manifest(
    planned: Sequence[Planned],
    path: Path,
    sweep: str = "",
    prices: Mapping[str, float] | None = None,
) -> None:
    """Write every cell to ``path``, atomically; ``sweep`` (config and site) is kept as a digest.

    ``prices``: USD per GPU-hour by node class.
    """
    sessions: dict[int, str] = {}
    records = []
    for item in planned:
        engine = item.cell.engine
        # One engine object serves many cells: its key is hashed once.
        session = sessions.get(id(engine)) or sessions.setdefault(id(engine), engine.session)
        price = (prices or {}).get(engine.gpu)
        records.append({**_record(item, session), "gpu_hour_usd": price})
    schema = SCHEMA.with_metadata({_SWEEP: _digest(sweep)})
    table = pa.Table.from_pylist(records, schema=schema)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def is_of(path: Path, sweep: str) -> bool:
    """Whether the manifest at ``path`` was written for this sweep; False if there is none."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError):
        return False
    return bool(metadata.get(_SWEEP) == _digest(sweep))


def _digest(sweep: str) -> bytes:
    return hashlib.sha256(sweep.encode()).hexdigest().encode()


def read_manifest(path: Path) -> pd.DataFrame:
    """The manifest, one line a cell. Raises ``ValueError``, one line, if it is not readable."""
    try:
        table = pq.read_table(path, schema=SCHEMA)
    except (pa.ArrowInvalid, OSError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{path}: not a readable manifest: {said}") from error
    frame: pd.DataFrame = table.to_pandas(types_mapper={INT: pd.Int64Dtype()}.get)
    return frame


def _record(item: Planned, session: str) -> dict[str, Any]:
    cell = item.cell
    return {
        **cell.columns(),
        "cell_id": cell.cell_id,
        "path": cell.path,
        **{name: getattr(item, name) for name in _OF_PLAN},
        "session": session,
        "settings": cell.settings,
    }
