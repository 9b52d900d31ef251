"""The page from the tables: sections, figures, marks, and the template that holds them."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
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
from tpsweep.report.choices import choices_of
from tpsweep.report.first_screen import headlines
from tpsweep.report.holes import make_failures, make_holes
from tpsweep.report.matrices import Matrices, make_matrices
from tpsweep.report.provenance import make_provenance
from tpsweep.tables import Summary

PAGE = "report.html"
SCRIPTS = ("page", "recommend", "choice")
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
    *("model_label", "lab"),
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
    """A heading with what is below it; ``anchor`` is its id in the page. With ``matrices`` its
    tables are folded below these."""

    anchor: str
    title: str
    part: Part
    drawings: tuple[plot.Drawing, ...] = ()
    figure_note: str = ""
    matrices: tuple[Matrices, ...] = ()


@dataclass(frozen=True)
class Group:
    """Sections that answer a question, folded; ``anchor`` is its id in the page."""

    anchor: str
    title: str
    sections: tuple[Section, ...]
    facts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Caution:
    """Something that the reader must know before any number. ``bad``: the page is not whole."""

    text: str
    bad: bool = False


def write_page(
    path: Path,
    tables: Mapping[str, Table],
    name: str,
    added: Sequence[Group] = (),
    steps: Mapping[str, Path] | None = None,
) -> None:
    """Write the page. Arguments as those of ``render``. Raises ``OSError``."""
    html = render(tables, name, added, steps or {})
    with replacing(path) as temporary:
        temporary.write_text(html, "utf-8")


def render(
    tables: Mapping[str, Table], name: str, added: Sequence[Group], steps: Mapping[str, Path]
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
    style = _source(environment, "page.css")
    script = "\n".join(_source(environment, f"{name}.js") for name in SCRIPTS)
    cells = tables["cells"].records
    summary = Summary.of(cell["state"] for cell in cells)
    return environment.get_template("page.html").render(
        name=name,
        summary=str(summary),
        complete=summary.complete,
        warnings=_warnings(cells, summary, tables["failures"].records),
        choices=choices_of(tables["choices"], name, cells),
        headlines=headlines(tables),
        groups=[*_groups(tables, steps, _facts(cells, summary)), *added],
        tables=list(tables),
        published="reference" in tables,
        style=Markup(style),
        script=Markup(script),
        script_hash=_hash(script),
        synthetic=_is_synthetic(cells),
        version=__version__,
    )


def _source(environment: Environment, name: str) -> str:
    text, _, _ = environment.loader.get_source(environment, name)  # type: ignore[union-attr]
    return text


def _hash(script: str) -> str:
    """As a Content-Security-Policy has it: this script, and no other, may run in the page."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _groups(
    tables: Mapping[str, Table], steps: Mapping[str, Path], facts: Sequence[tuple[str, str]]
) -> list[Group]:
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
    ran = Section("ran", "What ran on what", make_provenance(tables["machines"], cells, LINES))
    fast = (
        replace(
            _of_table(compared, LINES, figures["decode"]),
            anchor="tp",
            part=make_part(compared, LINES, NO_LATENCY),
            matrices=make_matrices(compared.records, FEWER_LINES),
        ),
        _of_table(tables["models"], FEWER_LINES, figures["models"]),
        _of_table(tables["tp_pairs"], FEWER_LINES, figures["speedup"]),
        _of_table(tables["batch_scaling"], FEWER_LINES, figures["batches"], figures["classes"]),
    )
    much = (
        _of_table(online, LINES, figures["serving"], figures["served_classes"]),
        _of_table(tables["capacity"]),
        _of_table(tables["throughput"]),
        _of_table(tables["layouts"], FEWER_LINES, figures["pareto"]),
        _of_table(tables["crossover"], FEWER_LINES, figures["equal_sequences"]),
    )
    why = (
        replace(
            communication,
            drawings=(*communication.drawings, *step_picture(captured.records, steps)),
        ),
        _of_table(split),
    )
    trust = (
        ran,
        _of_table(tables["validity"]),
        _of_table(floor),
        _of_table(tables["expected"]),
        Section("failures", "Failures", make_failures(tables["failures"], LINES)),
        Section("holes", "Not measured", make_holes(cells, LINES)),
    )
    return [
        Group("fast", "How fast?", fast),
        Group("much", "How much?", much),
        Group("why", "Why not twice as fast?", why),
        Group("spent", "What did it cost?", (_of_table(tables["cost"]),)),
        Group("trust", "Can I trust it?", trust, tuple(facts)),
    ]


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
        found.append(Caution(f"{summary}.", bad=True))
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
