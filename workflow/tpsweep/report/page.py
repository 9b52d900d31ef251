"""The page from loaded results: sections, figures, marks, and the template that holds them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tpsweep import __version__
from tpsweep.figures import plot
from tpsweep.figures.communication import draw_communication, step_picture
from tpsweep.figures.decode import draw_decode
from tpsweep.figures.serving import draw_serving
from tpsweep.report.boxes import Part, joined, make_part, make_plain
from tpsweep.report.holes import make_failures, make_holes
from tpsweep.report.provenance import dates, make_provenance
from tpsweep.report.questions import make_questions
from tpsweep.results import Results
from tpsweep.tables import (
    Summary,
    batch_scaling,
    crossover,
    floors,
    replicas,
    serving,
    summarise,
    terms,
    throughput,
    tp_comparison,
    tp_pairs,
    validity,
)
from tpsweep.tables import communication as communication_table
from tpsweep.tables.table import Record, Table

PAGE = "report.html"
LINES = 400
"""Most lines of a section's tables: 10,000 cells must make a page that opens at once."""
FEWER_LINES = 100
"""Of a table without a figure, which says again what another shows."""
FIGURES = 12
Draw = Callable[[list[Record], int], tuple[list[plot.Drawing], int]]
NO_LATENCY = "No latency cells in the matrix."


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it; ``anchor`` is its id in the page."""

    anchor: str
    title: str
    part: Part
    drawings: tuple[plot.Drawing, ...] = ()
    figure_note: str = ""


@dataclass(frozen=True)
class Caution:
    """Something that the reader must know before any number. ``bad``: the page is not whole."""

    text: str
    bad: bool = False


def render(results: Results, name: str, beside: Sequence[Table] = ()) -> str:
    """The page as HTML. ``name``: of the results folder, for the title.

    ``beside``: the tables of published figures, if they are asked for.
    """
    environment = Environment(
        loader=PackageLoader("tpsweep.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (_source(environment, name) for name in ("page.css", "page.js"))
    summary = summarise(results)
    return environment.get_template("page.html").render(
        name=name,
        summary=str(summary),
        warnings=_warnings(results, summary),
        facts=_facts(results),
        sections=[*_sections(results), *_published(beside)],
        beside=bool(beside),
        style=Markup(style),
        script=Markup(script),
        script_hash=_hash(script),
        synthetic=bool(results.rows["synthetic"].any()),
        version=__version__,
    )


def _source(environment: Environment, name: str) -> str:
    text, _, _ = environment.loader.get_source(environment, name)  # type: ignore[union-attr]
    return text


def _hash(script: str) -> str:
    """As a Content-Security-Policy has it: this script, and no other, may run in the page."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _sections(results: Results) -> list[Section]:
    comparison, online = tp_comparison.build(results), serving.build(results)
    captured = communication_table.build(results)
    pictures = {
        cell_id: found.picture
        for cell_id, found in results.communication.items()
        if found.picture is not None
    }

    def draw_captures(lines: list[Record], limit: int) -> tuple[list[plot.Drawing], int]:
        drawings, more = draw_communication(lines, limit)
        return [*drawings, *step_picture(lines, pictures)], more

    return [
        Section("ran", "What ran on what", make_provenance(results, LINES)),
        Section("questions", "Questions and expectations", make_questions(results, LINES)),
        _with_figures(
            "tp",
            "TP comparison",
            make_part(comparison, LINES, NO_LATENCY),
            draw_decode,
            comparison.records,
        ),
        _of_table(tp_pairs.build(results)),
        _of_table(crossover.build(results)),
        _of_table(batch_scaling.build(results)),
        _of_table(throughput.build(results)),
        _with_figures(
            "serving", "Serving", make_part(online, LINES, ""), draw_serving, online.records
        ),
        _with_figures(
            "communication",
            "Communication",
            make_part(captured, LINES, ""),
            draw_captures,
            captured.records,
        ),
        _of_table(terms.build(results)),
        _of_table(replicas.build(results)),
        _of_table(floors.build(results)),
        _of_table(validity.build(results)),
        Section("failures", "Failures", make_failures(results, LINES)),
        Section("holes", "Not measured", make_holes(results, LINES)),
    ]


def _published(beside: Sequence[Table]) -> Iterator[Section]:
    for table in beside:
        groups = "gpu" in table.schema.names
        part = make_part(table, FEWER_LINES, "") if groups else make_plain(table)
        yield Section(table.name, table.title, part)


def _of_table(table: Table) -> Section:
    return Section(table.name, table.title, make_part(table, FEWER_LINES, ""))


def _with_figures(anchor: str, title: str, part: Part, draw: Draw, lines: list[Record]) -> Section:
    if not part.boxes:
        return Section(anchor, title, part)
    if not plot.available():
        return Section(anchor, title, part, (), plot.MISSING)
    drawings, more = draw(lines, FIGURES)
    note = f"{more} more figures are left out." if more else ""
    if not drawings:
        note = "No figure: no line is measured."
    return Section(anchor, title, part, tuple(drawings), note)


def _warnings(results: Results, summary: Summary) -> list[Caution]:
    found = []
    if results.rows["synthetic"].any():
        found.append(Caution("SYNTHETIC: made-up rows, never measured.", bad=True))
    if not summary.complete:
        text = f"INCOMPLETE {summary.measured}/{summary.planned}: cells failed or were not run."
        found.append(Caution(text, bad=True))
    dummy = joined(results.rows.loc[results.rows["weights"] == "dummy", "model"])
    if dummy:
        found.append(
            Caution(
                f"Dummy weights ({dummy}): decode times of dense models are those of real weights;"
                " prefill times and joules are not."
            )
        )
    return found


def _facts(results: Results) -> list[tuple[str, str]]:
    rows, manifest = results.rows, results.manifest
    facts = [
        ("Site", joined(manifest["site"])),
        ("GPU classes", joined(manifest["gpu"])),
        ("Models", joined(manifest["model"])),
        ("vLLM", joined(rows["vllm_version_ran"]) or joined(manifest["vllm_version"])),
        ("Cells measured", f"{results.count('measured')} of {results.planned}"),
        ("Engine starts", str(rows["engine_id"].nunique())),
        ("Measured (UTC)", dates(rows)),
    ]
    return [(label, value) for label, value in facts if value]
