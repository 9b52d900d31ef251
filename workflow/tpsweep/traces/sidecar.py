"""What a capture alone does not tell: model, TP, lengths, link (``<capture>.json`` beside it)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tpsweep.core.capture_match import COMPARED
from tpsweep.core.errors import CaptureError
from tpsweep.perfmodel import nvlink
from tpsweep.perfmodel.model_folder import read_config

_TEXTS = ("dtype", "link", "gpu_card", "model_name", "vllm_version")
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


class Sizes(Protocol):
    """The sizes that the analysis needs; ``tpsweep.perfmodel.model_shape.Shape`` has them."""

    @property
    def layers(self) -> int:
        """Decoder layers."""

    @property
    def hidden(self) -> int:
        """Width of the residual stream: what every all-reduce carries per token."""


@dataclass(frozen=True)
class ModelSizes:
    """``Sizes`` of a config.json, whatever its architecture; ``dense_layers``: the first so many
    layers of a mixture of experts have none."""

    layers: int
    hidden: int
    dense_layers: int = 0

    @classmethod
    def from_config(cls, config: dict[str, Any], source: Path) -> ModelSizes:
        """Raises ``CaptureError`` for a missing or impossible size."""
        text = config.get("text_config")
        if "num_hidden_layers" not in config and isinstance(text, dict):
            config = text
        found = {}
        for key in ("num_hidden_layers", "hidden_size"):
            value = config.get(key)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise CaptureError(f"{source}: {key}: {value!r}; allowed: a whole number above 0")
            found[key] = value
        dense = config.get("first_k_dense_replace")
        return cls(
            found["num_hidden_layers"],
            found["hidden_size"],
            dense if isinstance(dense, int) else 0,
        )


@dataclass(frozen=True)
class Sidecar:
    """All fields may be unknown (None); lengths are tokens, ``link`` is a word of ``topo -m``.

    ``steady_from``: so many decode steps after each prefill are left out of the decode figures.
    ``identity``: the columns of ``core.capture_match`` that the file has. ``found``: there is one.
    """

    model: Sizes | None = None
    dtype: str | None = None
    tp: int | None = None
    pp: int | None = None
    dcp: int | None = None
    batch: int | None = None
    input_len: int | None = None
    output_len: int | None = None
    link: str | None = None
    gpu_card: str | None = None
    steady_from: int = 0
    model_name: str | None = None
    architecture: str | None = None
    vllm_version: str | None = None
    synthetic: bool = False
    identity: Mapping[str, Any] = field(default_factory=dict, repr=False)
    found: bool = False

    @property
    def shards(self) -> int | None:
        """Ranks that hold one copy of the model; None if TP is not known."""
        return None if self.tp is None else self.tp * (self.pp or 1)

    @property
    def dtype_bytes(self) -> int | None:
        """Bytes per activation; None if the dtype is not known."""
        return DTYPE_BYTES.get(self.dtype or "")

    @property
    def link_gb_s(self) -> float | None:
        """Peak of one direction between two GPUs in GB/s; None for anything but ``NV<k>``."""
        return nvlink.peak_gb_s(self.link, self.gpu_card)


def place(capture: Path) -> Path:
    """Where a capture's sidecar is: the name without rank and suffixes, plus ``.json``."""
    stem = re.sub(r"(\.(sqlite|nsys-rep|qdstrm|xz|gz|json|trace|pt))+$", "", capture.name)
    return capture.with_name(re.sub(r"[._-](rank[_-]?|TP-)\d+.*$", "", stem) + ".json")


def find(capture: Path) -> Sidecar:
    """The sidecar of a capture; an empty one if there is none. Raises ``CaptureError``."""
    path = place(capture)
    if path == capture or not path.is_file():
        return Sidecar()
    data = read_json(path)
    model = data.get("model")
    numbers: dict[str, int | None] = {}
    for key in ("tp", "pp", "dcp", "batch", "input_len", "output_len"):
        numbers[key] = value = data.get(key)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and (not whole or value < 1):
            raise CaptureError(f"{path}: {key}: {value!r}; allowed: an integer above 0, or null")
    skipped = data.get("steady_from") or 0
    if not isinstance(skipped, int) or isinstance(skipped, bool) or skipped < 0:
        raise CaptureError(f"{path}: steady_from: {skipped!r}; allowed: an integer, 0 or above")
    for key in _TEXTS:
        if data.get(key) is not None and not isinstance(data[key], str):
            raise CaptureError(f"{path}: {key}: {data[key]!r}; allowed: text or null")
    if model is not None and not isinstance(model, dict):
        raise CaptureError(f"{path}: model: {model!r}; allowed: a config.json's content, or null")
    return Sidecar(
        model=ModelSizes.from_config(model, path) if isinstance(model, dict) else None,
        dtype=data.get("dtype"),
        link=data.get("link"),
        gpu_card=data.get("gpu_card"),
        steady_from=skipped,
        model_name=data.get("model_name"),
        architecture=_architecture(model or {}),
        vllm_version=data.get("vllm_version"),
        synthetic=bool(data.get("synthetic")),
        # In the file ``model`` is the model's configuration.
        identity={name: data.get(name) for name in COMPARED} | {"model": data.get("model_name")},
        found=True,
        **numbers,
    )


def _architecture(config: Mapping[str, Any]) -> str | None:
    """The class of a config.json, else its type."""
    classes = config.get("architectures")
    first = classes[0] if isinstance(classes, list) and classes else config.get("model_type")
    return None if first is None else str(first)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ``CaptureError``."""
    try:
        return read_config(path)
    except ValueError as error:
        raise CaptureError(str(error)) from error
