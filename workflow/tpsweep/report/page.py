"""The page from the tables: sections, figures, marks, and the template that holds them."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tpsweep import __version__
from tpsweep.analysis.table import Record, Table, joined, model_name
from tpsweep.core.atomic import replacing
from tpsweep.figures import plot
from tpsweep.figures.batch_scaling import draw_batch_scaling
from tpsweep.figures.classes import draw_batch_classes, draw_served_classes
from tpsweep.figures.communication import draw_communication, step_picture
from tpsweep.figures.decode import draw_decode
from tpsweep.figures.equal_sequences import draw_equal_sequences
from tpsweep.figures.models import draw_models
from tpsweep.figures.pareto import draw_pareto
from tpsweep.figures.serving import draw_serving
from tpsweep.figures.speedup import draw_speedup
from tpsweep.report.boxes import Part, make_part
from tpsweep.report.first_screen import Headline, headlines
from tpsweep.report.holes import make_failures, make_holes
from tpsweep.report.provenance import make_provenance
from tpsweep.tables import Summary

PAGE = "report.html"
LINES = 400
"""Most lines of a section's tables: 10,000 cells must make a page that opens at once."""
FEWER_LINES = 100
"""Of a table without a figure, which says again what another shows."""
FIGURES = 12
FEWER_FIGURES = 6
"""Of a kind that is not the first of its section; all are in ``figures/``."""
CELL_COLUMNS = (
    *("cell_id", "workload", "site", "gpu", "model", "model_revision", "dtype", "weights", "tp"),
    "gpu_card",
    *("model_label",),
    *("vllm_version", "state", "reason", "path"),
    *("engine_id", "vllm_version_ran", "started_at", "ended_at", "synthetic"),
)
"""What the page needs of the table ``cells``, which is the widest of all."""
Drawn = tuple[list[plot.Drawing], int]
"""Figures of a kind, and how many more were left out."""
MOST_REFUSED = 4
"""Failed preflights named at the top; all are below."""
PREFLIGHT = "preflight"
"""The failure type of cells whose node class failed it."""
NO_LATENCY = "The matrix has no latency cells."


@dataclass(frozen=True)
class Section:
    """A heading with what is below it; ``anchor`` is its id in the page."""

    anchor: str
    title: str
    part: Part
    drawings: tuple[plot.Drawing, ...] = ()
    figure_note: str = ""


@dataclass(frozen=True)
class Placed:
    """A section that another room adds: it comes after the anchor ``after``; None: at the end."""

    after: str | None
    section: Section


@dataclass(frozen=True)
class Caution:
    """Something that the reader must know before any number. ``bad``: the page is not whole."""

    text: str
    bad: bool = False


def write_page(
    path: Path,
    tables: Mapping[str, Table],
    name: str,
    added: Sequence[Placed] = (),
    steps: Mapping[str, Path] | None = None,
) -> None:
    """Write the page. Arguments as those of ``render``. Raises ``OSError``."""
    html = render(tables, name, added, steps or {})
    with replacing(path) as temporary:
        temporary.write_text(html, "utf-8")


