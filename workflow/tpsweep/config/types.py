"""Values of config.yaml as pydantic has them: names, counts, rates, closed mappings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

NAME_LIMIT = 100
PATH_LIMIT = 1000
LEAST_RATE = 0.001
"""Requests/s: a request in a quarter of an hour."""


def _printable(limit: int, text: str) -> str:
    if not text.strip() or len(text) > limit or not text.isprintable():
        raise PydanticCustomError(
            "name", "allowed: 1 to {limit} characters, no control characters", {"limit": limit}
        )
    return text


def _name(text: str) -> str:
    """Two names that differ in a blank at the end look the same in every table."""
    if text != text.strip():
        raise PydanticCustomError(
            "name",
            "allowed: 1 to {limit} characters, no blanks at the ends",
            {"limit": NAME_LIMIT},
        )
    return _printable(NAME_LIMIT, text)


def _path(text: str) -> str:
    """``~`` as a shell has it: nobody else would fill it in."""
    text = _printable(PATH_LIMIT, text)
    return str(Path(text).expanduser()) if text == "~" or text.startswith("~/") else text


def distinct(values: list[Any]) -> list[Any]:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise PydanticCustomError(
                "distinct", "allowed: each value once; {value} appears twice", {"value": value}
            )
        seen.add(value)
    return values


def _rate(value: object) -> object:
    return math.inf if value == "inf" else value


def _a_number(value: float) -> float:
    if math.isnan(value):
        raise PydanticCustomError("nan", "allowed: a number above 0, or inf")
    if 0 < value < LEAST_RATE:
        raise PydanticCustomError(
            "rate", "allowed: at least {least}, or inf", {"least": LEAST_RATE}
        )
    return value


Name = Annotated[str, AfterValidator(_name)]
PathText = Annotated[str, AfterValidator(_path)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Whole = Annotated[int, Field(ge=0)]
Rate = Annotated[
    float,
    BeforeValidator(_rate),
    AfterValidator(_a_number),
    Field(gt=0),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"const": "inf"}]}),
]
Several = Annotated[
    list[Annotated[int, Field(ge=2, le=10**9)]], Field(min_length=1), AfterValidator(distinct)
]


class Closed(BaseModel):
    """A mapping whose keys are all known; types are taken as written ("4" is not a number)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: object) -> object:
        # pydantic refuses unknown keys too, but does not say which ones there are.
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    raise PydanticCustomError(
                        "unknown_key",
                        "unknown key; allowed: {allowed}",
                        {"allowed": ", ".join(cls.model_fields), "key": str(key)},
                    )
        return data
