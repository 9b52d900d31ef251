"""results/matrix.parquet: every cell of the current matrix, planned or not, with its reason."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tpsweep.core.atomic import replacing
from tpsweep.core.errors import one_line
from tpsweep.core.schema import FLOAT, IDENTITY, INT, TEXT, Column
from tpsweep.core.workloads import KINDS
from tpsweep.perfmodel.cell_time import expected_of, start_seconds
from tpsweep.perfmodel.model_shape import Shape
from tpsweep.sweep.expand import Planned

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
    Column("expected_prefill_ms", FLOAT, "by docs/expectation.md, never measured; latency only"),
    Column("expected_tpot_ms", FLOAT, "by docs/expectation.md, never measured; latency, serve"),
    Column("expected_s", FLOAT, "what the cell should take on its engine; null: not known"),
    Column("expected_start_s", FLOAT, "what its engine's start should take"),
    Column("expectation_note", TEXT, "reason why there is no expectation"),
    Column("gpu_hour_usd", FLOAT, "price of an hour of one GPU, from the config; null without"),
)
_OF_PLAN = ("status", "reason", "minutes", "entry", "workload_label", "model_label")
_SWEEP = b"sweep_sha256"
SCHEMA = pa.schema([pa.field(c.name, c.type, metadata={"doc": c.doc}) for c in COLUMNS])


def write_manifest(
    planned: Sequence[Planned],
    path: Path,
    sweep: str = "",
    shapes: Mapping[str, Shape | None] | None = None,
    prices: Mapping[str, float] | None = None,
) -> None:
    """Write every cell to ``path``, atomically; ``sweep`` (config and site) is kept as a digest.

    ``shapes`` of the models, by name, are what the expectations need; ``prices`` are USD per GPU
    hour by node class.
    """
    sessions: dict[int, str] = {}
    records = []
    for item in planned:
        engine = item.cell.engine
        # One engine object serves many cells: its key is hashed once.
        session = sessions.get(id(engine)) or sessions.setdefault(id(engine), item.started.session)
        price = (prices or {}).get(engine.gpu)
        cost = {"gpu_hour_usd": price}
        records.append(_record(item, session) | _expected(item, shapes) | cost)
    schema = SCHEMA.with_metadata({_SWEEP: _digest(sweep)})
    table = pa.Table.from_pylist(records, schema=schema)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def is_of(path: Path, sweep: str) -> bool:
    """Whether the manifest at ``path`` was written for this sweep, with all columns of today; False
    if there is none."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError):
        return False
    whole = set(SCHEMA.names) <= set(schema.names)
    return whole and bool((schema.metadata or {}).get(_SWEEP) == _digest(sweep))


def _digest(sweep: str) -> bytes:
    return hashlib.sha256(sweep.encode()).hexdigest().encode()


def read_manifest(path: Path) -> pd.DataFrame:
    """The manifest, one line per cell. Raises ``ValueError``, one line, if it is not readable."""
    try:
        table = pq.read_table(path, schema=SCHEMA)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: not a readable manifest: {one_line(error)}") from error
    frame: pd.DataFrame = table.to_pandas(types_mapper={INT: pd.Int64Dtype()}.get)
    return frame


def _expected(item: Planned, shapes: Mapping[str, Shape | None] | None) -> dict[str, Any]:
    """What is expected of a planned cell; prefill and decode where they are measured, too."""
    if shapes is None or item.status != "planned":
        return {}
    engine = item.cell.engine
    found = expected_of(item.cell, shapes.get(engine.model.name))
    kind = KINDS[item.cell.workload]
    return {
        "expected_prefill_ms": found.prefill_ms if kind.has_prefill else None,
        "expected_tpot_ms": found.tpot_ms if kind.has_decode else None,
        "expected_s": found.seconds,
        "expected_start_s": start_seconds(engine, shapes),
        "expectation_note": found.note,
    }


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
