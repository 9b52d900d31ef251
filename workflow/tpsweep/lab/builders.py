"""The tables that the lab adds to those of every sweep."""

from __future__ import annotations

from functools import partial

from tpsweep.analysis.builder import Builder
from tpsweep.analysis.series import Source
from tpsweep.analysis.table import Table
from tpsweep.lab import metrics
from tpsweep.lab.reference import compare_published
from tpsweep.lab.reference.reading import Reference

BUILDERS = (Builder("metrics", metrics.build, metrics.VIEWS, metrics.NEEDS),)


def published(reference: Reference) -> tuple[Builder, ...]:
    """Own results beside published ones, and what in these does not hold together."""

    def findings(_: Source) -> Table:
        return compare_published.build_findings(reference)

    beside = partial(compare_published.build, reference=reference)
    return (
        Builder("reference", beside, compare_published.VIEWS),
        Builder("reference_findings", findings, compare_published.FINDING_VIEWS),
    )
