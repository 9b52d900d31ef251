"""The five expectations of the lab, each held against what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tpsweep.analysis.table import Record
from tpsweep.lab.answers.lines import Lines, rate_ratio, span

HOLDS, FAILS, PARTLY, UNKNOWN = "holds", "does not hold", "holds in part", "not measured"
DECODE_GAIN = (1.5, 1.8)
COMMUNICATION = (0.10, 0.30)
NVLINK = 0.05
SMALL_BATCH = 4
SIMILAR = 0.10
"""Rates of one TP within a tenth of the other's scale "similarly": the lab gives no number."""


@dataclass(frozen=True)
class Check:
    """An expectation, whether it holds, and the numbers that say so."""

    expectation: str
    verdict: str
    numbers: str


def check_expectations(lines: Lines) -> list[Check]:
    """All five, in the order of the lab."""
    return [
        _decode(lines.pairs),
        _prefill(lines.pairs),
        _throughput(lines),
        _communication(lines.analysed),
        _nvlink(lines.parallel, lines.analysed),
    ]


def _decode(pairs: Sequence[Record]) -> Check:
    low, high = DECODE_GAIN
    gains = [line["decode_speedup"] for line in pairs]
    return _check(
        f"TP=2 decodes {low} to {high} times as fast as TP=1",
        [low <= gain <= high for gain in gains],
        lambda: f"{span(gains)} times, over {len(gains)} batches and series",
        "latency cells at TP=1 and TP=2",
    )


def _prefill(pairs: Sequence[Record]) -> Check:
    known = [line for line in pairs if line["prefill_speedup"] is not None]
    return _check(
        "TP=2 prefills faster than TP=1, but gains less than decode does",
        [1 < line["prefill_speedup"] < line["decode_speedup"] for line in known],
        lambda: (
            f"prefill {span(line['prefill_speedup'] for line in known)} times,"
            f" decode {span(line['decode_speedup'] for line in known)} times"
        ),
        "latency cells at TP=1 and TP=2",
    )


def _throughput(lines: Lines) -> Check:
    ratios = [(line["batch"], rate_ratio(line)) for line in lines.pairs]
    small = [r for batch, r in ratios if r is not None and batch <= SMALL_BATCH]
    large = [r for batch, r in ratios if r is not None and batch > SMALL_BATCH]
    outcomes = [r > 1 for r in small] + [abs(r - 1) <= SIMILAR for r in large]
    return _check(
        f"TP=2 gives more tokens per second at batches up to {SMALL_BATCH}, and at larger ones both"
        " scale similarly (within a tenth)",
        outcomes if small and large else [],
        lambda: f"TP=2 / TP=1: {span(small)} at small batches, {span(large)} at larger ones",
        f"latency cells at TP=1 and TP=2, at batches up to {SMALL_BATCH} and above",
    )


def _communication(captures: Sequence[Record]) -> Check:
    low, high = COMMUNICATION
    shares = [c["transfer_fraction"] for c in captures if c["transfer_fraction"] is not None]
    return _check(
        f"All-reduce takes {100 * low:.0f} to {100 * high:.0f} % of a decode step",
        [low <= share <= high for share in shares],
        lambda: f"{span((100 * share for share in shares), ' %')} of the decode time",
        "captures and latency cells at TP=2",
    )


def _nvlink(lines: Sequence[Record], captures: Sequence[Record]) -> Check:
    """By the counters of unprofiled decode: a capture is short and half of it is prefill."""
    known = [line for line in lines if line["nvlink_decode_share"] is not None]
    during = [c["link_share"] for c in captures if c["link_share"] is not None]

    def numbers() -> str:
        decode = span((100 * line["nvlink_decode_share"] for line in known), " %")
        whole = span((100 * line["nvlink_share"] for line in known), " %")
        inside = f"; {span((100 * x for x in during), ' %')} during a decode all-reduce"
        told = f"{decode} in the decode, {whole} with the prefill"
        return told + (inside if during else "")

    return _check(
        f"NVLink is used by less than {100 * NVLINK:.0f} % of its bandwidth",
        [line["nvlink_decode_share"] < NVLINK for line in known],
        numbers,
        "latency cells at TP=2 on GPUs that count their NVLink traffic, and a capture of the model",
    )


def _check(
    expectation: str, outcomes: Sequence[bool], numbers: Callable[[], str], needs: str
) -> Check:
    if not outcomes:
        return Check(expectation, UNKNOWN, f"needs: {needs}")
    verdict = HOLDS if all(outcomes) else PARTLY if any(outcomes) else FAILS
    return Check(expectation, verdict, numbers())
