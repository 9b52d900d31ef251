"""Table ``failures``: every failed cell with what is known of why."""

from __future__ import annotations

from typing import Any

from tpsweep.analysis.series import Source
from tpsweep.analysis.table import Record, Table, View, text
from tpsweep.core import schema
from tpsweep.core.schema import TEXT, Column
from tpsweep.results.load import records

COLUMNS = (
    *schema.IDENTITY,
    Column("type", TEXT, "failure type, see docs/measuring.md"),
    Column("message", TEXT, "what failed"),
    Column("log", TEXT, "the log that tells more"),
    Column("when", TEXT, "UTC, ISO 8601"),
)
_POINT = {
    "variant": "{}",
    "allreduce_backend": "all-reduce {}",
    "batch": "batch {}",
    "input_len": "{} in",
    "output_len": "{} out",
    "num_prompts": "{} requests",
    "request_rate": "{:g}/s",
    "max_concurrency": "at most {} in flight",
    "run": "run {}",
}
_LONGEST = 500
"""Characters of a message that people see."""


def _cell(record: Record) -> str:
    return ", ".join(
        form.format(record[name]) for name, form in _POINT.items() if record[name] is not None
    )


def _message(record: Record) -> str:
    message = record["message"] or ""
    return message if len(message) <= _LONGEST else f"{message[:_LONGEST]} ..."


VIEWS = (
    View("Type", text("type")),
    View("Model", text("model")),
    View("GPU", text("gpu")),
    View("TP", text("tp")),
    View("Workload", text("workload")),
    View("Cell", _cell),
    View("Message", _message),
    View("Log", lambda record: record["log"] or "none"),
    View("When (UTC)", lambda record: (record["when"] or "")[:16].replace("T", " ")),
)
EMPTY = "No cell failed."


def build(source: Source) -> Table:
    """One line per failed cell, by failure type."""
    cells = {cell["cell_id"]: cell for cell in source.cells}
    lines = [
        {
            **{name: cells[found["cell_id"]][name] for name in schema.IDENTITY_NAMES},
            **{name: _text(found[name]) for name in ("type", "message", "log", "when")},
        }
        for found in records(source.results.failures)
    ]
    lines.sort(key=lambda line: (line["type"], line["cell_id"]))
    return Table("failures", "Failed cells", COLUMNS, VIEWS, lines, empty=EMPTY)


def _text(value: Any) -> str | None:
    """A record may come from another program: whatever is in it is shown as text."""
    return None if value is None else str(value)
