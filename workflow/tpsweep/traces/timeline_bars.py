"""What a picture of a step is made of: bars of time per rank and term, no more than can be seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tpsweep.traces.events import Floats

MOST_BARS = 4000
"""In one panel: keeps the picture's file small."""


@dataclass(frozen=True)
class Lane:
    """One rank's step; times in us from the picture's zero. ``bars`` has spans (n, 2) by kind,
    ``terms`` the step's terms in us."""

    rank: int
    begin: float
    end: float
    bars: Mapping[str, Floats]
    terms: Mapping[str, float]


@dataclass(frozen=True)
class Picture:
    """One step. ``zoom`` is the enlarged window in us; ``clocks`` says why lanes do not align."""

    title: str
    about: str
    clocks: str | None
    lanes: Sequence[Lane]
    zoom: tuple[float, float]
    zoom_words: str
    lower_bound: bool


def merged(spans: Floats, least: float) -> Floats:
    """Spans (n, 2), sorted, with pauses shorter than ``least`` closed."""
    if len(spans) < 2:
        return spans
    apart = np.flatnonzero(spans[1:, 0] - spans[:-1, 1] >= least)
    begin = spans[np.concatenate([[0], apart + 1]), 0]
    end = spans[np.concatenate([apart, [len(spans) - 1]]), 1]
    return np.stack([begin, end], axis=1)


def clipped(spans: Floats, window: tuple[float, float]) -> Floats:
    """Spans (n, 2) that lie in the window, cut at its ends."""
    inside = spans[(spans[:, 1] > window[0]) & (spans[:, 0] < window[1])]
    return np.clip(inside, *window)


def finest(lanes: Sequence[Lane], pixel: float) -> float:
    """The shortest pause to draw in the whole step: a quarter of a pixel, or as long as keeps the
    picture small."""
    least = pixel / 4
    while least < pixel * 64:
        bars = sum(len(merged(s, least)) for lane in lanes for s in lane.bars.values())
        if bars <= MOST_BARS:
            break
        least *= 2
    return least
