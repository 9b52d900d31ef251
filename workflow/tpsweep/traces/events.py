"""What every reader hands on: one rank's device events, as columns, and its step annotations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Annotation:
    """One ``execute_context_R(T)_generation_R(T)`` range: host time in ns, requests, tokens.

    ``tokens`` are those scheduled: a CUDA graph may compute more, padded to a captured size; None
    where the engine does not say.
    """

    start: int
    context_requests: int
    generation_requests: int
    tokens: int | None

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


_SGLANG = re.compile(
    r"step\[(?P<mode>DECODE|EXTEND|MIXED|TARGET_VERIFY) bs=(?P<b>\d+)(?: toks=(?P<t>\d+))?.*\]"
)
_TENSORRT = re.compile(
    r"\[Executor\] _forward_step \d+: (?P<c>\d+) ctx reqs, (?:(?P<ct>\d+) ctx tokens, )?"
    r"(?P<g>\d+) gen reqs.*"
)


def parse_annotation(start: int, text: str) -> Annotation | None:
    """The step that ``text`` announces; None for other texts and for steps without a request.

    vLLM >= 0.25, ``v1/worker/gpu_worker.py`` (annotate_profile); with
    ``detailed_trace_annotation`` (>= 0.28) it is ``execute_T_context_R(sqTsk...)_...``. SGLang
    writes ``step[DECODE bs=R]``, ``step[EXTEND bs=R toks=T]``; TensorRT-LLM ``[Executor]
    _forward_step N: R ctx reqs, T ctx tokens, R gen reqs``.
    """
    if match := _ANNOTATION.fullmatch(text):
        contexts, generations = int(match["c"]), int(match["g"])
        tokens: int | None = int(match["ct"]) + int(match["gt"])
    elif match := _SGLANG.fullmatch(text):
        requests, extends = int(match["b"]), match["mode"] == "EXTEND"
        # A mixed batch does not say how many of its requests are in which phase.
        mixed = match["mode"] == "MIXED" and requests > 1
        contexts = requests if extends else int(mixed)
        generations = requests - contexts
        verified = match["mode"] == "TARGET_VERIFY"
        known = requests if match["mode"] == "DECODE" else None
        tokens = known if match["t"] is None or verified else int(match["t"])
    elif match := _TENSORRT.fullmatch(text):
        contexts, generations = int(match["c"]), int(match["g"])
        filled = int(match["ct"]) if match["ct"] else None if contexts else 0
        tokens = None if filled is None else filled + generations
    else:
        return None
    return Annotation(start, contexts, generations, tokens) if contexts + generations else None


@dataclass(frozen=True)
class ProcessGroup:
    """A process group as a trace names it: its description and its ranks."""

    description: str
    ranks: tuple[int, ...]

    def is_of(self, kind: str) -> bool:
        """Whether the description has the word ``kind`` (``tp`` in ``tp:device``, ``mesh_tp``)."""
        return kind in re.split(r"[^a-z]+", self.description.lower())


@dataclass(frozen=True)
class Place:
    """Where a rank stands in its layout, as a file's or process's name says; None: not said."""

    dp: int | None = None
    pp: int | None = None
    tp: int | None = None


@dataclass(frozen=True)
class RankEvents:
    """Device events of one rank in order of their start: kernels, copies, memsets (CPU: ops).

    Columns of equal length n: ``start`` and ``end`` in ns, ``stream``, and ``name``, an index
    into ``names``. ``launched()`` gives the host time in ns of each event's launch; reading it
    costs time and only captures without a logits all-gather need it. ``world`` is how many ranks
    the file says there are, if it does; ``operators`` that events are a CPU engine's operators,
    which enclose one another. ``peers``: the ranks that take part in the kernels of a name (an
    index into ``names``), where the trace says so. ``groups`` are all that the file names.
    ``communicators``: those that the process reduced or gathered with (NCCL's own NVTX ranges).
    ``unnumbered``: neither the file nor its name says a rank. ``training`` is a
    word of the trace that only training has.
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
    peers: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    groups: tuple[ProcessGroup, ...] = ()
    communicators: frozenset[str] = frozenset()
    place: Place = Place()
    training: str | None = None
    unnumbered: bool = False

    @property
    def duration(self) -> Ints:
        """ns, shape (n,)."""
        return self.end - self.start
