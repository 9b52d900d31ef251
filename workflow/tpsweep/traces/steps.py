"""Time cut into engine steps, the same number on every rank, each with its phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tpsweep.core.errors import CaptureError
from tpsweep.traces.collectives import Collectives
from tpsweep.traces.events import (
    Annotation,
    Ints,
    RankEvents,
)
from tpsweep.traces.sidecar import Sidecar

PARTIAL, EARLY = "partial", "early"
PHASES = ("decode", EARLY, "prefill", "mixed", PARTIAL, "unknown")
"""Partial: prefill or decode of a part of the batch, whose sequences do not arrive all at once.
Early: decode steps that still recover from the prefill, as many as the sidecar says."""


@dataclass(frozen=True)
class Steps:
    """``start`` and ``end`` in ns, shape (ranks, steps); ``phase`` and ``tokens`` per step.

    ``cut`` says what ends a step: ``all_gather`` or ``annotation``.
    """

    start: Ints
    end: Ints
    phase: list[str]
    tokens: list[int | None]
    cut: str

    def of(self, times: Ints, rank: int) -> Ints:
        """Step in which each time of a rank falls; the number of steps for times outside."""
        step = np.searchsorted(self.end[rank], times, side="right")
        return np.where(times < self.start[rank, 0], self.end.shape[1], step)


def cut(ranks: Sequence[RankEvents], found: Sequence[Collectives], sidecar: Sidecar) -> Steps:
    """Cut at the ends of the logits all-gathers, one per step.

    The first step begins with the rank's first event. Without one all-gather per announced step
    (TP=1, a pipeline's first stages, batch-sharded sampling, sequence parallelism) a step goes
    from the first event that the host launched under its annotation to that of the next. Raises
    ``CaptureError`` if neither marks the steps equally on all ranks.
    """
    gathers = [np.sort(one.last[one.of("all_gather")]) for one in found]
    counts = {len(ends) for ends in gathers}
    announced = {len(rank.annotations) for rank in ranks}
    if len(counts) == 1 and counts != {0} and announced in (counts, {0}):
        end = np.stack(gathers)
        first = np.array([[rank.start[0]] for rank in ranks])
        start, how = np.concatenate([first, end[:, :-1]], axis=1), "all_gather"
    elif len(announced) == 1 and announced != {0}:
        start, how = np.stack([_first_launches(rank) for rank in ranks]), "annotation"
        last = np.array([[rank.end.max()] for rank in ranks])
        end = np.concatenate([start[:, 1:], last], axis=1)
    else:
        raise CaptureError(_why_not(ranks, gathers))
    phase, tokens = _phases(ranks, end.shape[1], sidecar)
    return Steps(start, end, _with_early(phase, sidecar.steady_from), tokens, how)


def _first_launches(rank: RankEvents) -> Ints:
    """GPU start of the first event launched after each annotation began, shape (steps,).

    Only of the busiest stream: a copy on another one may run ahead, beside the step before.
    """
    launched = rank.launched()
    _, place, count = np.unique(rank.stream, return_inverse=True, return_counts=True)
    main = np.flatnonzero(place == count.argmax())
    order = main[np.argsort(launched[main], kind="stable")]
    begins = np.array([annotation.start for annotation in rank.annotations])
    place = np.searchsorted(launched[order], begins)
    if (place >= len(order)).any():
        raise CaptureError(
            f"{rank.source}: rank {rank.rank}: the last annotated step launched no kernel that "
            "the capture holds; stop the profiler after the last request, trace the runtime API"
        )
    # Kernels of one graph share one launch: in the stable order the first on the GPU leads.
    return rank.start[order][place]


def _why_not(ranks: Sequence[RankEvents], gathers: Sequence[Ints]) -> str:
    per_rank = ", ".join(
        f"rank {rank.rank}: {len(ends)} and {len(rank.annotations)}"
        for rank, ends in zip(ranks, gathers, strict=True)
    )
    return (
        "no inference steps: nothing marks the steps equally on all ranks (all-gathers and "
        f"annotated steps: {per_rank}); capture whole steps on every rank, with NVTX (nsys "
        "--trace=cuda,nvtx and profiler_config profiler=cuda) or the torch profiler's annotations"
    )


def _phases(
    ranks: Sequence[RankEvents], count: int, sidecar: Sidecar
) -> tuple[list[str], list[int | None]]:
    """Phase and tokens of each step: by annotation, else by the sidecar's lengths."""
    annotations = ranks[0].annotations
    if len(annotations) == count:
        return _whole_batches(annotations, sidecar.batch), [one.tokens for one in annotations]
    lengths = (sidecar.batch, sidecar.input_len, sidecar.output_len)
    batch, inputs, outputs = lengths
    if batch is None or inputs is None or outputs is None or count % outputs:
        return ["unknown"] * count, [None] * count
    # A static batch: one prefill, then one decode step for each further token.
    first = [step % outputs == 0 for step in range(count)]
    return (
        ["prefill" if prefill else "decode" for prefill in first],
        [batch * inputs if prefill else batch for prefill in first],
    )


def _with_early(phases: Sequence[str], steady_from: int) -> list[str]:
    """The phases, the first ``steady_from`` decode steps after anything else being ``EARLY``."""
    found, decoded = [], 0
    for phase in phases:
        if phase != PARTIAL:  # the other part of a batch, in another stage of a pipeline
            decoded = decoded + 1 if phase == "decode" else 0
        found.append(EARLY if 0 < decoded <= steady_from else phase)
    return found


def _whole_batches(annotations: Sequence[Annotation], batch: int | None) -> list[str]:
    """Phases; steps with fewer sequences than the batch are ``PARTIAL``, for they cost less.

    The whole batch of a decode step is the most sequences that one has: an engine may hold fewer
    than were asked. A prefill has all of ``batch``, or as many as any if that is not known.
    """
    decoding = [one.generation_requests for one in annotations if one.phase == "decode"]
    filling = [one.context_requests for one in annotations if one.phase == "prefill"]
    whole = {
        "decode": max(decoding, default=0),
        "prefill": max(filling, default=0) if batch is None else batch,
    }
    return [
        PARTIAL
        if one.context_requests + one.generation_requests < whole.get(one.phase, 0)
        else one.phase
        for one in annotations
    ]
