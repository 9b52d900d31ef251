"""The figures of one phase (decode, prefill, mixed): medians over its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tpsweep.traces.attribution import Matched, Terms
from tpsweep.traces.bandwidth import Bandwidth, bandwidth
from tpsweep.traces.collectives import Collectives, is_of
from tpsweep.traces.events import Bools, Floats, Ints
from tpsweep.traces.kernels import table
from tpsweep.traces.sidecar import Sidecar
from tpsweep.traces.steps import Steps

TOLERANCE = 0.01
"""Largest share of a step by which the sum of its terms may miss it."""

DISAGREE = 0.1
"""From here on the two ways to take the transfer (shortest rank, common clock) disagree."""

Percentiles = dict[str, float]
PerRank = dict[str, float]


@dataclass(frozen=True)
class Phase:
    """Medians over the phase's steps; all times None where the self-check failed.

    Terms are per rank (key: rank) where they differ between ranks. ``step_ms`` is over steps, of
    the mean over ranks; ``transfer_us`` over all-reduces, None where the kernels push: then
    ``transfer_lower_us``, a lower bound, has it. ``sum_ms_per_step`` is the median of the
    per-step sums (the medians of terms need not add up), ``sum_error`` the worst step's miss.
    ``experts_us`` is over dispatches and combines; it and the next two are None without any.
    ``transfer_clock_us`` is the median of max(end) - max(start), None without a common clock.
    """

    steps: int
    all_reduce_per_step: float
    all_gather_per_step: float
    step_ms: Percentiles | None = None
    transfer_us: Percentiles | None = None
    transfer_lower_us: Percentiles | None = None
    transfer_clock_us: float | None = None
    transfer_ms_per_step: float | None = None
    transfer_fraction_profiled: float | None = None
    transfer_fraction: float | None = None
    wait_ms_per_step: PerRank | None = None
    compute_ms_per_step: PerRank | None = None
    gap_ms_per_step: PerRank | None = None
    all_gather_ms_per_step: float | None = None
    experts_us: Percentiles | None = None
    experts_ms_per_step: float | None = None
    pipeline_ms_per_step: float | None = None
    sum_ms_per_step: PerRank | None = None
    sum_error: float | None = None
    algbw_gb_s: float | None = None
    busbw_gb_s: float | None = None
    link_share: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def sum_ok(self) -> bool:
        """The terms add up to every step, to within ``TOLERANCE``."""
        return self.sum_error is None or self.sum_error <= TOLERANCE


def summarise(
    phase: str,
    names: Sequence[str],
    found: Sequence[Collectives],
    steps: Steps,
    terms: Terms | None,
    matched: Matched | None,
    known: Sidecar,
    decode_ms: float | None,
) -> Phase:
    """Figures of the steps of one phase. ``names`` are the ranks' keys."""
    chosen = np.array([one == phase for one in steps.phase])
    counted = Phase(
        steps=int(chosen.sum()),
        all_reduce_per_step=_count(found, steps, "all_reduce", chosen),
        all_gather_per_step=_count(found, steps, "all_gather", chosen),
    )
    if terms is None or matched is None:
        return counted
    inside = chosen[matched.step]
    reduces = inside & is_of(matched.kind, "all_reduce")
    experts = inside & is_of(matched.kind, "dispatch", "combine", "all_to_all")
    staged = bool((inside & is_of(matched.kind, "send_recv")).any())
    lower = any(table().rows[row].lower_bound for row in np.unique(matched.row[reduces]))
    transfer_us = _percentiles(matched.transfer[reduces] / 1e3)
    clock_us, notes = _by_clock(matched, reduces)
    transfer_ns = terms.transfer[0][chosen]
    speed = _bandwidth(matched, reduces, steps, known, len(names))
    per_step_ms = float(np.median(transfer_ns)) / 1e6
    hidden = float(np.median(terms.overlap[:, chosen] / terms.step[:, chosen]))
    if hidden > TOLERANCE:
        notes.append(f"{hidden:.1%} of the step is compute under a collective, counted as such")
    return Phase(
        steps=counted.steps,
        all_reduce_per_step=counted.all_reduce_per_step,
        all_gather_per_step=counted.all_gather_per_step,
        step_ms=_percentiles(terms.step[:, chosen].mean(axis=0) / 1e6),
        transfer_us=None if lower else transfer_us,
        transfer_lower_us=transfer_us if lower else None,
        transfer_clock_us=clock_us,
        transfer_ms_per_step=per_step_ms,
        transfer_fraction_profiled=float(
            np.median(transfer_ns / terms.step[:, chosen].mean(axis=0))
        ),
        transfer_fraction=per_step_ms / decode_ms if decode_ms and phase == "decode" else None,
        wait_ms_per_step=_per_rank(names, terms.wait, chosen),
        compute_ms_per_step=_per_rank(names, terms.compute, chosen),
        gap_ms_per_step=_per_rank(names, terms.gap, chosen),
        all_gather_ms_per_step=float(np.median(terms.all_gather[0][chosen])) / 1e6,
        experts_us=_percentiles(matched.transfer[experts] / 1e3),
        experts_ms_per_step=float(np.median(terms.experts[0][chosen])) / 1e6
        if experts.any()
        else None,
        pipeline_ms_per_step=float(np.median(terms.pipeline[0][chosen])) / 1e6 if staged else None,
        sum_ms_per_step=_per_rank(names, terms.total, chosen),
        sum_error=float(terms.error[:, chosen].max()),
        algbw_gb_s=speed.algbw_gb_s if speed else None,
        busbw_gb_s=speed.busbw_gb_s if speed else None,
        link_share=speed.link_share if speed else None,
        notes=notes,
    )


