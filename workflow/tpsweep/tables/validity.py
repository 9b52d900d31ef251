"""Table ``validity``: what was refused, what to know of a row, what differs in a comparison.

Refused are cells of failure type ``invalid`` or ``unreadable``, rows that break a rule of
measuring all the same (older, or changed by hand), and captures whose collectives do not add up.
Remarks are on measured rows that stand: stalls, unsteady steps, a cross-check that is off.
Comparisons are the series of ``tpsweep.analysis.series``: one line per difference, or one that says
that there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from tpsweep.analysis import provenance_diff, row_remarks
from tpsweep.analysis.series import KEY, ORDER, Series, Source
from tpsweep.analysis.table import (
    IDENTITY_VIEWS,
    SYNTHETIC,
    Record,
    Table,
    View,
    identity,
    labels_of,
    sort_key,
    text,
)
from tpsweep.core import schema
from tpsweep.core.axes import RAN
from tpsweep.core.manifest import LABELS
from tpsweep.core.program import same_version
from tpsweep.core.schema import BOOL, TEXT, Column
from tpsweep.core.workloads import LATENCY, WORKLOADS
from tpsweep.measure import decode_steps
from tpsweep.results.load import Results
from tpsweep.tables import floors

REFUSED, REMARK, COMPARISON = "refused", "remark", "comparison"
KINDS = (REFUSED, REMARK, COMPARISON)
"""In the order of the table."""
REFUSED_TYPES = ("invalid", "unreadable")
"""Failure types of cells that were measured; the others never came so far."""
NOTHING = "nothing differs"
ONE = "one line measured: nothing is compared"
NONE = "no line measured: nothing is compared"
FLAG = {True: "yes", False: "no", None: "n/a"}
COLUMNS = (
    Column("kind", TEXT, "refused or remark: a cell; comparison: cells of other TP or replicas"),
    *schema.IDENTITY,
    *LABELS,
    Column("settings", TEXT, "digest of what else could change a number"),
    Column("compared", TEXT, "comparison: its measured lines"),
    Column("subject", TEXT, "failure type or broken rule; what a remark is on; what differs"),
    Column(
        "provenance",
        TEXT,
        "comparison: the row's column that differs; host: see the table machines",
    ),
    Column("detail", TEXT, "refused: why; remark: the values; comparison: the values per line"),
    Column("flagged", BOOL, "it could explain a difference; null: nothing is compared"),
    Column("why", TEXT, "how it could, or why it does not; remark: what it does to the value"),
    SYNTHETIC,
)
VIEWS = (
    View("Kind", text("kind"), once=True),
    *IDENTITY_VIEWS,
    identity("Run", "run"),
    identity("Settings", "settings"),
    View("Compared", text("compared")),
    View("Flagged", lambda record: FLAG[record["flagged"]]),
    View("What", text("subject")),
    View("Values or reason", text("detail")),
    View("Why", text("why")),
)
LEGEND = (
    "Refused: measured but invalid, or a row that tables should not use. Cells that"
    " failed otherwise, are missing or were never planned are in the table of cells.",
    "Remark: a row that stands, with what to know of it. Stalls: steps that the host held up; they"
    " are not in tpot_ms. Unsteady: stalls cost more than"
    f" {100 * decode_steps.STALLED_SHARE:.0f} % in more than"
    f" {100 * decode_steps.MANY_DISTURBED:.0f} % of the repeats, the repeats drift, or the steps"
    " never settle. Cross-check: TPOT by whole calls is more than"
    f" {100 * row_remarks.CROSS_CHECK:.0f} % off TPOT by the engine's stamps.",
    "Comparison: flagged is what differs between lines that are to differ in TP alone, where it"
    " could explain a difference of their figures; SM clocks if more than"
    f" {100 * provenance_diff.CLOCK_TOLERANCE:.0f} % apart. Clocks fall with load and power: they"
    " can be cause or effect.",
    "A provenance that no row of a line has (CPU, older rows) is not compared.",
)
EMPTY = "The matrix is empty."
_ORDER = tuple(dict.fromkeys((*ORDER, "run")))


def build(source: Source) -> Table:
    """Refused cells, remarks, then comparisons: flagged, differing, alike."""
    lines = [*_refused(source), *_remarks(source), *_comparisons(source)]
    lines.sort(
        key=lambda line: (
            KINDS.index(line["kind"]),
            not line["flagged"],
            line["provenance"] is None,
            line["flagged"] is None,
            sort_key(line, _ORDER),
        )
    )
    return Table("validity", "Validity", COLUMNS, VIEWS, lines, LEGEND, EMPTY)


def _refused(source: Source) -> Iterator[Record]:
    for cell in source.cells:
        if cell["state"] == "failed" and cell["failure_type"] in REFUSED_TYPES:
            yield _refusal(cell, cell["failure_type"], cell["reason"], synthetic=False)
        elif cell["state"] == "measured":
            for subject, detail in (*_broken(cell), *_uncounted(cell, source.results)):
                yield _refusal(cell, subject, detail, synthetic=bool(cell["synthetic"]))


def _remarks(source: Source) -> Iterator[Record]:
    for cell in source.of(LATENCY):
        if cell["state"] == "measured":
            for one in row_remarks.remarks(cell):
                synthetic = bool(cell["synthetic"])
                yield {**_of_cell(REMARK, cell), **asdict(one), "synthetic": synthetic}


def _of_cell(kind: str, cell: Record) -> Record:
    named = {name: cell[name] for name in (*schema.IDENTITY_NAMES, "settings")}
    return {**_empty(kind), **named, **labels_of(cell)}


def _refusal(cell: Record, subject: str, detail: Any, *, synthetic: bool) -> Record:
    return {
        **_of_cell(REFUSED, cell),
        "subject": subject,
        "detail": detail or "no reason given",
        "flagged": True,
        "synthetic": synthetic,
    }


def _broken(cell: Record) -> Iterator[tuple[str, str]]:
    """Rules that a row breaks by its own columns; what is null is not judged."""
    for name, what in floors.RATIOS.items():
        ratio = cell[name]
        if ratio is not None and ratio < 1:
            yield "floor", f"{what} is faster than its floor ({name}={ratio:.3f})"
    asked, ran = cell["allreduce_backend"], cell["allreduce_backend_ran"]
    if ran is not None and asked != ran and asked not in ("auto", "none"):
        yield "all-reduce", f"{asked} was asked, {ran} ran"
    asked, ran = cell["vllm_version"], cell["vllm_version_ran"]
    if ran is not None and not same_version(asked, ran):
        yield "vLLM", f"{asked} was asked, {ran} ran"
    for axis in RAN:
        asked, ran = cell[axis.name], cell[f"{axis.name}_ran"]
        if None not in (asked, ran) and asked != ran:
            yield axis.heading, f"{asked} was asked, {ran} ran"


def _uncounted(cell: Record, results: Results) -> Iterator[tuple[str, str]]:
    """A capture whose collectives per step are not the model's: its times are of something else."""
    reports = results.communication.get(cell["cell_id"], [])
    report = next((one for one in reports if not one.self_check.ok), None)
    if report is None:
        return
    expected, found = report.self_check.expected, report.self_check.found
    wanted = (
        "the model is not known"
        if expected is None
        else f"{expected.all_reduce} all-reduces and {expected.all_gather} all-gathers expected"
    )
    said = f"{found.all_reduce} and {found.all_gather} found per step"
    yield "collectives", f"{wanted}, {said}: no communication time is given"


def _comparisons(source: Source) -> Iterator[Record]:
    for workload in WORKLOADS:
        for series in source.series(workload):
            yield from _of_series(series)


def _of_series(series: Series) -> Iterator[Record]:
    measured = [line for line in series.lines if line.measured]
    base: Record = {
        **_empty(COMPARISON),
        **dict(zip(KEY, series.key, strict=True)),
        "allreduce_backend": series.backend,
        **series.labels,
        "compared": ", ".join(map(provenance_diff.name_of, measured)) or None,
        "flagged": False,
        "synthetic": any(line.is_synthetic for line in measured),
    }
    found = provenance_diff.find(series)
    for difference in found:
        yield {
            **base,
            "subject": difference.label,
            "provenance": difference.column,
            "detail": difference.values,
            "flagged": difference.flagged,
            "why": difference.why,
        }
    if not found:
        flagged = False if len(measured) > 1 else None
        yield {**base, "subject": (NONE, ONE, NOTHING)[min(len(measured), 2)], "flagged": flagged}


def _empty(kind: str) -> Record:
    return {**dict.fromkeys(column.name for column in COLUMNS), "kind": kind}
