"""One decode step of a capture as bars per rank: which of the five terms runs when.

The step shown is the one whose length is nearest to the median of all decode steps. Within a
collective the wait is drawn before the transfer: the data move when the last rank has come.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tpsweep.core.errors import CaptureError
from tpsweep.traces import kernels, timeline_svg
from tpsweep.traces.attribution import Covered, Matched
from tpsweep.traces.collectives import is_of
from tpsweep.traces.cut_capture import CutCapture, read_capture
from tpsweep.traces.events import (
    Bools,
    Floats,
    Ints,
)
from tpsweep.traces.sidecar import Sidecar, Sizes
from tpsweep.traces.timeline_bars import Lane, Picture

_ZOOM_REDUCES = 4
"""All-reduces in the enlarged part: two layers have four (after attention, after the MLP)."""


def draw(paths: Sequence[Path], model: Sizes | None = None) -> str:
    """SVG of one decode step of a capture, whole and enlarged; ``model`` as in ``analyse``.

    Raises ``CaptureError``, one line, for a capture that cannot be analysed or has no decode step,
    and ``ImportError`` without matplotlib.
    """
    return timeline_svg.draw(picture_of(read_capture(paths, model)))


def picture_of(capture: CutCapture) -> Picture:
    """What to draw. Raises ``CaptureError`` if there is no decode step or no term."""
    source = capture.ranks[0].source
    matched, terms = capture.matched, capture.terms
    if matched is None or terms is None:
        raise CaptureError(f"{source}: no picture of a step: the self-check failed")
    chosen = np.flatnonzero([phase == "decode" for phase in capture.steps.phase])
    if not len(chosen):
        found = ", ".join(sorted(set(capture.steps.phase)))
        raise CaptureError(
            f"{source}: no picture: no decode step in the capture (its steps: {found}); capture "
            "requests of more than one output token, with NVTX or a sidecar"
        )
    length = terms.step.mean(axis=0)[chosen]
    place = int(np.argmin(np.abs(length - np.median(length))))
    step = int(chosen[place])
    shared = matched.shared_clock or len(capture.ranks) == 1
    begins = capture.steps.start[:, step]
    zeros = np.full_like(begins, begins.min()) if shared else begins
    lanes = [_lane(capture, matched, rank, step, int(zeros[rank])) for rank in range(len(begins))]
    zoom, zoom_words = _zoom(capture, matched, step, zeros)
    whose = "process" if capture.ranks[0].operators else "GPU"
    return Picture(
        title=_title(capture.known, len(lanes)),
        about=(
            f"Decode step {place + 1} of {len(chosen)}, the one nearest to the median length: "
            f"{length[place] / 1e3:,.0f} \N{MICRO SIGN}s under the profiler, which stretches it. "
            f"One lane per {whose} (rank). Figures on the bars: \N{MICRO SIGN}s."
        ),
        clocks=None
        if shared
        else "The ranks' clocks differ: each lane begins at its own step's begin.",
        lanes=lanes,
        zoom=zoom,
        zoom_words=zoom_words,
        lower_bound=any(kernels.table().rows[row].lower_bound for row in np.unique(matched.row)),
    )


def _lane(capture: CutCapture, matched: Matched, rank: int, step: int, zero: int) -> Lane:
    events, one, terms = capture.ranks[rank], capture.found[rank], capture.terms
    assert terms is not None
    begin, end = int(capture.steps.start[rank, step]), int(capture.steps.end[rank, step])
    inside = (events.end > begin) & (events.start < end)
    others = inside & ~one.member
    compute = Covered(np.maximum(events.start[others], begin), np.minimum(events.end[others], end))
    mine = capture.steps.of(one.first, rank) == step
    columns = matched.step == step
    gathers = is_of(matched.kind, "all_gather")
    wait, transfer, gather = _collective_bars(
        one.first[mine],
        matched.transfer[columns],
        gathers[columns],
        events.start[inside & one.member],
        events.end[inside & one.member],
    )
    bars = {
        "compute": np.stack([compute.begin, compute.end], axis=1),
        "wait": wait,
        "transfer": transfer,
        "all_gather": gather,
    }
    names = ("compute", "transfer", "wait", "all_gather", "gap")
    return Lane(
        rank=events.rank,
        begin=(begin - zero) / 1e3,
        end=(end - zero) / 1e3,
        bars={kind: _us(spans, zero) for kind, spans in bars.items()},
        terms={name: float(getattr(terms, name)[rank, step]) / 1e3 for name in names},
    )


def _collective_bars(
    first: Ints, transfer: Ints, gathers: Bools, start: Ints, end: Ints
) -> tuple[Ints, Ints, Ints]:
    """Spans of wait, all-reduce transfer and all-gather transfer, each (n, 2), in ns.

    ``first``, ``transfer``, ``gathers``: of each collective, in order of ``first``; ``start`` and
    ``end``: of the kernels of all of them. Of a collective's kernels the last ns are transfer.
    """
    wait: list[tuple[int, int]] = []
    moved: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
    left = transfer.tolist()
    owner = np.searchsorted(first, start, side="right") - 1
    for kernel in np.argsort(start, kind="stable")[::-1].tolist():
        which, begin, stop = int(owner[kernel]), int(start[kernel]), int(end[kernel])
        moving = min(left[which], stop - begin)
        left[which] -= moving
        if moving:
            moved[bool(gathers[which])].append((stop - moving, stop))
        if moving < stop - begin:
            wait.append((begin, stop - moving))
    return _spans(wait), _spans(moved[False]), _spans(moved[True])


def _spans(pairs: list[tuple[int, int]]) -> Ints:
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def _us(spans: Ints, zero: int) -> Floats:
    shifted: Floats = (spans - zero) / 1e3
    return shifted


def _zoom(
    capture: CutCapture, matched: Matched, step: int, zeros: Ints
) -> tuple[tuple[float, float], str]:
    """Window in us that is enlarged, and what it shows: the first layers' all-reduces, without
    the step's first one, which gathers the wait of everything before it."""
    columns = is_of(matched.kind, "all_reduce")
    transfer = matched.transfer[columns & (matched.step == step)] / 1e3
    count = len(transfer)
    if count < 2:
        length = float((capture.steps.end[:, step] - zeros).max()) / 1e3
        return (0.0, length / 20), "The first twentieth of the step, enlarged"
    ends = []
    for rank, one in enumerate(capture.found):
        mine = one.of("all_reduce") & (capture.steps.of(one.first, rank) == step)
        ends.append((one.last[mine] - zeros[rank]) / 1e3)
    last = np.max(ends, axis=0)
    shown = min(_ZOOM_REDUCES, count - 1)
    pad = 2 * float(np.median(transfer))
    window = max(float(last[0]) - pad, 0.0), float(last[shown]) + pad
    model = capture.known.model
    layers = model is not None and count == 2 * model.layers + 1 and shown == _ZOOM_REDUCES
    which = f"from all-reduce 1 to {shown + 1} of {count}"
    return window, f"Enlarged: {'the first two layers, ' if layers else ''}{which}"


def _title(known: Sidecar, ranks: int) -> str:
    name = known.model_name or (known.architecture or "a model").removesuffix("ForCausalLM")
    layers = f" of {known.model.layers} layers" if known.model else ""
    words = [f"{name}{layers}", f"TP={known.tp or ranks}"]
    if known.batch:
        words.append(f"batch {known.batch}")
    if known.gpu_card:
        words.append(known.gpu_card + (f" ({known.link})" if known.link else ""))
    words += [f"vLLM {known.vllm_version}"] if known.vllm_version else []
    made_up = "SYNTHETIC (made up, not measured): " if known.synthetic else ""
    return f"{made_up}One decode step: {', '.join(words)}"
