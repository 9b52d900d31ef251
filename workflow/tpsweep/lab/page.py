"""What the lab adds to the page."""

from __future__ import annotations

from collections.abc import Mapping

from tpsweep.analysis.table import Table
from tpsweep.lab.questions import make_questions
from tpsweep.report.boxes import make_part, make_plain
from tpsweep.report.page import FEWER_LINES, LINES, Group, Section


def groups(tables: Mapping[str, Table]) -> list[Group]:
    """Its questions, if its config made the matrix (`lab: true`); published results, if ``tables``
    has them."""
    found = []
    if any(cell.get("lab") for cell in tables["cells"].records):
        questions = Section(
            "questions", "Questions and expectations", make_questions(tables, LINES)
        )
        found.append(Group("lab", "What the lab asked", (questions,)))
    names = [name for name in ("reference", "reference_findings") if name in tables]
    if names:
        beside = tuple(_section(tables[name]) for name in names)
        found.append(Group("published", "What did others publish?", beside))
    return found


def _section(table: Table) -> Section:
    is_grouped = any(column.name == "gpu" for column in table.columns)
    part = make_part(table, FEWER_LINES, "") if is_grouped else make_plain(table)
    return Section(table.name, table.title, part)
