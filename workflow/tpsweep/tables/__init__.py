"""The comparison tables, from the rows and the manifest alone: ``results/tables/``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from tpsweep.lab import metrics
from tpsweep.results.integrity import leave_records
from tpsweep.results.load import Results, ResultsError, load
from tpsweep.tables import (
    batch_scaling,
    cells,
    communication,
    cost,
    crossover,
    expected,
    floors,
    models,
    replicas,
    serving,
    terms,
    throughput,
    tp_comparison,
    tp_pairs,
    validity,
)

FOLDER = "tables"
BUILDERS = (
    *(cells.build, tp_comparison.build, throughput.build, serving.build),
    *(communication.build, terms.build, batch_scaling.build),
    *(tp_pairs.build, crossover.build, floors.build, replicas.build),
    *(expected.build, cost.build, models.build, metrics.build, validity.build),
)
"""Every table: a new one is a module with ``build(results) -> Table`` and an entry here."""


@dataclass(frozen=True)
class Summary:
    """What the tables were made of, in cells. ``planned`` = measured + failed + missing."""

    planned: int
    measured: int
    failed: int
    missing: int
    infeasible: int
    excluded: int

    @property
    def complete(self) -> bool:
        """Every planned cell has a row."""
        return self.measured == self.planned

    def __str__(self) -> str:
        states = ("failed", "missing", "infeasible", "excluded")
        others = [f"{getattr(self, s)} {s}" for s in states if getattr(self, s)]
        mark = "" if self.complete else "INCOMPLETE "
        return ", ".join([f"{mark}{self.measured}/{self.planned} cells measured", *others])


def write_tables(results: Path, loaded: Results | None = None) -> Summary:
    """Write every table of the results folder ``results``.

    Raises ``ResultsError`` if its manifest is missing or unusable.
    """
    loaded = load(results) if loaded is None else loaded
    summary = summarise(loaded)
    title_mark = mark(loaded, summary)
    for build in BUILDERS:
        build(loaded).write(results / FOLDER, title_mark)
    return summary


def run(results: Path) -> int:
    """The command: writes the tables, a summary on stderr; exit code 0, or 2 without a manifest.

    An incomplete sweep is no error of this program: its tables say so themselves. A row that
    cannot be read is (1): it leaves a failure record, by which the next run measures it again.
    """
    try:
        loaded = load(results)
        summary = write_tables(results, loaded)
    except ResultsError as error:
        print(f"tpsweep tables: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"tpsweep tables: {results}: {error.strerror or error}", file=sys.stderr)
        return 1
    print(f"tpsweep tables: {summary}; see {results / FOLDER}", file=sys.stderr)
    return 1 if leave_records(results, loaded) else 0


def summarise(results: Results) -> Summary:
    """Counts the cells of the manifest by state."""
    return Summary(
        planned=results.planned,
        measured=results.count("measured"),
        failed=results.count("failed"),
        missing=results.count("missing"),
        infeasible=results.count("infeasible"),
        excluded=results.count("excluded"),
    )


def mark(results: Results, summary: Summary) -> str:
    """What every table's title must say: incomplete, synthetic; empty if neither."""
    incomplete = "" if summary.complete else f"INCOMPLETE {summary.measured}/{summary.planned}"
    synthetic = "SYNTHETIC, never measured" if results.rows["synthetic"].any() else ""
    return ", ".join(word for word in (incomplete, synthetic) if word)
