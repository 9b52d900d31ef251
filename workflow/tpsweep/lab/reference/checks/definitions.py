"""Figures that are not what their name says, or that do not follow from each other."""

from __future__ import annotations

from tpsweep.core.workloads import LATENCY
from tpsweep.lab.reference.checks.finding import Finding, by_metric, grouped, span, where
from tpsweep.lab.reference.figure import Figure
from tpsweep.lab.reference.reading import Reference

EQUAL = 0.005
"""Relative difference up to which two ways to the same figure agree, rounding included."""
APART = 0.02
"""Relative difference from which on they do not."""
LINES, VARIES = 3, 1.2
"""Fewest lines, and how much they must vary, for a constant ratio to be no accident."""


def prefill_in_token_time(reference: Reference) -> list[Finding]:
    """ "Time per token" that is the latency of the whole batch over the output tokens.

    Seen from the latency itself, or from the throughput, which is tokens over the whole latency:
    then throughput x time per token is the batch. With prefill apart, both products are larger
    than decode alone explains.
    """
    found = []
    for table, figures in _static_batches(reference).items():
        by_latency = [_from_latency(batch) for batch in figures]
        by_rate = [_from_throughput(batch) for batch in figures]
        for way, so, ratios in (
            ("batch_latency / output tokens", "the prefill is in it", by_latency),
            ("batch / throughput", "what is in the throughput is in it, prefill too", by_rate),
        ):
            known = [ratio for ratio in ratios if ratio is not None]
            if known and all(abs(ratio - 1) <= EQUAL for ratio in known):
                says = (
                    f"{table}: per_token_latency is {way} in {len(known)} of {len(known)} batches"
                    f" (ratio {span(known, '.3f')}): {so}; it is no decode time."
                )
                found.append(Finding("prefill-in-token-time", says, _all(figures)))
                break
    return found


def rate_identity(reference: Reference) -> list[Finding]:
    """A static batch whose latency, throughput, output length and batch do not fit each other.

    Throughput x latency is batch x output tokens. Throughput x time per token is the batch if
    prefill is in that time, less if it is not, and never more.
    """
    found = []
    for figures in _static_batches(reference).values():
        for batch in figures:
            found += [*_tokens_apart(batch), *_too_many_tokens(batch)]
    return found


def derived_ttft(reference: Reference) -> list[Finding]:
    """TTFT and ITL that stand in one ratio on every line, though each varies.

    TTFT is queueing and prefill, ITL a decode step: cards, TP and load move them by unlike factors.
    """
    served = [one for one in reference.figures if one.metric in ("ttft_p50", "itl_p50")]
    found = []
    for table, figures in grouped(served, lambda one: one.table).items():
        pairs = [by_metric(group) for group in grouped(figures, lambda one: one.setting).values()]
        pairs = [pair for pair in pairs if len(pair) == 2]
        if len(pairs) < LINES:
            continue
        ratios = [pair["ttft_p50"].value / pair["itl_p50"].value for pair in pairs]
        times = [pair["itl_p50"].value for pair in pairs]
        if max(ratios) / min(ratios) <= 1 + EQUAL and max(times) / min(times) >= VARIES:
            says = (
                f"{table}: ttft_p50 is {span(ratios, '.4g')} times itl_p50 on {len(pairs)} of"
                f" {len(pairs)} lines, while the times vary by a factor of"
                f" {max(times) / min(times):.1f}: hardly two measurements, rather one time twice"
                " (as the latency of a whole answer of so many tokens would be)."
            )
            found.append(Finding("derived-ttft", says, tuple(figures)))
    return found


Batch = dict[str, Figure]


def _static_batches(reference: Reference) -> dict[str, list[Batch]]:
    """By table: the figures of each static batch, by metric."""
    static = [one for one in reference.figures if one.workload == LATENCY and one.batch]
    return {
        table: [by_metric(group) for group in grouped(figures, lambda one: one.setting).values()]
        for table, figures in grouped(static, lambda one: one.table).items()
    }


def _from_latency(batch: Batch) -> float | None:
    """(latency / output tokens) / time per token."""
    whole, token = batch.get("batch_latency"), batch.get("per_token_latency")
    if whole is None or token is None or whole.output_len is None:
        return None
    return whole.value / whole.output_len / token.value


def _from_throughput(batch: Batch) -> float | None:
    """(batch / throughput) / time per token."""
    rate, token = batch.get("throughput"), batch.get("per_token_latency")
    if rate is None or token is None or rate.batch is None:
        return None
    return 1e3 * rate.batch / rate.value / token.value


def _tokens_apart(batch: Batch) -> list[Finding]:
    rate, whole = batch.get("throughput"), batch.get("batch_latency")
    if rate is None or whole is None or whole.output_len is None or whole.batch is None:
        return []
    made, asked = rate.value * whole.value / 1e3, whole.batch * whole.output_len
    if abs(made / asked - 1) <= APART:
        return []
    says = (
        f"{_of(whole)}: throughput x batch_latency is {made:.0f} tokens, batch x output length"
        f" {asked}."
    )
    return [Finding("rate-identity", says, (rate, whole))]


def _too_many_tokens(batch: Batch) -> list[Finding]:
    ratio = _from_throughput(batch)
    if ratio is None or ratio >= 1 - APART:
        return []
    rate, token = batch["throughput"], batch["per_token_latency"]
    says = (
        f"{_of(rate)}: throughput x per_token_latency is {rate.value * token.value / 1e3:.3g}"
        f" sequences, more than the batch of {rate.batch}."
    )
    return [Finding("rate-identity", says, (rate, token))]


def _of(figure: Figure) -> str:
    return f"{where(figure)}, TP={figure.tp}, batch {figure.batch} [{figure.table}]"


def _all(batches: list[Batch]) -> tuple[Figure, ...]:
    return tuple(figure for batch in batches for figure in batch.values())
