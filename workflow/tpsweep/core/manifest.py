"""The columns of results/matrix.parquet: every cell of the current matrix, planned or not."""

from __future__ import annotations

import pyarrow as pa

from tpsweep.core.axes import AXES
from tpsweep.core.schema import BOOL, FLOAT, IDENTITY, INT, TEXT, Column

LABELS = (
    Column("workload_label", TEXT, "for people, from the config", optional=True),
    Column("model_label", TEXT, "for people, from the config", optional=True),
)
"""What people call workload and model; no identity, in tables only where the config has them."""
MODEL_LABEL = LABELS[1]
LAB = Column("lab", BOOL, "true: the page answers the lab's questions, too", optional=True)
COLUMNS = (
    *IDENTITY,
    Column("path", TEXT, "the row's place below the results root"),
    Column("status", TEXT, "planned, infeasible or excluded"),
    Column("reason", TEXT, "why it is not planned; null if it is"),
    Column("session", TEXT, "cells with an equal key share an engine"),
    Column("settings", TEXT, "digest of what else can change a number; cells compare within it"),
    Column("minutes", INT, "the cell's own time limit"),
    Column("entry", TEXT, "the workload's name in the config"),
    *LABELS,
    Column("experts", INT, "experts of a layer of the model, 0: dense; null: not known"),
    Column("expected_prefill_ms", FLOAT, "by docs/expectation.md, never measured; latency only"),
    Column("expected_tpot_ms", FLOAT, "by docs/expectation.md, never measured; latency, serve"),
    Column("expected_s", FLOAT, "what the cell should take on its engine; null: not known"),
    Column("expected_start_s", FLOAT, "what its engine's start should take"),
    Column("expectation_note", TEXT, "reason why there is no expectation"),
    Column("gpu_hour_usd", FLOAT, "price of an hour of one GPU, from the config; null without"),
    LAB,
)
SCHEMA = pa.schema([pa.field(c.name, c.type, metadata={"doc": c.doc}) for c in COLUMNS])
_FIRST = (*(axis.name for axis in AXES if not axis.added), "cell_id", "path", "status", "reason")
NEEDED = frozenset((*_FIRST, "session"))
"""What every manifest has, the oldest too; other columns may be absent from the file."""