def _count(found: Sequence[Collectives], steps: Steps, kind: str, chosen: Bools) -> float:
    """Mean over ranks and steps: a whole number where the self-check holds."""
    inside = 0
    padded = np.append(chosen, False)
    for rank, one in enumerate(found):
        inside += int(padded[steps.of(one.first[one.of(kind)], rank)].sum())
    mean = inside / (len(found) * int(chosen.sum()))
    return int(mean) if mean.is_integer() else mean


def _by_clock(matched: Matched, reduces: Bools) -> tuple[float | None, list[str]]:
    comparable = reduces & (matched.by_clock >= 0)
    if not comparable.any():
        return None, []
    clock = float(np.median(matched.by_clock[comparable])) / 1e3
    shortest = float(np.median(matched.transfer[comparable])) / 1e3
    if abs(clock - shortest) <= DISAGREE * shortest:
        return clock, []
    words = f"transfer by shortest rank {shortest:.2f} us, by common clock {clock:.2f} us"
    return clock, [f"{words}: more than {DISAGREE:.0%} apart"]


def _bandwidth(
    matched: Matched, reduces: Bools, steps: Steps, known: Sidecar, ranks: int
) -> Bandwidth | None:
    """None where bytes are not known or no all-reduce is a plain one of a single kind."""
    rows: Ints = np.unique(matched.row[reduces])
    width = known.dtype_bytes
    if len(rows) != 1 or known.model is None or width is None or ranks < 2:
        return None
    kernel = table().rows[int(rows[0])]
    per_token = known.model.hidden * width
    tokens = [steps.tokens[step] for step in matched.step[reduces].tolist()]
    if kernel.fused or kernel.lower_bound or None in tokens:
        return None
    size: Floats = np.array(tokens, dtype=np.float64) * per_token
    transfer = matched.transfer[reduces].astype(np.float64)
    return bandwidth(size, transfer, ranks, kernel.algorithm, known.link_gb_s)


def _percentiles(values: Floats) -> Percentiles | None:
    if not len(values):
        return None
    points = np.percentile(values, (10, 50, 90, 99)).tolist()
    return dict(zip(("p10", "p50", "p90", "p99"), points, strict=True))


def _per_rank(names: Sequence[str], values: Floats, chosen: Bools) -> PerRank:
    medians = np.median(values[:, chosen], axis=1) / 1e6
    return dict(zip(names, medians.tolist(), strict=True))
