"""A part of a sweep for one run: ``snakemake ... --config only='{model: llama-3.1-8b, tp: 2}'``.

What it leaves out stays in the manifest, and is missing in the tables until another run makes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from tpsweep.config.errors import ConfigError, of_pydantic
from tpsweep.config.settings import Axes
from tpsweep.core.cell import Cell
from tpsweep.sweep.expand import matches


def selected(given: object, cells: Iterable[Cell]) -> set[str]:
    """Ids of the cells that agree with ``given``: a mapping of axes, or a list of such mappings.

    A value may be a list, of which a cell has one. Values may be text: the command line knows no
    other type. Raises ``ConfigError``.
    """
    if isinstance(given, Mapping):
        wanted = [_every("only", given)]
    elif isinstance(given, list) and given:
        wanted = [_every(f"only.{i}", entry) for i, entry in enumerate(given)]
    else:
        raise ConfigError(
            "only", given, "allowed: axes and their values, such as {model: name, tp: 2}"
        )
    ids: set[str] = set()
    unused = set(range(len(wanted)))
    for cell in cells:
        here = {i for i, each in enumerate(wanted) if any(matches(axes, cell) for axes in each)}
        unused -= here
        if here:
            ids.add(cell.cell_id)
    for i in sorted(unused):
        entry = given[i] if isinstance(given, list) else given
        raise ConfigError("only", entry, "it matches no planned cell")
    return ids


def _every(key: str, given: object) -> list[dict[str, Any]]:
    """The combinations of a mapping whose values may be lists: ``{tp: [1, 2]}``."""
    if not isinstance(given, Mapping):
        return [_axes(key, given)]
    listed = {name: v if isinstance(v, list) else [v] for name, v in given.items()}
    if empty := next((name for name, values in listed.items() if not values), None):
        raise ConfigError(f"{key}.{empty}", [], "allowed: a value, or a list with one or more")
    chosen = itertools.product(*listed.values())
    return [_axes(key, dict(zip(listed, values, strict=True))) for values in chosen]


def _axes(key: str, given: object) -> dict[str, Any]:
    try:
        axes = Axes.model_validate(given, strict=False).axes
    except ValidationError as error:
        raise of_pydantic(error.errors()[0], key) from None
    if not axes:
        raise ConfigError(key, given, "allowed: at least one axis")
    return axes
