"""The constants of the expectation, from data/expectation.yaml, where each has its origin."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml


class NoExpectationError(ValueError):
    """The constants do not cover the request; the message says why."""


@dataclass(frozen=True)
class Constants:
    """Shares are of a datasheet figure. ``layer_us`` is per layer and step, ``experts_us`` per
    layer with experts. The host's per layer and step: ``graph_layer_us`` in a prefill under CUDA
    graphs; without them ``eager_layer_us`` at TP above 1, ``eager_layer_tp1_us`` at TP=1, and with
    experts ``launch_us`` per kernel. ``behind_first``: requests of a batch that come to a pipeline
    while its first step is handed out."""

    weight_bandwidth_share: float
    kv_bandwidth_share: float
    fp8_kv_bandwidth_share: float
    layer_us: float
    step_us: float
    eager_layer_us: float
    eager_layer_tp1_us: float
    graph_layer_us: float
    prefill_flops_share: float
    stage_us: float
    experts_us: float
    expert_flops_share: float
    launch_us: float
    behind_first: int


@dataclass(frozen=True)
class ServingConstants:
    """What static batches do not show. ``server_tok_s``: output tokens/s of one HTTP server;
    ``prompt_layer_us``: per layer and step with a prompt in it; ``http_ms``: of a request, apart
    from waiting."""

    server_tok_s: float
    prompt_layer_us: float
    http_ms: float


@cache
def serving_constants() -> ServingConstants:
    """Those that the package brings."""
    entries = document()["serving"].items()
    return ServingConstants(**{name: entry["value"] for name, entry in entries})


@cache
def constants() -> Constants:
    """The constants that the package brings."""
    return Constants(**{name: entry["value"] for name, entry in document()["constants"].items()})


@cache
def document() -> dict[str, Any]:
    """The data file as it is."""
    text = (Path(__file__).parent / "data" / "expectation.yaml").read_text("utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded
