"""Bandwidth of plain all-reduces, by nccl-tests' definitions (its doc/PERFORMANCE.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tpsweep.traces.events import Floats


@dataclass(frozen=True)
class Bandwidth:
    """Medians over the all-reduces, GB/s (1e9 bytes). ``link_share`` is the bytes that the
    algorithm sends out of one rank per second, over the link's peak of one direction."""

    algbw_gb_s: float
    busbw_gb_s: float
    link_share: float | None


def bandwidth(
    size: Floats, transfer_ns: Floats, ranks: int, algorithm: str | None, link_gb_s: float | None
) -> Bandwidth:
    """``size``: bytes of each all-reduce's vector on one rank; ``transfer_ns``: its transfer.

    algbw = size / time; busbw = algbw * 2(n-1)/n whatever the algorithm. One-shot moves
    (n-1)*size per rank, which at n > 2 is more than busbw says.
    """
    algbw = float(np.median(size / np.maximum(transfer_ns, 1)))
    ring = 2 * (ranks - 1) / ranks
    moved = {"one_shot": ranks - 1.0, "two_shot": ring, "ring": ring}.get(algorithm or "")
    share = None if moved is None or link_gb_s is None else algbw * moved / link_gb_s
    return Bandwidth(algbw, algbw * ring, share)
