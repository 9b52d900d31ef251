"""How one model is spread over GPUs. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tpsweep.core.axes import BY_NAME, LAYOUT, NO_ALLREDUCE, without_defaults


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The sizes of every kind of parallelism. A field for each layout axis of ``core.axes``.

    Of an imported row that does not say its TP, ``tp`` is None, and ``gpus`` 0.
    """

    tp: int
    pp: int = 1
    ep: bool = False
    dcp: int = 1
    dp: int = 1
    replicas: int = 1

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Layout:
        """The layout of a row, a manifest line or a table's record; absent axes are defaults."""
        return cls(
            **{
                axis.name: axis.default if values.get(axis.name) is None else values[axis.name]
                for axis in LAYOUT
            }
        )

    @property
    def layout(self) -> Layout:
        """The layout alone, of something that is more than one (an engine)."""
        return Layout(**self.sizes)

    @property
    def sizes(self) -> dict[str, Any]:
        """The layout axes by name."""
        return {axis.name: getattr(self, axis.name) for axis in LAYOUT}

    @property
    def gpus(self) -> int:
        """GPUs that it holds: its world size."""
        return math.prod(getattr(self, axis.name) or 0 for axis in LAYOUT if axis.multiplies_gpus)

    @property
    def shards(self) -> int:
        """GPUs that hold one copy of the model."""
        return self.gpus // self.replicas

    def nodes_on(self, per_node: int) -> int:
        """How many nodes of ``per_node`` GPUs it takes."""
        return -(-self.gpus // per_node)

    @property
    def engines(self) -> int:
        """Engine cores that vLLM starts, each with requests of its own."""
        return self.dp * self.replicas

    @property
    def expert_ranks(self) -> int:
        """GPUs over which the experts of a layer are spread, split or whole."""
        return self.tp * self.dp

    @property
    def expert_split(self) -> int:
        """GPUs that hold a part of the same expert."""
        return 1 if self.ep else self.expert_ranks

    @property
    def is_tp_alone(self) -> bool:
        """Whether TP is the only kind of parallelism: what a comparison of TPs may hold."""
        return self.layout == Layout(tp=self.tp)

    @property
    def has_allreduce(self) -> bool:
        """Whether the ranks of a step exchange anything by all-reduce."""
        return (self.tp or 1) > 1

    def backend(self, asked: str) -> str:
        """The all-reduce backend that an engine of this layout uses if ``asked`` was requested."""
        return asked if self.has_allreduce else NO_ALLREDUCE

    @property
    def label(self) -> str:
        """For a line of a table, a curve or a bar: ``TP=2``, ``TP=1 x 2 replicas``, ``TP=2 + EP``.

        A kind of parallelism that takes no GPUs of its own is added to those that do."""
        shown: dict[bool, list[str]] = {True: [], False: []}
        for name, size in self.sizes.items():
            if not (axis := BY_NAME[name]).is_default(size):
                shown[axis.multiplies_gpus].append(axis.words(size))
        return " + ".join((" x ".join(shown[True]), *shown[False]))

    @property
    def product(self) -> str:
        """How many GPUs, for a message: ``tp 2 x replicas 2 = 4 GPUs``. Of a younger axis that
        nobody asked for it says nothing."""
        asked = without_defaults(self.sizes)
        factors = [
            f"{a.name} {asked[a.name]}" for a in LAYOUT if a.multiplies_gpus and a.name in asked
        ]
        return f"{' x '.join(factors)} = {self.gpus} GPUs"

    @property
    def order(self) -> tuple[Any, ...]:
        """Sorts layouts: fewest GPUs first, then by the axes."""
        return (self.gpus, *self.sizes.values())
