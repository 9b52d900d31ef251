"""docs/columns.md from the schemas themselves: ``python -m tools.columns > docs/columns.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import pyarrow as pa
from tabulate import tabulate

from tpsweep.core import manifest, schema
from tpsweep.core.schema import Column

_WORDS = {schema.TEXT: "text", schema.INT: "integer", schema.FLOAT: "float", schema.BOOL: "boolean"}
_ROW_PARTS = (
    ("Identity", "What was asked.", schema.IDENTITY),
    ("Samples", "Raw, one element per kept repeat, in order.", schema.SAMPLES),
    ("Figures", "Derived from the samples and the datasheets.", schema.FIGURES),
    (
        "Capacity",
        "Of a `capacity` cell: lists over its SLOs, then over its probes.",
        schema.CAPACITY,
    ),
    ("GPU state", "One element per GPU of the engine; null without GPUs.", schema.GPU_STATE),
    ("Provenance", "What really ran, where and when.", schema.PROVENANCE),
)


def markdown() -> str:
    """The page: every column of a row and of the manifest, with its type and meaning."""
    parts = [
        "# Columns",
        "<!-- Made by `python -m tools.columns > docs/columns.md`; edit the schemas instead. -->",
        "The same text is in each Parquet file, as metadata of the column (`doc`). Units are in "
        "the names. Null: the column does not apply to the workload, or could not be known; a "
        "`*_note` column says why where it matters.",
        "## A row: `results/cells/**/*.parquet`",
        'One file, one row, one fixed schema: `pandas.read_parquet("results/cells")`.',
    ]
    for title, about, columns in _ROW_PARTS:
        parts += [f"### {title}", about, _table(columns)]
    known = {column.name for column in schema.IDENTITY}
    own = [column for column in manifest.COLUMNS if column.name not in known]
    parts += [
        "## The manifest: `results/matrix.parquet`",
        "One line per cell of the current matrix: the identity columns above, and",
        _table(own),
    ]
    return "\n\n".join(parts) + "\n"


def type_name(kind: pa.DataType) -> str:
    """An Arrow type in words: ``float``, ``list of text``."""
    if pa.types.is_list(kind):
        return f"list of {type_name(kind.value_type)}"
    return _WORDS[kind]


def _table(columns: Iterable[Column]) -> str:
    lines = [(f"`{c.name}`", type_name(c.type), c.doc.replace("|", "\\|")) for c in columns]
    return tabulate(lines, headers=("column", "type", "meaning"), tablefmt="pipe")


if __name__ == "__main__":
    sys.stdout.write(markdown())
