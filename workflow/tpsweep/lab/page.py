"""The lab's sections of the page, and where they go."""

from __future__ import annotations

from collections.abc import Mapping

from tpsweep.analysis.table import Table
from tpsweep.lab.questions import make_questions
from tpsweep.report.boxes import make_part, make_plain
from tpsweep.report.page import FEWER_LINES, LINES, Placed, Section


def sections(tables: Mapping[str, Table]) -> list[Placed]:
    """Questions and metrics; published results, if ``tables`` has them, at the end."""
    questions = Section("questions", "Questions and expectations", make_questions(tables, LINES))
    found = [Placed("ran", questions), Placed("tp", _section(tables["metrics"]))]
    beside = [tables[name] for name in ("reference", "reference_findings") if name in tables]
    return [*found, *(Placed(None, _section(table)) for table in beside)]


def _section(table: Table) -> Section:
    is_grouped = any(column.name == "gpu" for column in table.columns)
    part = make_part(table, FEWER_LINES, "") if is_grouped else make_plain(table)
    return Section(table.name, table.title, part)
