"""From site.yaml to a ``Site``; what is wrong with it, in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ..host import HostGpu, host_gpus
from ..repeated import repeated_key
from .model import CPU, Container, GpuClass, Model, QosLimits, Site, SiteError

AUTO = "auto"
CPU_SLOTS = 2
"""``per_node: auto`` without a GPU: as many as tensor parallelism needs at least."""


def load_site(path: Path) -> Site:
    """The site in ``path``, with ``auto`` resolved by asking this host.

    Raises ``SiteError``: one line naming the file, the key, the value and what is allowed.
    """
    try:
        text = path.read_text("utf-8")
        data = yaml.safe_load(text)
    except OSError as error:
        raise SiteError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise SiteError(f"{path}: not YAML: {said}") from error
    if twice := repeated_key(text):
        raise SiteError(f"{path}: {twice}, allowed: once")
    if not isinstance(data, dict):
        raise SiteError(f"{path}: expected keys and values, found {type(data).__name__}")
    try:
        return Site.model_validate(_resolve_auto(data))
    except ValidationError as error:
        raise SiteError(f"{path}: {_one_line(_telling(error.errors()))}") from error
    except SiteError as error:
        raise SiteError(f"{path}: {error}") from error


def _resolve_auto(data: dict[str, Any]) -> dict[str, Any]:
    """``data`` with every ``auto`` of ``gpus`` replaced by what this host has."""
    classes = data.get("gpus")
    if not isinstance(classes, dict):
        return data
    resolved = dict(classes)
    for name, given in classes.items():
        keys = given.items() if isinstance(given, dict) else ()
        wanted = [key for key, value in keys if key in ("card", "per_node") and value == AUTO]
        if not wanted:
            continue
        if data.get("cluster") != "local":
            raise SiteError(
                f"gpus.{name}.{wanted[0]}: {AUTO!r} is allowed with cluster: local only: "
                "the host that asks is not the node that computes"
            )
        found = _this_host(str(name), host_gpus())
        filled = {key: found[key] for key in wanted}
        if "card" in wanted and "memory_gib" not in given:
            filled["memory_gib"] = found["memory_gib"]
        resolved[name] = {**given, **filled}
    return {**data, "gpus": resolved}


def _this_host(name: str, gpus: list[HostGpu]) -> dict[str, Any]:
    cards = sorted({gpu.name for gpu in gpus})
    if len(cards) > 1:
        raise SiteError(f"gpus.{name}.card: {AUTO!r} found {cards}, allowed: one kind of GPU")
    if not gpus:
        per_node = min(CPU_SLOTS, os.cpu_count() or 1)
        return {"card": CPU, "per_node": per_node, "memory_gib": None}
    memory = round(min(gpu.memory_gib for gpu in gpus), 2)
    return {"card": cards[0], "per_node": len(gpus), "memory_gib": memory}


def _model_of(path: list[str]) -> type[Model]:
    """The model that has the keys of the mapping at ``path``."""
    if path and path[-1] == "container":
        return Container
    models: dict[str, type[Model]] = {"gpus": GpuClass, "qos_limits": QosLimits}
    return models.get(path[0], Site) if path else Site


def _telling(errors: list[ErrorDetails]) -> ErrorDetails:
    """The mistake that explains the most: a key that is missing may be there, spelt otherwise."""
    return next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])


def _one_line(error: ErrorDetails) -> str:
    key = ".".join(str(part) for part in error["loc"] if part != "[key]")
    value = error["input"]
    if error["type"] == "missing":
        return f"{key}: missing, allowed: it must be given"
    if error["type"] == "extra_forbidden":
        model = _model_of([str(part) for part in error["loc"][:-1]])
        return f"{key}: {value!r}: unknown key, allowed: {', '.join(model.model_fields)}"
    said = error["msg"].removeprefix("Value error, ").replace("Input should be", "allowed:")
    if error["type"] == "string_pattern_mismatch":
        said = f"allowed: text like {error['ctx']['pattern']}"
    if not key:  # a rule between keys, which names them itself
        return said
    if (
        isinstance(value, dict) and error["type"] == "value_error"
    ):  # of one of its keys, named there
        return f"{key}: {said}"
    return f"{key}: {value!r}: {' '.join(said.split())}"
