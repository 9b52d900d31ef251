"""Table ``floors``: how far each latency row is from what the hardware allows (rule 3)."""

from __future__ import annotations

from tpsweep.analysis.series import Source
from tpsweep.analysis.table import (
    CELL_HEAD,
    CELL_VIEWS,
    IDENTITY_ORDER,
    NA,
    NOTE,
    SYNTHETIC,
    Record,
    Table,
    View,
    figure,
    labels_of,
    sort_records,
)
from tpsweep.core import schema
from tpsweep.core.schema import TEXT, Column
from tpsweep.core.workloads import LATENCY

_SHOWN = (
    *("tpot_ms", "decode_floor_ms", "decode_floor_ratio"),
    *("decode_floor_kv_ms", "decode_floor_kv_ratio"),
    *("prefill_ms", "prefill_floor_ms", "prefill_floor_ratio"),
)
RATIOS = {"decode_floor_ratio": "decode", "prefill_floor_ratio": "prefill"}
"""Ratios that a valid row has at 1 or above; the floor with KV reads is shown only."""
_FIGURES = {column.name: column for column in schema.FIGURES}
COLUMNS = (
    *CELL_HEAD,
    *(_FIGURES[name] for name in _SHOWN),
    Column("note", TEXT, "why floors are null, or what is wrong"),
    SYNTHETIC,
)
VIEWS = (
    *CELL_VIEWS,
    View("Decode (ms/token)", figure("tpot_ms", NA)),
    View("Floor, weights (ms)", figure("decode_floor_ms", NA)),
    View("Decode / floor", figure("decode_floor_ratio", NA)),
    View("Floor, weights and KV (ms)", figure("decode_floor_kv_ms", NA)),
    View("Decode / floor with KV", figure("decode_floor_kv_ratio", NA)),
    View("Prefill (ms)", figure("prefill_ms", NA)),
    View("Prefill floor (ms)", figure("prefill_floor_ms", NA)),
    View("Prefill / floor", figure("prefill_floor_ratio", NA)),
    NOTE,
)
LEGEND = (
    "Floors come from datasheets: for decode, the bytes of weights that a step reads / TP / memory"
    " bandwidth, and the same with the KV cache at mid-decode; for prefill 2 x parameters x tokens"
    " / TP / peak FLOP/s. 1 is the limit; no hardware goes below it.",
)
EMPTY = "The matrix has no latency cells."


def build(source: Source) -> Table:
    """One line per latency cell of the manifest, measured or not."""
    lines = [_line(cell) for cell in source.of(LATENCY)]
    sort_records(lines, IDENTITY_ORDER)
    return Table("floors", "Floors", COLUMNS, VIEWS, lines, LEGEND, EMPTY)


def _line(cell: Record) -> Record:
    line: Record = dict.fromkeys(column.name for column in COLUMNS)
    line |= {name: cell[name] for name in (*schema.IDENTITY_NAMES, "state", "reason", *_SHOWN)}
    line |= labels_of(cell)
    line["synthetic"] = bool(cell["synthetic"])
    note = cell["floor_note"]
    below = [
        f"{what} is faster than its floor: no valid row"
        for name, what in RATIOS.items()
        if cell[name] is not None and cell[name] < 1
    ]
    notes = [*([note] if note else []), *below]
    return {**line, "note": "; ".join(notes) or None}
