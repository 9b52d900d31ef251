"""The page from loaded results: sections, figures, marks, and the template that holds them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tpsweep import __version__
from tpsweep.analysis.table import Table
from tpsweep.figures import plot
from tpsweep.figures.batch_scaling import draw_batch_scaling
from tpsweep.figures.classes import draw_classes
from tpsweep.figures.communication import draw_communication, step_picture
from tpsweep.figures.decode import draw_decode
from tpsweep.figures.models import draw_models
from tpsweep.figures.pareto import draw_pareto
from tpsweep.figures.serving import draw_serving
from tpsweep.figures.speedup import draw_speedup
from tpsweep.lab import metrics
from tpsweep.lab.questions import make_questions
from tpsweep.report.boxes import Part, joined, make_part, make_plain
from tpsweep.report.holes import make_failures, make_holes
from tpsweep.report.provenance import dates, make_provenance
from tpsweep.results.load import Results
from tpsweep.tables import (
    Summary,
    batch_scaling,
    cost,
    crossover,
    expected,
    floors,
    models,
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

PAGE = "report.html"
LINES = 400
"""Most lines of a section's tables: 10,000 cells must make a page that opens at once."""
FEWER_LINES = 100
"""Of a table without a figure, which says again what another shows."""
FIGURES = 12
FEWER_FIGURES = 6
"""Of a kind that is not the first of its section; all are in ``figures/``."""
Drawn = tuple[list[plot.Picture], int]
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
    compared, online = tp_comparison.build(results), serving.build(results)
    captured, split, floor = (
        table.build(results) for table in (communication_table, terms, floors)
    )
    by_model = draw_models(compared.records, FEWER_FIGURES)
    classes = draw_classes(compared.records, online.records, FEWER_FIGURES)
    scaling = draw_batch_scaling(compared.records, floor.records, FEWER_FIGURES)
    speedups = draw_speedup(compared.records, split.records, FEWER_FIGURES)
    pareto = draw_pareto(compared.records, online.records, FEWER_FIGURES)
    steps = {i: found.picture for i, found in results.communication.items() if found.picture}
    communication = _of_table(captured, LINES, draw_communication(captured.records, FIGURES))
    return [
        Section("ran", "What ran on what", make_provenance(results, LINES)),
        Section("questions", "Questions and expectations", make_questions(results, LINES)),
        replace(
            _of_table(compared, LINES, draw_decode(compared.records, FIGURES)),
            anchor="tp",
            part=make_part(compared, LINES, NO_LATENCY),
        ),
        _of_table(metrics.build(results)),
        _of_table(models.build(results), FEWER_LINES, by_model),
        _of_table(tp_pairs.build(results), FEWER_LINES, speedups),
        _of_table(crossover.build(results)),
        _of_table(batch_scaling.build(results), FEWER_LINES, classes, scaling),
        _of_table(throughput.build(results)),
        _of_table(online, LINES, draw_serving(online.records, FIGURES)),
        replace(
            communication,
            drawings=(*communication.drawings, *step_picture(captured.records, steps)),
        ),
        _of_table(split),
        _of_table(replicas.build(results), FEWER_LINES, pareto),
        _of_table(floor),
        _of_table(expected.build(results)),
        _of_table(cost.build(results)),
        _of_table(validity.build(results)),
        Section("failures", "Failures", make_failures(results, LINES)),
        Section("holes", "Not measured", make_holes(results, LINES)),
    ]


def _published(beside: Sequence[Table]) -> Iterator[Section]:
    for table in beside:
        groups = "gpu" in table.schema.names
        part = make_part(table, FEWER_LINES, "") if groups else make_plain(table)
        yield Section(table.name, table.title, part)


def _of_table(table: Table, lines: int = FEWER_LINES, *drawn: Drawn) -> Section:
    """A table with the figures that are drawn from its lines: (pictures, how many more)."""
    part = make_part(table, lines, "")
    if not part.boxes or not drawn:
        return Section(table.name, table.title, part)
    if not plot.available():
        return Section(table.name, table.title, part, (), plot.MISSING)
    drawings = [plot.draw(picture) for pictures, _ in drawn for picture in pictures]
    more = sum(left_out for _, left_out in drawn)
    note = f"{more} more figures are left out." if more else ""
    if not drawings:
        note = "No figure: no line is measured."
    return Section(table.name, table.title, part, tuple(drawings), note)


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
