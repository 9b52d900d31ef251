"""The lists and values of axes as pydantic fields, from their declarations in ``core.axes``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, Field, create_model

from tpsweep.config.types import Name, Rate, distinct
from tpsweep.core.axes import FILTERS, LAYOUT, LISTED, REQUIRED, SWEEP, Axis, of_kind

AnyModel = TypeVar("AnyModel", bound=BaseModel)
Fields = Mapping[str, tuple[Any, Any]]

NAMED = ("model", "variant")
"""Axes whose values are the keys of a mapping of the config, not of a list."""


def _value_type(axis: Axis, choices: tuple[Any, ...]) -> Any:
    """One value of an axis as the config may write it."""
    if choices:
        return Literal[choices]
    if axis.type is int:
        return Annotated[int, Field(ge=axis.least, le=10**9)]
    return {str: Name, float: Rate, bool: bool}[axis.type]


def _list_type(axis: Axis) -> Any:
    """The config's list of an axis: at least one value, each once."""
    value = _value_type(axis, axis.choices)
    item = value | None if axis.nullable else value
    return Annotated[list[item], Field(min_length=1), AfterValidator(distinct)]  # type: ignore[valid-type]


def filter_field(axis: Axis) -> Any:
    """The value of an axis that some cells have, whether or not a list may hold it."""
    return _value_type(axis, (*axis.choices, *axis.filtered)) | None, None


def list_field(axis: Axis, default: list[Any] | None) -> tuple[Any, Any]:
    """A list of the axis and its default: ``REQUIRED``, a list, or None."""
    if default is REQUIRED:
        return _list_type(axis), ...
    return (_list_type(axis) | None if default is None else _list_type(axis)), default


def sweep_lists() -> Fields:
    """Of the whole sweep, by config key; models and variants are mappings there.

    Layout axes may be left out: ``layouts`` stands in their place."""
    wide = [axis for axis in LISTED if axis.is_sweep_wide and axis.name not in NAMED]
    return {str(axis.config_key): list_field(axis, _sweep_default(axis)) for axis in wide}


def _sweep_default(axis: Axis) -> list[Any] | None:
    default = axis.lists[SWEEP]
    return None if axis in LAYOUT and default is REQUIRED else default


def layout_values() -> Fields:
    """Of an entry of ``layouts``: a value of each layout axis."""
    return {axis.name: (_value_type(axis, axis.choices), axis.unsaid) for axis in LAYOUT}


def narrowed_lists() -> Fields:
    """Of a workload, which may narrow those of the sweep."""
    return {str(axis.config_key): list_field(axis, None) for axis in LISTED if axis.is_sweep_wide}


def own_lists(kind: str) -> Fields:
    """Of a kind of workload alone."""
    return {str(axis.config_key): list_field(axis, axis.lists[kind]) for axis in of_kind(kind)}


def filter_values() -> Fields:
    """Of each axis that ``only`` and ``exclude`` may name, the values that cells may have."""
    return {axis.name: filter_field(axis) for axis in FILTERS}


def with_fields(fields: Fields) -> Callable[[type[AnyModel]], type[AnyModel]]:
    """Adds ``fields`` to a model; a field that the class has itself stays as it is."""

    def extend(model: type[AnyModel]) -> type[AnyModel]:
        new: dict[str, Any] = {k: v for k, v in fields.items() if k not in model.model_fields}
        return create_model(
            model.__name__,
            __base__=model,
            __module__=model.__module__,
            __doc__=model.__doc__,
            **new,
        )

    return extend
