"""Table ``cells``: every cell of the manifest, measured or not, with its figures."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from tpsweep.analysis.series import Source
from tpsweep.analysis.table import (
    IDENTITY_ORDER,
    IDENTITY_VIEWS,
    REASON_COLUMN,
    STATE_COLUMN,
    Record,
    Table,
    View,
    digits,
    identity,
    sort_records,
    text,
)
from tpsweep.core import schema
from tpsweep.core.manifest import LAB, LABELS
from tpsweep.core.schema import TEXT, Column
from tpsweep.core.stats import MIN_REPEATS
from tpsweep.core.workloads import CAPACITY, SERVE

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
COLUMNS = (*schema.IDENTITY, *LABELS, LAB, *STATE, *schema.FIGURES, *_PROVENANCE)

_ENDS = tuple(c.name for c in schema.FIGURES if c.name.endswith(("_lo", "_hi")))


def _alone(name: str) -> Callable[[Record], str]:
    """A value without its interval, which is of one start."""
    return lambda record: "" if record[name] is None else digits(record[name])


VIEWS = (
    *IDENTITY_VIEWS,
    identity("Run", "run"),
    View("State", text("state")),
    View("Failure", text("failure_type")),
    View("Reason", text("reason")),
    View("Decode (ms/token)", _alone("tpot_ms")),
    View("Prefill (ms)", _alone("prefill_ms")),
    View("Output (tok/s)", _alone("output_tok_s")),
    View("Per GPU (tok/s)", _alone("output_tok_s_per_gpu")),
    View("Cell", text("cell_id")),
)


def build(source: Source) -> Table:
    """One line per cell of the manifest, in the order of the identity."""
    names = [column.name for column in COLUMNS]
    lines = [{name: cell[name] for name in names} for cell in source.cells]
    for line in lines:
        if line["workload"] not in (SERVE, CAPACITY) and (line["repeats"] or 0) < MIN_REPEATS:
            # Older rows have intervals of three repeats, which cover 75 %.
            line.update(dict.fromkeys(_ENDS))
    sort_records(lines, IDENTITY_ORDER)
    return Table(
        name="cells",
        title="All cells",
        columns=COLUMNS,
        views=VIEWS,
        records=lines,
        legend=(
            "Each line is one engine start. Its interval, in .csv and .parquet, is of the median"
            f" within that start (null under {MIN_REPEATS} repeats; serve: range of the seeds): it"
            " says nothing of the next start.",
        ),
    )
