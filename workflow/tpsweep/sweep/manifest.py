"""results/matrix.parquet: every cell of the current matrix, planned or not, with its reason."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tpsweep.core.atomic import replacing
from tpsweep.core.manifest import SCHEMA
from tpsweep.core.workloads import KINDS
from tpsweep.perfmodel.cell_time import expected_of, start_seconds
from tpsweep.perfmodel.model_shape import Shape
from tpsweep.sweep.expand import Planned

_OF_PLAN = ("status", "reason", "minutes", "entry", "workload_label", "model_label")
_SWEEP = b"sweep_sha256"


def write_manifest(
    planned: Sequence[Planned],
    path: Path,
    sweep: str = "",
    shapes: Mapping[str, Shape | None] | None = None,
    prices: Mapping[str, float] | None = None,
    unknown: Mapping[str, str] | None = None,
    *,
    lab: bool = False,
) -> None:
    """Write every cell to ``path``, atomically; ``sweep`` (config and site) is kept as a digest.

    ``shapes`` of the models, by name, are what the expectations need, and ``unknown`` why one has
    none; ``prices`` are USD per GPU hour by node class. ``lab``: the sweep is of the lab.
    """
    sessions: dict[int, str] = {}
    records = []
    for item in planned:
        engine = item.cell.engine
        # One engine object serves many cells: its key is hashed once.
        session = sessions.get(id(engine)) or sessions.setdefault(id(engine), item.started.session)
        price = (prices or {}).get(engine.gpu)
        shape = (shapes or {}).get(engine.model.name)
        more = {"gpu_hour_usd": price, "experts": shape.experts if shape else None}
        more["lab"] = lab or None
        records.append(_record(item, session) | _expected(item, shapes, unknown or {}) | more)
    schema = SCHEMA.with_metadata({_SWEEP: _digest(sweep)})
    table = pa.Table.from_pylist(records, schema=schema)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def other_sites(path: Path, site: str) -> list[str]:
    """The sites other than ``site`` of which the results root with this manifest holds rows."""
    try:
        planned = pq.read_table(path, columns=["site", "path"], filters=[("site", "!=", site)])
    except (pa.ArrowException, OSError):
        return []
    lines = planned.to_pylist()
    return sorted({line["site"] for line in lines if (path.parent / line["path"]).exists()})


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


def _expected(
    item: Planned, shapes: Mapping[str, Shape | None] | None, unknown: Mapping[str, str]
) -> dict[str, Any]:
    """What is expected of a planned cell; prefill and decode where they are measured, too."""
    if shapes is None or item.status != "planned":
        return {}
    engine = item.cell.engine
    found = expected_of(item.cell, shapes.get(engine.model.name), unknown.get(engine.model.name))
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
