"""What is asked of ``tpsweep recommend``, and the engines and node classes that may answer it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tpsweep.core.cell import Engine
from tpsweep.core.layout import Layout
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
    """GPUs of a node of a class (None: nobody said), their price, GiB of each (None: as its
    datasheet says), and the most nodes that one engine may span."""

    gpu: str
    card: str
    per_node: int | None = None
    gpu_hour_usd: float | None = None
    memory_gib: float | None = None
    most_nodes: int = 1

    def spans(self, layout: Layout) -> int | None:
        """Nodes that an engine takes; None if it cannot be on so many, or not in equal parts."""
        nodes = layout.nodes_on(self.per_node or 1)
        alone = layout.engines == 1  # a server starts all of its engines on one node
        fits = nodes == 1 or (alone and nodes <= self.most_nodes and layout.gpus % nodes == 0)
        return nodes if fits else None

    def nodes(self, gpus: int, engines: int) -> int | None:
        """Nodes for ``engines`` of ``gpus`` each; no engine is on two of them."""
        if self.per_node is None or gpus > self.per_node:
            return None
        return -(-engines // (self.per_node // gpus))


def key_of(engine: Engine) -> tuple[Any, ...]:
    """What makes two engines the same answer: all that can be chosen, arguments included, and all
    that makes numbers of another engine."""
    chosen = engine.gpu, engine.gpu_card, engine.variant, engine.precision, *place_of(engine)
    model = engine.model
    other = engine.site, engine.vllm_version, model.dtype, model.weights, model.revision
    return (*chosen, engine.allreduce_backend, *other, json.dumps(engine.args, sort_keys=True))


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


def labels_of(engines: Iterable[Engine]) -> dict[Any, str]:
    """Labels by ``key_of``; where two would be called the same, with what tells them apart."""
    alike: dict[str, dict[Any, Engine]] = {}
    for engine in engines:
        alike.setdefault(label_of(engine), {})[key_of(engine)] = engine
    found = {}
    for label, group in alike.items():
        told = [_details(engine) for engine in group.values()]
        names = [name for name in dict.fromkeys(n for one in told for n in one)]
        apart = [name for name in names if len({one.get(name) for one in told}) > 1]
        for key, details in zip(group, told, strict=True):
            more = ", ".join(f"{name} {details.get(name, 'default')}" for name in apart)
            found[key] = f"{label} [{more}]" if more else label
    return found


def _details(engine: Engine) -> dict[str, str]:
    """What a label leaves out."""
    model = engine.model
    known = {
        "vLLM": engine.vllm_version,
        "site": engine.site,
        "card": engine.gpu_card,
        "dtype": model.dtype,
        "weights": model.weights,
        "revision": model.revision or "none",
    }
    return known | {name: json.dumps(value) for name, value in engine.args.items()}
