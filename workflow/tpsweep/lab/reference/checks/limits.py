"""Figures that the hardware or the load does not allow."""

from __future__ import annotations

import math

from tpsweep.core.workloads import LATENCY, SERVE
from tpsweep.lab.reference.checks.finding import Finding, by_metric, grouped, where
from tpsweep.lab.reference.figure import Figure
from tpsweep.lab.reference.reading import Reference
from tpsweep.perfmodel.floors import decode_floor_ms

WAITING = 1.0
"""Requests that wait for their first token at a time; a server that keeps up has fewer."""
STEPS = 10
"""Decode steps; a TTFT of fewer is the step under way and the prefill itself."""


def unexplained_ttft(reference: Reference) -> list[Finding]:
    """A median TTFT that a server which keeps up with the load does not have.

    By Little's law request rate x TTFT requests wait for their first token at any time. More than
    one, each for many decode steps, is a queue: prefill cannot be kept up with, or what is called
    TTFT holds more than that. An ITL that shows nothing of it makes it worse.
    """
    found = []
    served = [one for one in reference.figures if one.workload == SERVE]
    for figures in grouped(served, lambda one: (one.table, *one.setting)).values():
        pair = by_metric(figures)
        ttft, itl = pair.get("ttft_p50"), pair.get("itl_p50")
        if ttft is None or itl is None or ttft.request_rate is None:
            continue
        if math.isinf(ttft.request_rate):  # sent all at once, requests do wait
            continue
        waiting, steps = ttft.request_rate * ttft.value / 1e3, ttft.value / itl.value
        if waiting > WAITING and steps > STEPS:
            says = (
                f"{where(ttft)}, TP={ttft.tp}: a median TTFT of {ttft.value:.4g} ms at"
                f" {ttft.request_rate:g} requests/s means {waiting:.1f} requests always waiting for"
                f" their first token, each for {steps:.0f} decode steps of {itl.value:g} ms:"
                " saturated, or not the time to the first token."
            )
            found.append(Finding("unexplained-ttft", says, (ttft, itl)))
    return found


def below_floor(reference: Reference) -> list[Finding]:
    """A time per token shorter than reading the weights once takes at the datasheet's bandwidth."""
    found = []
    for figure in reference.figures:
        per_token, shape = token_ms(figure), reference.shapes.get(figure.model)
        if per_token is None or shape is None:
            continue
        card = reference.cards[figure.gpu]
        floor = decode_floor_ms(shape, reference.dtype, figure.tp, card)
        if per_token < floor:
            says = (
                f"{where(figure)}, TP={figure.tp}: {figure.metric} means {per_token:.3g} ms per"
                f" decode step; reading the weights takes {floor:.3g} ms at the"
                f" {card.bandwidth_tb_s:g} TB/s of the {card.name}."
            )
            found.append(Finding("below-floor", says, (figure,)))
    return found


def token_ms(figure: Figure) -> float | None:
    """The longest that a decode step can have taken by this figure; None if it says nothing."""
    if figure.metric in ("per_token_latency", "itl_p50"):
        return figure.value
    steps = (figure.output_len or 1) - 1
    if figure.metric == "batch_latency":
        return figure.value / steps if steps else None
    if figure.metric == "throughput" and figure.workload == LATENCY and figure.batch:
        # Tokens over the whole latency; the first of each sequence is of the prefill.
        whole_by_tokens = 1e3 * figure.batch / figure.value
        return whole_by_tokens * (steps + 1) / steps if steps else None
    return None
