"""Every figure as files: ``figures/<name>.svg``, ``.png`` and an index with the numbers."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tpsweep import tables
from tpsweep.analysis.table import escape
from tpsweep.core.atomic import replacing
from tpsweep.figures import plot
from tpsweep.figures.batch_scaling import draw_batch_scaling
from tpsweep.figures.classes import draw_classes
from tpsweep.figures.communication import draw_communication
from tpsweep.figures.decode import draw_decode
from tpsweep.figures.models import draw_models
from tpsweep.figures.pareto import draw_pareto
from tpsweep.figures.plot import Picture
from tpsweep.figures.serving import draw_serving
from tpsweep.figures.speedup import draw_speedup
from tpsweep.results.load import Results, ResultsError, load
from tpsweep.tables import communication, floors, serving, terms, tp_comparison

FOLDER = "figures"
INDEX = "index.md"
LIMIT = 12
"""Most figures of a kind: nobody looks at hundreds, and each takes a third of a second."""


def pictures(results: Results) -> tuple[list[Picture], int]:
    """All figures in the order of the page, and how many were left out."""
    compared, online = tp_comparison.build(results).records, serving.build(results).records
    kinds = (
        draw_models(compared, LIMIT),
        draw_classes(compared, online, LIMIT),
        draw_decode(compared, LIMIT),
        draw_batch_scaling(compared, floors.build(results).records, LIMIT),
        draw_speedup(compared, terms.build(results).records, LIMIT),
        draw_pareto(compared, online, LIMIT),
        draw_serving(online, LIMIT),
        draw_communication(communication.build(results).records, LIMIT),
    )
    found = [picture for drawn, _ in kinds for picture in drawn]
    return found, sum(more for _, more in kinds)


def write_figures(folder: Path, results: Results) -> int:
    """Write ``folder/figures`` anew; returns how many figures it has.

    Without matplotlib, or without a measured line, only the index is written: it says so.
    """
    drawn, more = pictures(results) if plot.available() else ([], 0)
    mark = tables.mark(results, tables.summarise(results))
    target = folder / FOLDER
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for picture in drawn:
        plot.save(picture, target, mark)
    with replacing(target / INDEX) as path:
        path.write_text(_index(drawn, more, mark), "utf-8")
    return len(drawn)


def _index(drawn: list[Picture], more: int, mark: str) -> str:
    parts = [f"# Figures: {mark}" if mark else "# Figures"]
    if not plot.available():
        parts.append(plot.MISSING)
    elif not drawn:
        parts.append("No figure: no line is measured.")
    for picture in drawn:
        parts.append(f"![{escape(picture.caption)}]({picture.name}.svg)")
        parts.append(escape(picture.description))
    if more:
        parts.append(f"{more} more figures are left out; their numbers are in the tables.")
    return "\n\n".join(parts) + "\n"


def run(results: Path) -> int:
    """``tpsweep figures``: writes them, a line on stderr; exit code 0, or 2 without a manifest."""
    try:
        count = write_figures(results, load(results))
    except ResultsError as error:
        print(f"tpsweep figures: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"tpsweep figures: {results}: {error.strerror or error}", file=sys.stderr)
        return 2
    print(f"tpsweep figures: {count} figures; see {results / FOLDER}", file=sys.stderr)
    return 0
