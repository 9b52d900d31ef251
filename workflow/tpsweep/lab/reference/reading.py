"""Reads a reference data set; whatever is wrong with its files is one line that names the place."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tpsweep.config.errors import of_pydantic
from tpsweep.lab.reference.figure import METRICS, WORKLOADS, Figure
from tpsweep.perfmodel.gpu_specs import Card, cards
from tpsweep.perfmodel.model_shape import DTYPE_BYTES, Shape

COLUMNS = tuple(field.name for field in fields(Figure) if field.name != "half_unit")
_OPTIONAL = ("node", "batch", "output_len", "request_rate", "note")
_WHOLE = ("gpus", "tp", "batch", "output_len")
_DIGITS, _DECIMAL = re.compile(r"[0-9]{1,12}"), re.compile(r"[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?")
_MOST = 1e12
ALL_AT_ONCE = "inf"
"""A request rate: no request waits for another to be sent."""
_CHOICES = {"workload": WORKLOADS, "metric": tuple(METRICS)}
_NUMBERS = {"gpus", "tp", "batch", "output_len", "value", "request_rate"}


class ReferenceDataError(ValueError):
    """A reference data set is unusable; one line that names the file and the place."""


class _Sidecar(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    title: str
    about: str
    source: str
    cards: dict[str, str]
    dtype: str
    models: dict[str, dict[str, Any]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """A data set. ``cards``: by node class as published; ``shapes``: by model, where known."""

    name: str
    title: str
    about: str
    source: str
    dtype: str
    figures: tuple[Figure, ...]
    cards: dict[str, Card]
    shapes: dict[str, Shape]


def read_reference(path: Path) -> Reference:
    """The data set ``path`` (a .csv file) with its sidecar. Raises ``ReferenceDataError``."""
    figures = tuple(_figures(path))
    place = path.with_suffix(".yaml")
    sidecar = _sidecar(place)
    for name, card in sidecar.cards.items():
        if card not in cards():
            raise _wrong(place, f"cards.{name}", card, f"a card of {', '.join(cards())}")
    for figure in figures:
        if figure.gpu not in sidecar.cards:
            allowed = f"a node class of {place.name}: {', '.join(sidecar.cards)}"
            raise _wrong(path, "gpu", figure.gpu, allowed)
    if sidecar.dtype not in DTYPE_BYTES:
        raise _wrong(place, "dtype", sidecar.dtype, ", ".join(DTYPE_BYTES))
    return Reference(
        name=path.stem,
        title=sidecar.title,
        about=sidecar.about,
        source=sidecar.source,
        dtype=sidecar.dtype,
        figures=figures,
        cards={name: cards()[card] for name, card in sidecar.cards.items()},
        shapes=dict(_shapes(place, sidecar)),
    )


def _figures(path: Path) -> list[Figure]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            lines = list(reader)
            found = tuple(reader.fieldnames or ())
    except (OSError, ValueError, csv.Error) as error:
        raise ReferenceDataError(f"{path}: {_said(error)}") from error
    for name in found:
        if name not in COLUMNS:
            raise ReferenceDataError(
                f"{path}: column {name[:40]!r} is unknown; allowed: {', '.join(COLUMNS)}"
            )
    missing = [name for name in COLUMNS if name not in found]
    if missing:
        raise ReferenceDataError(f"{path}: no column {', '.join(missing)}")
    if not lines:
        raise ReferenceDataError(f"{path}: it has no lines of values")
    return [_figure(f"{path}, line {at}", line) for at, line in enumerate(lines, start=2)]


def _figure(place: str, line: dict[str, Any]) -> Figure:
    if None in line or None in line.values():
        raise ReferenceDataError(
            f"{place}: the number of fields is not {len(COLUMNS)}, one per column"
        )
    values: dict[str, Any] = {}
    for name in COLUMNS:
        text = line[name].strip()
        if not text and name not in _OPTIONAL:
            raise _wrong(place, name, text, "it must be given")
        values[name] = _parsed(place, name, text) if text else None
    unit = METRICS[values["metric"]]
    if values["unit"] != unit:
        raise _wrong(place, "unit", values["unit"], f"{unit}, the unit of {values['metric']}")
    return Figure(**values, half_unit=_half_unit(line["value"].strip()))


def _parsed(place: str, name: str, text: str) -> str | int | float:
    choices = _CHOICES.get(name)
    if choices and text not in choices:
        raise _wrong(place, name, text, ", ".join(choices))
    if name not in _NUMBERS:
        return text
    if name == "request_rate" and text == ALL_AT_ONCE:
        return math.inf
    whole = name in _WHOLE
    if (_DIGITS if whole else _DECIMAL).fullmatch(text):
        number = int(text) if whole else float(text)
        if 0 < number < _MOST:
            return number
    also = f", or {ALL_AT_ONCE}" if name == "request_rate" else ""
    raise _wrong(place, name, text, f"a {'whole ' if whole else ''}number above 0{also}")


def _half_unit(text: str) -> float:
    """Half of the last digit of a number as printed: 0.005 for 7.06, 0.5 for 818."""
    mantissa, _, exponent = text.lower().partition("e")
    digits = len(mantissa.partition(".")[2])
    return float(0.5 * 10.0 ** (int(exponent or 0) - digits))


def _sidecar(path: Path) -> _Sidecar:
    try:
        loaded = yaml.safe_load(path.read_text("utf-8"))
        for key in loaded if isinstance(loaded, dict) else ():
            if key not in _Sidecar.model_fields:
                allowed = ", ".join(_Sidecar.model_fields)
                raise ReferenceDataError(f"{path}: {key!r}: unknown key; allowed: {allowed}")
        return _Sidecar.model_validate(loaded)
    except ValidationError as error:
        said = str(of_pydantic(error.errors()[0])).removeprefix("config: ")
        raise ReferenceDataError(f"{path}: {said}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ReferenceDataError(f"{path}: {_said(error)}") from error


def _shapes(place: Path, sidecar: _Sidecar) -> list[tuple[str, Shape]]:
    found = []
    for name, config in sidecar.models.items():
        try:
            found.append((name, Shape.from_config(config)))
        except ValueError as error:
            raise ReferenceDataError(f"{place}: models.{name}: {_said(error)}") from error
    return found


def _wrong(place: Path | str, key: str, value: str, allowed: str) -> ReferenceDataError:
    return ReferenceDataError(f"{place}: {key}: {value[:80]!r}; allowed: {allowed}")


def _said(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return " ".join((text or str(error)).split())[:200]
