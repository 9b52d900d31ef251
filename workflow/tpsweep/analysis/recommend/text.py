"""The answer of ``tpsweep recommend`` in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from tpsweep.analysis.recommend.offers import Answer, Offer
from tpsweep.analysis.recommend.question import Question
from tpsweep.analysis.recommend.unmeasured import Wanted, has_rates, has_search
from tpsweep.analysis.table import digits
from tpsweep.core.method import FIRST
from tpsweep.core.slo import Slo
from tpsweep.core.workloads import CAPACITY, SERVE
from tpsweep.perfmodel.constants import document

NOTHING = "Nothing fits."
SHOWN = 8
"""Offers in the table; ``--json`` has all."""
UNKNOWN = "n/a"
HARDLY_ANY = 0.005
"""Headroom that is shown as none."""
UNEVEN = "Servers were measured one at a time: an uneven load balancer is not in this."
_WANTED = {
    "cost": "at the lowest cost",
    "gpus": "on the fewest GPUs",
    "latency": "at the lowest latency",
    "energy": "with the least energy",
}
_SHOWN_MS = ("ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "tpot_p99_ms")


@dataclass(frozen=True)
class Trust:
    """What the answer rests on: rows read, engine starts, and what warns of them."""

    rows: int
    starts: int
    warnings: tuple[str, ...]
    errors: str

    @classmethod
    def of(
        cls, used: Sequence[Mapping[str, Any]], errors: Sequence[float], best: Offer | None
    ) -> Trust:
        """Of the rows that were used, and the errors of the expectation for them."""
        starts = {row.get("engine_id") or row["cell_id"] for row in used}
        warnings = [*warnings_of(used)]
        if best is not None and best.engines > 1 and best.capacity.is_measured:
            warnings.append(UNEVEN)
        return cls(len(used), len(starts), tuple(warnings), errors_of(errors) or published_errors())


def warnings_of(used: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What must be known of the rows."""
    if any(row.get("synthetic") for row in used):
        yield "SYNTHETIC: made-up rows, never measured."
    if any(row["gpu_card"] == "CPU" for row in used):
        yield "CPU timings only demonstrate the pipeline."
    if any(row["weights"] == "dummy" for row in used):
        yield "Dummy weights: prefill, and so TTFT, and joules depend on the data."
    for kind in (SERVE, CAPACITY):
        of_kind = (row for row in used if row.get("workload") == kind)
        methods = sorted({row.get("method") or FIRST for row in of_kind})
        if len(methods) > 1:
            shown = " and ".join(map(str, methods))
            yield f"Rows of `{kind}` were measured by methods {shown}: values may differ."


def published_errors() -> str:
    """How good the expectation was for the published rows; held by a test."""
    seen = document()["serving_seen"]
    return (
        f"Expectation against {seen['rows']} published serving rows of 8B on H200: TPOT within"
        f" {seen['tpot_within_pct']} % up to 0.9 of capacity, capacity under an SLO within"
        f" {seen['capacity_within_pct']} %. Other models and cards are extrapolations."
    )


def lines(answer: Answer, trust: Trust, cells: list[Wanted]) -> Iterator[str]:
    """The whole answer, but for commands and config."""
    yield _asked(answer.question)
    yield ""
    best = answer.best
    if best is None:
        yield NOTHING
    else:
        yield from _best(best, answer)
        yield ""
        yield _table(answer)
    if answer.refused:
        yield ""
        yield "No answer:"
        yield from (f"  {one.label}: {one.reason}" for one in answer.refused)
    if cells:
        yield ""
        yield "Not measured, and would change the answer:"
        for one in cells:
            yield f"  {one.label}{_measured_at(one, answer.question)}: {one.why}"
    yield ""
    yield from _trust(trust)


def _measured_at(one: Wanted, question: Question) -> str:
    parts = [" by a search"] if has_search(question) else []
    if has_rates(question):
        parts.append(f" at {', '.join(digits(rate) for rate in one.rates)} requests/s")
    return " and".join(parts)


def _asked(question: Question) -> str:
    traffic = question.traffic
    rate = "any rate" if question.rate is None else f"{question.rate:g} requests/s"
    slo = "no SLO (the queue must not grow)"
    if question.slo is not None:
        name, words = question.slo.name, question.slo.words
        slo = words if "=" in name else f"{name}: {words}"
    asked = f"{question.model}, {traffic.input_len} tokens in and {traffic.output_len} out"
    return f"{asked}, {rate}; {slo}; {_WANTED[question.objective]}."


def _best(best: Offer, answer: Answer) -> Iterator[str]:
    yield f"Use {sentence(best)}"
    yield f"  {_capacity(best)}"
    yield f"  {_latency(best)}"
    if costs := _costs(best):
        yield f"  {costs}"
    for remark in best.capacity.remarks:
        yield f"  Note: {remark}."
    if best.has_long_steps:
        yield (
            "  Note: many steps would be too long for CUDA graphs at this load, where measured TPOT"
            " was up to 1.5 times the expectation."
        )
    slo = answer.question.slo
    rests = hope(answer) if best.capacity.is_measured else best
    if slo is not None and rests is not None and _is_of_ttft(slo):
        if rests.may_fail(slo):
            yield f"  Note: {_count(rests.gpus, 'GPU')} may not be enough: TTFT p99 may not hold."
        yield f"  Note: {ttft_errors()}"


