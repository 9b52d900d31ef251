"""A table is made once of what was read: other tables, figures and the page take its lines."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from tpsweep.analysis.table import Table
from tpsweep.results.load import Results

Build = Callable[[Results], Table]


def once(build: Build) -> Build:
    """``build``, which gives the same table for the same ``results``; nobody may change it."""

    @wraps(build)
    def built(results: Results) -> Table:
        if build not in results.made:
            results.made[build] = build(results)
        table: Table = results.made[build]
        return table

    return built
