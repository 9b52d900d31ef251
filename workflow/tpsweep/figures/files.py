"""Every figure as files: ``figures/<name>.svg``, ``.png`` and an index with the numbers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tpsweep.analysis.table import Table, escape
from tpsweep.core.atomic import replacing
from tpsweep.figures import plot
from tpsweep.figures.batch_scaling import draw_batch_scaling
from tpsweep.figures.classes import draw_classes
from tpsweep.figures.communication import draw_communication
from tpsweep.figures.decode import draw_decode
from tpsweep.figures.equal_sequences import draw_equal_sequences
from tpsweep.figures.models import draw_models
from tpsweep.figures.pareto import draw_pareto
from tpsweep.figures.plot import Picture
from tpsweep.figures.serving import draw_serving
from tpsweep.figures.speedup import draw_speedup

FOLDER = "figures"
INDEX = "index.md"
NEEDS = ("tp_comparison", "serving", "floors", "terms", "communication", "tp_pairs")
"""The tables that the figures are drawn from."""
LIMIT = 12
"""Maximum figures of a kind: each takes a third of a second, and nobody looks at hundreds."""


def pictures(tables: Mapping[str, Table]) -> tuple[list[Picture], int]:
    """All figures in the order of the page, and how many were left out."""
    compared, online, floors, terms, captures, tp_pairs = (
        tables[name].own.records for name in NEEDS
    )
    kinds = (
        draw_models(compared, LIMIT),
        draw_classes(compared, online, LIMIT),
        draw_decode(compared, LIMIT),
        draw_batch_scaling(compared, floors, LIMIT),
        draw_speedup(compared, terms, LIMIT),
        draw_equal_sequences(tp_pairs, LIMIT),
        draw_pareto(compared, online, LIMIT),
        draw_serving(online, LIMIT),
        draw_communication(captures, LIMIT),
    )
    found = [picture for drawn, _ in kinds for picture in drawn]
    return found, sum(more for _, more in kinds)


def write_figures(folder: Path, tables: Mapping[str, Table]) -> int:
    """Rewrite ``folder/figures`` from the tables ``NEEDS``; returns how many figures it has.

    Without matplotlib, or without a measured line, only the index is written: it says so.
    """
    drawn, more = pictures(tables) if plot.available() else ([], 0)
    mark = tables[NEEDS[0]].mark
    target = folder / FOLDER
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    plot.in_processes(partial(plot.save, folder=target, mark=mark), drawn)
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
        parts.append(f"{more} more figures are not drawn; their values are in the tables.")
    return "\n\n".join(parts) + "\n"