def hope(answer: Answer) -> Offer | None:
    """What takes fewest GPUs by expectation, and fewer than a measured answer."""
    best = answer.best
    rivals = [one for one in answer.offers if not one.capacity.is_measured]
    fewest = min(rivals, key=lambda one: one.gpus, default=None)
    if best is None or fewest is None or not best.capacity.is_measured:
        return None
    return fewest if fewest.gpus < best.gpus else None


def _is_of_ttft(slo: Slo) -> bool:
    return any(name.startswith(("ttft", "e2e")) for name, _ in slo.limits)


def ttft_errors() -> str:
    """How good the expectation of TTFT was for the published rows; held by a test."""
    seen = document()["serving_seen"]
    half, most = (1 / seen[f"ttft_p99_{name}"] for name in ("half", "most"))
    return (
        f"Measured TTFT p99 was up to {half:.2g} times the expectation at half of capacity, and"
        f" {most:.2g} times near it: measure before you promise it."
    )


def sentence(best: Offer) -> str:
    """``TP=1 on H200: 2 servers, 2 GPUs, 1 node (measured, 1 engine start).``"""
    parts = [_count(best.engines, "server"), _count(best.gpus, "GPU")]
    if best.nodes is not None:
        parts.append(_count(best.nodes, "node"))
    starts = _count(best.capacity.starts, "engine start")
    basis = f"measured, {starts}" if best.capacity.is_measured else "expected, not measured"
    return f"{best.label}: {', '.join(parts)} ({basis})."


def _capacity(best: Offer) -> str:
    capacity = best.capacity
    most = "at least " if capacity.is_least else ""
    left = f"headroom {most}{best.headroom:.0%}"
    if best.headroom < HARDLY_ANY:
        left = "no headroom known" if most else "no headroom"
    fails = f", fails at {digits(capacity.fails_at)}" if capacity.fails_at is not None else ""
    each = "A server holds" if best.engines > 1 else "It holds"
    holds = f"{each} {most}{digits(capacity.request_s)} requests/s{fails}"
    return f"{holds}; {left}."


def _latency(best: Offer) -> str:
    load = best.rate / best.engines
    where = f"expected at {digits(load)} requests/s a server"
    if best.latency_at is not None:
        where = f"measured at {digits(best.latency_at)} requests/s a server"
    known = [name for name in _SHOWN_MS if name in best.percentiles]
    said = (f"{_name(name)} {digits(best.percentiles[name])} ms" for name in known)
    return f"{', '.join(said)} ({where})." if known else "Its latency at that load is not known."


def _costs(best: Offer) -> str:
    said = []
    if best.usd is not None:
        said.append(f"{digits(best.usd)} USD")
    if best.joules is not None:
        said.append(f"{digits(best.joules / 1e3)} kJ")
    return f"{' and '.join(said)} per million output tokens." if said else ""


def _table(answer: Answer) -> str:
    shown = [_line(offer) for offer in answer.offers[:SHOWN]]
    if not any(line["USD/Mtok"] != UNKNOWN for line in shown):
        for line in shown:
            del line["USD/Mtok"]
    text = tabulate(shown, headers="keys", tablefmt="simple", disable_numparse=True)
    more = len(answer.offers) - SHOWN
    return f"{text}\n{more} more: --json" if more > 0 else text


def _line(offer: Offer) -> dict[str, str]:
    capacity = offer.capacity
    least = ">= " if capacity.is_least else ""

    def ms(name: str) -> str:
        value = offer.percentiles.get(name)
        return UNKNOWN if value is None else digits(value)

    return {
        "Layout": offer.label,
        "Known": "measured" if capacity.is_measured else "expected",
        "Servers": f"{offer.engines:,}",
        "GPUs": f"{offer.gpus:,}",
        "Capacity (requests/s a server)": f"{least}{digits(capacity.request_s)}",
        "Headroom": f"{least}{offer.headroom:.0%}",
        "TTFT p99 (ms)": ms("ttft_p99_ms"),
        "TPOT p99 (ms)": ms("tpot_p99_ms"),
        "USD/Mtok": UNKNOWN if offer.usd is None else digits(offer.usd),
        "kJ/Mtok": UNKNOWN if offer.joules is None else digits(offer.joules / 1e3),
    }


def _trust(trust: Trust) -> Iterator[str]:
    if trust.rows:
        yield f"Rests on {_count(trust.rows, 'row')} of {_count(trust.starts, 'engine start')}."
    else:
        yield "No row was measured: all of this is expected, from datasheets and a queueing model."
    yield trust.errors
    yield from trust.warnings


def errors_of(found: Iterable[float]) -> str:
    """How good the expectation of TPOT was for the rows at hand; "" without any."""
    known = list(found)
    if not known:
        return ""
    worst = max(known, key=lambda ratio: max(ratio, 1 / ratio))
    within = sum(abs(ratio - 1) <= 0.1 for ratio in known)
    return (
        f"Expectation against these rows, up to 0.9 of capacity: TPOT within 10 % in {within} of"
        f" {len(known)}; in the worst, measured TPOT was {1 / worst:.2f} times the expectation."
    )


def _name(column: str) -> str:
    metric, percentile, _ = column.split("_")
    return f"{metric.upper()} {percentile}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"