def render(
    tables: Mapping[str, Table], name: str, added: Sequence[Placed], steps: Mapping[str, Path]
) -> str:
    """The page as HTML.

    ``tables``: all of ``tpsweep.tables.BUILDERS`` (of ``cells`` the columns ``CELL_COLUMNS``), and
    those of ``added``; each is linked. ``name``: of the results folder, for the title. ``steps``:
    pictures of a decode step, by the capture's ``cell_id``.
    """
    environment = Environment(
        loader=PackageLoader("tpsweep.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (_source(environment, name) for name in ("page.css", "page.js"))
    cells = tables["cells"].records
    summary = Summary.of(cell["state"] for cell in cells)
    return environment.get_template("page.html").render(
        name=name,
        summary=str(summary),
        warnings=_warnings(cells, summary, tables["failures"].records),
        headlines=_first(headlines(tables)),
        facts=_facts(cells, summary),
        sections=_placed(_sections(tables, steps), added),
        tables=list(tables),
        published="reference" in tables,
        style=Markup(style),
        script=Markup(script),
        script_hash=_hash(script),
        synthetic=_is_synthetic(cells),
        version=__version__,
    )


def _first(found: Sequence[Headline]) -> list[tuple[Headline, plot.Drawing | None]]:
    """Headlines with their pictures drawn; without matplotlib the sentences stand alone."""
    pictures = [one.picture for one in found if one.picture] if plot.available() else []
    drawn = iter(plot.in_processes(plot.draw, pictures))
    return [(one, next(drawn) if one.picture in pictures else None) for one in found]


def _source(environment: Environment, name: str) -> str:
    text, _, _ = environment.loader.get_source(environment, name)  # type: ignore[union-attr]
    return text


def _hash(script: str) -> str:
    """As a Content-Security-Policy has it: this script, and no other, may run in the page."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _sections(tables: Mapping[str, Table], steps: Mapping[str, Path]) -> list[Section]:
    compared, online, captured, split, floor = (
        tables[name] for name in ("tp_comparison", "serving", "communication", "terms", "floors")
    )
    cells = tables["cells"].records
    times, load = compared.own.records, online.own.records
    figures = _drawings(
        {
            "decode": draw_decode(times, FIGURES),
            "models": draw_models(times, FEWER_FIGURES),
            "speedup": draw_speedup(times, split.records, FEWER_FIGURES),
            "equal_sequences": draw_equal_sequences(tables["tp_pairs"].records, FEWER_FIGURES),
            "classes": draw_batch_classes(times, FEWER_FIGURES),
            "served_classes": draw_served_classes(load, FEWER_FIGURES),
            "batches": draw_batch_scaling(times, floor.records, FEWER_FIGURES),
            "serving": draw_serving(load, FIGURES),
            "communication": draw_communication(captured.records, FIGURES),
            "pareto": draw_pareto(times, load, FEWER_FIGURES),
        }
    )
    communication = _of_table(captured, LINES, figures["communication"])
    return [
        Section("ran", "What ran on what", make_provenance(tables["machines"], cells, LINES)),
        replace(
            _of_table(compared, LINES, figures["decode"]),
            anchor="tp",
            part=make_part(compared, LINES, NO_LATENCY),
        ),
        _of_table(tables["models"], FEWER_LINES, figures["models"]),
        _of_table(tables["tp_pairs"], FEWER_LINES, figures["speedup"]),
        _of_table(tables["crossover"], FEWER_LINES, figures["equal_sequences"]),
        _of_table(tables["batch_scaling"], FEWER_LINES, figures["batches"], figures["classes"]),
        _of_table(tables["throughput"]),
        _of_table(online, LINES, figures["serving"], figures["served_classes"]),
        replace(
            communication,
            drawings=(*communication.drawings, *step_picture(captured.records, steps)),
        ),
        _of_table(split),
        _of_table(tables["layouts"], FEWER_LINES, figures["pareto"]),
        _of_table(floor),
        _of_table(tables["expected"]),
        _of_table(tables["cost"]),
        _of_table(tables["validity"]),
        Section("failures", "Failures", make_failures(tables["failures"], LINES)),
        Section("holes", "Not measured", make_holes(cells, LINES)),
    ]


def _placed(sections: Iterable[Section], added: Sequence[Placed]) -> list[Section]:
    """``sections`` with those that are ``added`` in their places."""
    found = []
    for section in sections:
        found.append(section)
        found += [one.section for one in added if one.after == section.anchor]
    return [*found, *(one.section for one in added if one.after is None)]


def _drawings(kinds: Mapping[str, tuple[list[plot.Picture], int]]) -> dict[str, Drawn]:
    """All pictures drawn, together, by their kind; none without matplotlib."""
    pictures = [picture for found, _ in kinds.values() for picture in found]
    made = iter(plot.in_processes(plot.draw, pictures) if plot.available() else ())
    return {kind: (list(islice(made, len(found))), more) for kind, (found, more) in kinds.items()}


def _of_table(table: Table, lines: int = FEWER_LINES, *drawn: Drawn) -> Section:
    """A table with the figures that are drawn from its lines."""
    part = make_part(table, lines, "")
    if not part.boxes or not drawn:
        return Section(table.name, table.title, part)
    if not plot.available():
        return Section(table.name, table.title, part, (), plot.MISSING)
    drawings = [drawing for found, _ in drawn for drawing in found]
    more = sum(left_out for _, left_out in drawn)
    note = f"{more} more figures are not shown." if more else ""
    if not drawings:
        note = "No figure: no line is measured."
    return Section(table.name, table.title, part, tuple(drawings), note)


def _is_synthetic(cells: list[Record]) -> bool:
    return any(cell["synthetic"] for cell in cells)


def _warnings(cells: list[Record], summary: Summary, failed: list[Record]) -> list[Caution]:
    found = []
    if _is_synthetic(cells):
        found.append(Caution("SYNTHETIC: made-up rows, never measured.", bad=True))
    if not summary.complete:
        text = (
            f"INCOMPLETE {summary.measured}/{summary.planned}: some cells failed or have not run."
        )
        found.append(Caution(text, bad=True))
    refused = Counter(one["message"] or "" for one in failed if one["type"] == PREFLIGHT)
    for message, count in refused.most_common(MOST_REFUSED):
        found.append(Caution(f"Not submitted, {count} cells: {message}", bad=True))
    measured = [cell for cell in cells if cell["state"] == "measured"]
    if any(cell["gpu_card"] == "CPU" for cell in measured):
        found.append(Caution("CPU timings only demonstrate the pipeline."))
    dummy = joined(model_name(cell) for cell in measured if cell["weights"] == "dummy")
    if dummy:
        found.append(
            Caution(
                f"Dummy weights ({dummy}): decode times of dense models are those of real weights;"
                " prefill times and joules are not."
            )
        )
    return found


def _facts(cells: list[Record], summary: Summary) -> list[tuple[str, str]]:
    values = {name: [cell.get(name) for cell in cells] for name in CELL_COLUMNS}
    facts = [
        ("Site", joined(values["site"])),
        ("GPU classes", joined(values["gpu"])),
        ("Models", joined(model_name(cell) for cell in cells)),
        ("vLLM", joined(values["vllm_version_ran"]) or joined(values["vllm_version"])),
        ("Cells measured", f"{summary.measured} of {summary.planned}"),
        ("Engine starts", str(len(set(values["engine_id"]) - {None}))),
        ("Measured (UTC)", _days([*values["started_at"], *values["ended_at"]])),
    ]
    return [(label, value) for label, value in facts if value]


def _days(times: list[str | None]) -> str:
    """First and last day, UTC; empty if no time is known."""
    days = [time[:10] for time in times if time]
    return " to ".join(dict.fromkeys((min(days), max(days)))) if days else ""
