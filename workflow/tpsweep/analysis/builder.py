"""From results to tables, each built once, and from their files back: what a table is made of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tpsweep.analysis.series import Source
from tpsweep.analysis.table import Table, View, read_table
from tpsweep.results.load import Results


@dataclass(frozen=True)
class Builder:
    """How the table ``name`` is made: ``build(source, *needed)``.

    ``needs``: names of the tables that it is made from, too. ``views``: those of the table; a file
    does not hold them.
    """

    name: str
    build: Callable[..., Table]
    views: tuple[View, ...]
    needs: tuple[str, ...] = ()


def build_tables(results: Results, builders: Sequence[Builder], mark: str = "") -> dict[str, Table]:
    """Every table by its name, with ``mark``; a builder comes after those that it needs."""
    source = Source(results)
    made: dict[str, Table] = {}
    for builder in builders:
        needed = [made[name].own for name in builder.needs]
        made[builder.name] = replace(builder.build(source, *needed), mark=mark)
    # Not before: tables that are made of others read all columns.
    return {name: table.pruned for name, table in made.items()}


def read_tables(
    folder: Path,
    builders: Sequence[Builder],
    names: Collection[str] | None = None,
    columns: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Table]:
    """The tables of ``folder`` by name: those of ``names``, or all that ``builders`` make.

    ``columns``: by table those to read, of large ones. Raises ``TableError``.
    """
    return {
        builder.name: read_table(
            folder / f"{builder.name}.parquet", builder.views, (columns or {}).get(builder.name)
        )
        for builder in builders
        if names is None or builder.name in names
    }
