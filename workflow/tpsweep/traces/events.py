"""What every reader hands on: one rank's device events, as columns, and its step annotations."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Annotation:
    """One ``execute_context_R(T)_generation_R(T)`` range: host time in ns, requests, tokens.

    ``tokens`` are those scheduled: a CUDA graph may compute more, padded to a captured size.
    """

    start: int
    context_requests: int
    generation_requests: int
    tokens: int

    @property
    def phase(self) -> str:
        """``prefill``, ``decode`` or ``mixed``."""
        if self.context_requests and self.generation_requests:
            return "mixed"
        return "prefill" if self.context_requests else "decode"


_ANNOTATION = re.compile(
    r"execute_(?:\d+_)?context_(?P<c>\d+)\((?:sq)?(?P<ct>\d+)[^)]*\)"
    r"_generation_(?P<g>\d+)\((?:sq)?(?P<gt>\d+)[^)]*\)"
)


def parse_annotation(start: int, text: str) -> Annotation | None:
    """The step that ``text`` announces; None for other texts and for steps without a request.

    vLLM >= 0.25, ``v1/worker/gpu_worker.py`` (annotate_profile); with
    ``detailed_trace_annotation`` (>= 0.28) it is ``execute_T_context_R(sqTsk...)_...``.
    """
    match = _ANNOTATION.fullmatch(text)
    if not match or not int(match["c"]) + int(match["g"]):
        return None
    tokens = int(match["ct"]) + int(match["gt"])
    return Annotation(start, int(match["c"]), int(match["g"]), tokens)


@dataclass(frozen=True)
class RankEvents:
    """Device events of one rank in order of their start: kernels, copies, memsets (CPU: ops).

    Columns of equal length n: ``start`` and ``end`` in ns, ``stream``, and ``name``, an index
    into ``names``. ``launched()`` gives the host time in ns of each event's launch; reading it
    costs time and only captures without a logits all-gather need it. ``world`` is how many ranks
    the file says there are, if it does; ``operators`` that events are a CPU engine's operators,
    which enclose one another.
    """

    rank: int
    source: str
    names: list[str]
    name: Ints
    start: Ints
    end: Ints
    stream: Ints
    annotations: list[Annotation]
    launched: Callable[[], Ints]
    world: int | None = None
    operators: bool = False

    @property
    def duration(self) -> Ints:
        """ns, shape (n,)."""
        return self.end - self.start
