"""How long an all-reduce should take: latency + bytes / bandwidth, per link class and backend.

The curves are in data/expectation.yaml, each with its origin.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from tpsweep.perfmodel.constants import NoExpectationError, document
from tpsweep.perfmodel.gpu_specs import Card
from tpsweep.perfmodel.nvlink import LINK_GB_S

BACKENDS = ("custom", "nccl")


@dataclass(frozen=True)
class Curve:
    """``latency_us`` + bytes / ``gb_s`` (1e9 B/s)."""

    latency_us: float
    gb_s: float
    origin: str

    def us(self, size: float) -> float:
        """Microseconds for ``size`` bytes."""
        return self.latency_us + size / (self.gb_s * 1e3)


def all_reduce_us(backend: str, card: Card, tp: int, size: float) -> float:
    """Microseconds of one all-reduce of ``size`` bytes per rank; 0 for one GPU.

    Raises ``NoExpectationError`` where there is no curve: another backend, no NVLink between the
    GPUs, or a TP for which no measurement is cited.
    """
    if tp == 1:
        return 0.0
    if backend == "custom" and size >= int(document()["all_reduce"]["custom"]["below_bytes"]):
        backend = "nccl"
    return curve(backend, card, tp).us(size)


def curve(backend: str, card: Card, tp: int) -> Curve:
    """The curve of a backend between ``tp`` of a card. Raises ``NoExpectationError``."""
    if backend not in BACKENDS:
        raise NoExpectationError(
            f"allreduce_backend: {backend!r}; curves are known for: {', '.join(BACKENDS)}"
        )
    found = _curves().get((backend, link_class(card, tp), tp))
    if found is None:
        raise NoExpectationError(f"no {backend} all-reduce curve for {tp} x {card.name}")
    return found


def link_class(card: Card, tp: int) -> str:
    """The class that ``topo -m`` should show between ``tp`` of the card: ``NV18``, or ``none``."""
    if card.nvlink_gb_s is None or tp > card.nvlink_gpus:
        return "none"
    return f"NV{card.nvlink_gb_s / LINK_GB_S:.0f}"


@cache
def _curves() -> dict[tuple[str, str, int], Curve]:
    return {
        (backend, link, tp): Curve(**figures)
        for backend, links in document()["all_reduce"].items()
        for link, sizes in links.items()
        if isinstance(sizes, dict)
        for tp, figures in sizes.items()
    }
