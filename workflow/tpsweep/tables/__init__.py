"""The comparison tables, from the rows and the manifest alone: ``results/tables/``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tpsweep.analysis.builder import Builder, build_tables
from tpsweep.results.load import Results
from tpsweep.tables import (
    batch_scaling,
    capacity,
    cells,
    choices,
    communication,
    cost,
    crossover,
    expected,
    failures,
    floors,
    layouts,
    machines,
    models,
    serving,
    terms,
    throughput,
    tp_comparison,
    tp_pairs,
    validity,
)

FOLDER = "tables"
BUILDERS = (
    Builder("cells", cells.build, cells.VIEWS),
    Builder("machines", machines.build, machines.VIEWS),
    Builder("failures", failures.build, failures.VIEWS),
    Builder("tp_comparison", tp_comparison.build, tp_comparison.VIEWS),
    Builder("throughput", throughput.build, throughput.VIEWS),
    Builder("serving", serving.build, serving.VIEWS),
    Builder("capacity", capacity.build, capacity.VIEWS),
    Builder("choices", choices.build, choices.VIEWS),
    Builder("communication", communication.build, communication.VIEWS),
    Builder("terms", terms.build, terms.VIEWS, terms.NEEDS),
    Builder("batch_scaling", batch_scaling.build, batch_scaling.VIEWS),
    Builder("tp_pairs", tp_pairs.build, tp_pairs.VIEWS),
    Builder("crossover", crossover.build, crossover.VIEWS),
    Builder("floors", floors.build, floors.VIEWS),
    Builder("layouts", layouts.build, layouts.VIEWS),
    Builder("expected", expected.build, expected.VIEWS),
    Builder("cost", cost.build, cost.VIEWS),
    Builder("models", models.build, models.VIEWS, models.NEEDS),
    Builder("validity", validity.build, validity.VIEWS),
)
"""Every table. A new one needs a module with ``build(source)``, an entry here, and its name in
workflow/rules/tables.smk."""


@dataclass(frozen=True)
class Summary:
    """What the tables were made of, in cells. ``planned`` = measured + failed + missing."""

    measured: int
    failed: int
    missing: int
    infeasible: int
    excluded: int

    @classmethod
    def of(cls, states: Iterable[str]) -> Summary:
        """Counts cells by their ``state``, as the manifest and the table ``cells`` have it."""
        count = Counter(states)
        names = ("measured", "failed", "missing", "infeasible", "excluded")
        return cls(**{name: count[name] for name in names})

    @property
    def planned(self) -> int:
        """Cells that should have a row."""
        return self.measured + self.failed + self.missing

    @property
    def complete(self) -> bool:
        """Every planned cell has a row."""
        return self.measured == self.planned

    def __str__(self) -> str:
        states = ("failed", "missing", "infeasible", "excluded")
        others = [f"{getattr(self, s)} {s}" for s in states if getattr(self, s)]
        mark = "" if self.complete else "INCOMPLETE "
        return ", ".join([f"{mark}{self.measured}/{self.planned} cells measured", *others])


def write_tables(folder: Path, results: Results, builders: Sequence[Builder]) -> Summary:
    """Build every table once and write it below ``folder``. Raises ``OSError``."""
    summary = Summary.of(results.manifest["state"])
    mark = _mark(summary, synthetic=bool(results.rows["synthetic"].any()))
    for table in build_tables(results, builders, mark).values():
        table.write(folder / FOLDER)
    return summary


def _mark(summary: Summary, *, synthetic: bool) -> str:
    """What every table's title must say: incomplete, synthetic; empty if neither."""
    incomplete = "" if summary.complete else f"INCOMPLETE {summary.measured}/{summary.planned}"
    words = (incomplete, "SYNTHETIC, never measured" if synthetic else "")
    return ", ".join(word for word in words if word)
