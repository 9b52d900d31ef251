"""Table ``cells``: every cell of the manifest, measured or not, with its figures."""

from __future__ import annotations

import pyarrow as pa

from tpsweep.analysis.series import Source
from tpsweep.analysis.table import (
    IDENTITY_ORDER,
    IDENTITY_VIEWS,
    REASON_COLUMN,
    STATE_COLUMN,
    Table,
    View,
    figure,
    identity,
    sort_records,
    text,
)
from tpsweep.core import schema
from tpsweep.core.schema import TEXT, Column

STATE = (
    STATE_COLUMN,
    Column("failure_type", TEXT, "of a failed cell"),
    REASON_COLUMN,
    Column("path", TEXT, "the row's place below the results root"),
)
_PROVENANCE = tuple(
    column
    for column in schema.PROVENANCE
    if column.name not in ("model_path", "cpu_model") and not pa.types.is_list(column.type)
)
"""Without lists: a CSV file cannot hold them."""
COLUMNS = (*schema.IDENTITY, *STATE, *schema.FIGURES, *_PROVENANCE)

VIEWS = (
    *IDENTITY_VIEWS,
    identity("Run", "run"),
    View("State", text("state")),
    View("Failure", text("failure_type")),
    View("Reason", text("reason")),
    View("Decode (ms/token)", figure("tpot_ms")),
    View("Prefill (ms)", figure("prefill_ms")),
    View("Output (tok/s)", figure("output_tok_s")),
    View("Per GPU (tok/s)", figure("output_tok_s_per_gpu")),
    View("Cell", text("cell_id")),
)


def build(source: Source) -> Table:
    """One line per cell of the manifest, in the order of the identity."""
    names = [column.name for column in COLUMNS]
    lines = [{name: cell[name] for name in names} for cell in source.cells]
    sort_records(lines, IDENTITY_ORDER)
    return Table(
        name="cells",
        title="All cells",
        columns=COLUMNS,
        views=VIEWS,
        records=lines,
        legend=("Intervals: 95 % bootstrap of the median of the samples within one session.",),
    )
