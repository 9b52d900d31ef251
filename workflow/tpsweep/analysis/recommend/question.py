"""What is asked of ``tpsweep recommend``, and the engines and node classes that may answer it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tpsweep.core.cell import Engine
from tpsweep.core.slo import Slo

COST, GPUS, LATENCY, ENERGY = "cost", "gpus", "latency", "energy"
OBJECTIVES = (COST, GPUS, LATENCY, ENERGY)


@dataclass(frozen=True)
class Traffic:
    """Requests of random tokens, all of these lengths."""

    input_len: int
    output_len: int


@dataclass(frozen=True)
class Question:
    """``rate``: requests/s in all; None: what one engine can do. ``slo``: None: no limit but that
    the queue does not grow. ``most_gpus``: by node class, None of a class: as many as it takes;
    empty: all classes. ``most``: of any class."""

    model: str
    traffic: Traffic
    rate: float | None = None
    slo: Slo | None = None
    objective: str = GPUS
    most_gpus: Mapping[str, int | None] = field(default_factory=dict)
    most: int | None = None

    def allows(self, gpu: str) -> bool:
        """Whether the answer may be on a node class."""
        return not self.most_gpus or gpu in self.most_gpus

    def limit(self, gpu: str) -> int | None:
        """The most GPUs of a class; None: no limit."""
        known = [n for n in (self.most_gpus.get(gpu), self.most) if n is not None]
        return min(known, default=None)


@dataclass(frozen=True)
class NodeClass:
    """GPUs of a node of a class (None: nobody said) and their price."""

    gpu: str
    card: str
    per_node: int | None = None
    gpu_hour_usd: float | None = None

    def nodes(self, gpus: int, engines: int) -> int | None:
        """Nodes for ``engines`` of ``gpus`` each; no engine is on two of them."""
        if self.per_node is None or gpus > self.per_node:
            return None
        return -(-engines // (self.per_node // gpus))


def key_of(engine: Engine) -> tuple[Any, ...]:
    """What makes two engines the same answer: all that can be chosen, arguments included."""
    chosen = engine.gpu, engine.gpu_card, engine.variant, engine.precision, *place_of(engine)
    return (*chosen, engine.allreduce_backend, json.dumps(engine.args, sort_keys=True))


def place_of(engine: Engine) -> tuple[Any, ...]:
    """What an expectation tells apart: node class, layout and precision."""
    return (engine.gpu, *engine.sizes.values(), engine.precision)


def label_of(engine: Engine) -> str:
    """``TP=2 on H200``, and what of it is not the default."""
    more = [] if engine.variant == "default" else [engine.variant]
    more += [] if engine.precision == "bf16" else [engine.precision]
    if engine.allreduce_backend not in ("auto", "none"):
        more.append(f"{engine.allreduce_backend} all-reduce")
    return f"{engine.label} on {engine.gpu}" + (f" ({', '.join(more)})" if more else "")
