"""Table ``terms``: what of a decode step TP divides, what it does not, and what it adds.

    T(TP) = scaling / TP + fixed + communication(TP)

Measuring rule 7. T is the decode time of latency cells, communication that of a capture (transfer
and all-gather per step); the two unknowns come from two TPs. Beside them stands what the captures'
kernels say for themselves: how much of compute became less.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tpsweep import row
from tpsweep.results import Results
from tpsweep.row import BOOL, FLOAT, INT, TEXT, Column
from tpsweep.tables import communication
from tpsweep.tables.series import NO_ALLREDUCE
from tpsweep.tables.table import (
    IDENTITY_VIEWS,
    Record,
    Table,
    View,
    figure,
    identity,
    sort_key,
    text,
)

_FREE = ("cell_id", "tp", "gpus", "allreduce_backend", "run")
_SERIES = tuple(name for name in row.IDENTITY_NAMES if name not in _FREE)
COLUMNS = (
    *(column for column in row.IDENTITY if column.name != "cell_id"),
    Column("profiler_ran", TEXT, "of the capture at this TP"),
    Column("baseline_tp", INT, "smallest TP of the series with a decode time"),
    Column("decode_baseline_ms", FLOAT, "T(baseline): latency cells"),
    Column("decode_ms", FLOAT, "T(TP): latency cells"),
    Column("scaling_ms", FLOAT, "scaling / TP: the part of decode_ms that TP divides"),
    Column("fixed_ms", FLOAT, "the part that TP does not divide"),
    Column("communication_ms", FLOAT, "transfer and all-gather per step: the capture at this TP"),
    Column("ideal_ms", FLOAT, "decode_baseline_ms x baseline_tp / TP"),
    Column("compute_baseline_ms", FLOAT, "kernels per profiled step: the capture at baseline_tp"),
    Column("compute_ms", FLOAT, "kernels per profiled step: the capture at this TP"),
    Column("compute_scaling_ms", FLOAT, "the part of compute_ms that TP divides, by the captures"),
    Column("compute_fixed_ms", FLOAT, "the part of it that TP does not divide, by the captures"),
    Column("source", TEXT, "where each term is from"),
    Column("note", TEXT, "what is missing, or why the terms should not be believed"),
    Column("synthetic", BOOL, "true: from made-up files, never measured"),
)
NA = "n/a"
VIEWS = (
    *IDENTITY_VIEWS,
    identity("Run", "run"),
    View("Profiler", text("profiler_ran"), once=True),
    View("Baseline TP", text("baseline_tp"), once=True),
    View("Decode at baseline (ms)", figure("decode_baseline_ms", NA)),
    View("Decode (ms)", figure("decode_ms", NA)),
    View("= scaling / TP (ms)", figure("scaling_ms", NA)),
    View("+ fixed (ms)", figure("fixed_ms", NA)),
    View("+ communication (ms)", figure("communication_ms", NA)),
    View("Ideal: baseline / TP (ms)", figure("ideal_ms", NA)),
    View("Kernels that scaled (ms)", figure("compute_scaling_ms", NA)),
    View("Kernels that did not (ms)", figure("compute_fixed_ms", NA)),
    View("Note", text("note"), once=True),
)
LEGEND = (
    "T(TP) = scaling / TP + fixed + communication, solved from the decode times of latency cells at"
    " two TPs and the communication (transfer and all-gather) of the capture. Two TPs give two"
    " unknowns: the split is exact by construction and says nothing of a third TP.",
    "Kernels: the same split of the captures' compute per step, independent of the decode times."
    " Fixed holds kernels that TP does not divide, launches, the host and the sampler.",
)
EMPTY = "No capture cells at TP above 1 in the matrix."


@dataclass(frozen=True)
class Terms:
    """The parts of a decode step, ms: ``scaling`` is the whole of what TP divides."""

    scaling: float
    fixed: float


def solve(base_tp: int, base_ms: float, tp: int, ms: float) -> Terms:
    """``S`` and ``F`` of ``T(TP) = S / TP + F`` through two points, communication taken off."""
    scaling = (base_ms - ms) / (1 / base_tp - 1 / tp)
    return Terms(scaling, base_ms - scaling / base_tp)


def build(results: Results) -> Table:
    """One line per capture at a TP above the smallest of its series."""
    return Table(
        name="terms",
        title="What TP divides, and what it does not",
        columns=COLUMNS,
        views=VIEWS,
        records=list(_lines(communication.lines(results))),
        legend=LEGEND,
        empty=EMPTY,
    )


def _lines(captures: list[Record]) -> Iterator[Record]:
    series: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for line in captures:
        series[tuple(line[name] for name in _SERIES)].append(line)
    order = tuple(name for name in row.IDENTITY_NAMES if name != "cell_id")
    found = [_line(line, _baseline(line, all_)) for all_ in series.values() for line in all_]
    split = [line for line in found if line["tp"] > 1]
    yield from sorted(split, key=lambda line: sort_key(line, (*order, "profiler_ran")))


def _baseline(line: Record, series: list[Record]) -> Record | None:
    """The capture of the smallest TP below this one; by the same profiler if there is one."""
    smaller = [
        other
        for other in series
        if other["tp"] < line["tp"]
        and other["allreduce_backend"] in (NO_ALLREDUCE, line["allreduce_backend"])
    ]
    if not smaller:
        return None
    return min(
        smaller,
        key=lambda other: (
            other["decode_ms"] is None,
            other["tp"],
            _program(other) != _program(line),
            other["run"] != line["run"],
        ),
    )


def _program(line: Record) -> str:
    return str(line["profiler_ran"]).split(" ")[0]


def _line(line: Record, base: Record | None) -> Record:
    known = {column.name: line.get(column.name) for column in COLUMNS}
    here = {**known, "communication_ms": _communication(line), "note": None, "source": None}
    if base is None:
        return {**here, "note": "needs: a capture at a smaller TP"}
    start, end = base["decode_ms"], line["decode_ms"]
    added, base_added = here["communication_ms"], _communication(base)
    here |= {
        "baseline_tp": base["tp"],
        "decode_baseline_ms": start,
        "compute_baseline_ms": base["compute_ms"],
        "synthetic": bool(line["synthetic"] or base["synthetic"]),
        **_of_kernels(line, base),
    }
    if start is not None:
        here["ideal_ms"] = start * base["tp"] / line["tp"]
    missing = [
        what
        for what, value in (
            (f"a latency cell like it at TP={base['tp']}", start),
            (f"a latency cell like it at TP={line['tp']}", end),
            (f"an analysed capture at TP={line['tp']}", added),
            (f"an analysed capture at TP={base['tp']}", base_added),
        )
        if value is None
    ]
    if missing:
        return {**here, "note": f"needs: {', '.join(missing)}"}
    terms = solve(base["tp"], start - base_added, line["tp"], end - added)
    negative = [name for name in ("scaling", "fixed") if getattr(terms, name) < 0]
    return {
        **here,
        "scaling_ms": terms.scaling / line["tp"],
        "fixed_ms": terms.fixed,
        "source": f"decode: latency cells; communication: {line['profiler_ran']} capture; scaling "
        f"and fixed: solved from TP={base['tp']} and TP={line['tp']}",
        "note": f"{' and '.join(negative)} below zero: the model does not hold"
        if negative
        else None,
    }


def _communication(line: Record) -> float | None:
    """Transfer and all-gather per step in ms; 0 at TP=1, which has neither."""
    if line["tp"] == 1:
        return 0.0
    if line["transfer_ms"] is None or line["all_gather_ms"] is None:
        return None
    return float(line["transfer_ms"] + line["all_gather_ms"])


def _of_kernels(line: Record, base: Record) -> Record:
    if line["compute_ms"] is None or base["compute_ms"] is None:
        return {}
    terms = solve(base["tp"], base["compute_ms"], line["tp"], line["compute_ms"])
    return {
        "compute_scaling_ms": terms.scaling / line["tp"],
        "compute_fixed_ms": terms.fixed,
    }
