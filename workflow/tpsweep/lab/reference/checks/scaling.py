"""What more TP brings, in one metric and in another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from tpsweep.core.workloads import THROUGHPUT
from tpsweep.lab.reference.checks.finding import Finding, grouped, span, where
from tpsweep.lab.reference.figure import Figure, Place
from tpsweep.lab.reference.reading import Reference

NOTHING = 1.05
"""Speed-up up to which more TP brought nothing."""
MUCH = 4 / 3
"""Speed-up from which on it brought much: a time is down by a quarter."""
TOKEN_TIMES = ("per_token_latency", "itl_p50", "batch_latency")
SERVED = ("itl_p50",)
RATES = ("throughput", "offline_throughput")


@dataclass(frozen=True)
class _Speedup:
    """Of the larger TP over the smaller one, in one metric of one table. Above 1: faster."""

    low: Figure
    high: Figure
    value: float


def token_time_scaling(reference: Reference) -> list[Finding]:
    """A time per token that more TP leaves as it is, beside one that it cuts by a quarter.

    Both are of the same model and machine. Decode is bound by memory in both, so that what TP
    brings to the one it brings to the other.
    """
    times = [one for one in reference.figures if one.metric in TOKEN_TIMES]
    found = []
    for speedups in _by_engine(times):
        flat = [one for one in speedups if one.value <= NOTHING]
        steep = [one for one in speedups if one.value >= MUCH]
        if flat and steep:
            says = f"{_what(flat)} of {_names(flat)}, {_what(steep)} of {_names(steep)}"
            found.append(_finding("token-time-scaling", flat, steep, f"{says}."))
    return found


def offline_scaling(reference: Reference) -> list[Finding]:
    """Offline throughput that more TP leaves as it is, where it cuts the ITL by a quarter.

    An offline run keeps the GPUs busy; what makes each step of a served load so much shorter
    makes its steps shorter, too. Was TP applied in both, and was it the GPUs that were the limit?
    """
    rates = [one for one in reference.figures if one.metric in RATES]
    offline = [one for one in rates if one.workload == THROUGHPUT]
    served = [one for one in reference.figures if one.metric in SERVED]
    found = []
    for speedups in _by_engine([*offline, *served]):
        flat = [one for one in speedups if one.value <= NOTHING and one.low.metric in RATES]
        steep = [one for one in speedups if one.value >= MUCH and one.low.metric in SERVED]
        if flat and steep:
            says = f"{_what(flat)} of {_names(flat)}, while the ITL drops by {_drops(steep)}"
            question = "was TP applied offline, and were the GPUs the limit there?"
            found.append(_finding("offline-scaling", flat, steep, f"{says}: {question}"))
    return found


def _by_engine(figures: list[Figure]) -> Iterator[list[_Speedup]]:
    """Speed-ups of one model on one machine and one pair of TPs, together.

    Of each metric in each table the smallest load alone: there every decode step is bound by
    memory, whatever larger batches are bound by.
    """
    groups: dict[Place, list[_Speedup]] = {}
    for line in grouped(figures, lambda one: (*one.engine, one.table, one.metric)).values():
        for low, high in combinations(_smallest_load(line), 2):
            ratio = low.value / high.value if low.unit == "ms" else high.value / low.value
            key = (*low.engine, low.tp, high.tp)
            groups.setdefault(key, []).append(_Speedup(low, high, ratio))
    yield from groups.values()


def _smallest_load(line: list[Figure]) -> list[Figure]:
    """By TP, one figure each: of the smallest batch and request rate that has several TPs."""
    loads = grouped(line, lambda one: (one.batch or 0, one.request_rate or 0.0))
    for _, figures in sorted(loads.items()):
        by_tp = {one.tp: one for one in reversed(figures)}
        if len(by_tp) > 1:
            return [by_tp[tp] for tp in sorted(by_tp)]
    return []


def _what(speedups: list[_Speedup]) -> str:
    return f"{span([one.value for one in speedups], '.2f')}x"


def _names(speedups: list[_Speedup]) -> str:
    names = dict.fromkeys(f"{one.low.metric} [{one.low.table}]" for one in speedups)
    return ", ".join(names)


def _drops(speedups: list[_Speedup]) -> str:
    return f"{span([100 * (1 - 1 / one.value) for one in speedups], '.0f')} %"


def _finding(check: str, flat: list[_Speedup], steep: list[_Speedup], says: str) -> Finding:
    low, high = flat[0].low, flat[0].high
    begin = f"{where(low)}: TP={low.tp} to {high.tp} is a speed-up of "
    figures = tuple(figure for one in (*flat, *steep) for figure in (one.low, one.high))
    return Finding(check, begin + says, figures)
