"""Table ``terms``: what of a decode step TP divides, what it does not, and what it adds.

    T(TP) = scaling / TP + fixed + communication(TP)

Measuring rule 7. T is the decode time of latency cells, communication that of a capture (transfer
and all-gather per step); the two unknowns come from two TPs. Beside them is what the captures'
kernels show on their own: how much of compute became less.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from tpsweep.analysis.series import Source
from tpsweep.analysis.table import (
    IDENTITY_ORDER,
    IDENTITY_VIEWS,
    Record,
    Table,
    View,
    figure,
    identity,
    sort_records,
    text,
)
from tpsweep.analysis.unprofiled import DecodeTime, DecodeTimes, program_of
from tpsweep.core import schema
from tpsweep.core.axes import NO_ALLREDUCE
from tpsweep.core.schema import BOOL, FLOAT, INT, TEXT, Column

NEEDS = ("communication",)
_FREE = ("cell_id", "tp", "gpus", "allreduce_backend", "run")
_SERIES = tuple(name for name in schema.IDENTITY_NAMES if name not in _FREE)
COLUMNS = (
    *(column for column in schema.IDENTITY if column.name != "cell_id"),
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
    Column("synthetic", BOOL, "true: from invented files, never measured"),
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
    " unknowns: the split is exact by construction and says nothing about a third TP.",
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


def build(source: Source, captures: Table) -> Table:
    """One line per capture cell at TP above 1, whether it could be measured or not."""
    return Table(
        name="terms",
        title="What TP divides, and what it does not",
        columns=COLUMNS,
        views=VIEWS,
        records=_lines(captures.records, DecodeTimes(source)),
        legend=LEGEND,
        empty=EMPTY,
    )


def _lines(captures: list[Record], times: DecodeTimes) -> list[Record]:
    series: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for line in captures:
        series[tuple(line[name] for name in _SERIES)].append(line)
    found = [
        _line(line, [other for other in all_ if other["tp"] < line["tp"]], times)
        for all_ in series.values()
        for line in all_
        if line["tp"] > 1
    ]
    sort_records(found, (*IDENTITY_ORDER, "profiler_ran"))
    return found


def _line(line: Record, smaller: list[Record], times: DecodeTimes) -> Record:
    start, end = times.smaller(line), times.of(line)
    base = _baseline(line, smaller, start[0] if start else None)
    base_tp = start[0] if start else base["tp"] if base else None
    known = {column.name: line.get(column.name) for column in COLUMNS}
    here = known | {
        "baseline_tp": base_tp,
        "decode_baseline_ms": start[1].ms if start else None,
        "decode_ms": end.ms,
        "ideal_ms": start[1].ms * start[0] / line["tp"] if start and start[1].ms else None,
        "communication_ms": _communication(line),
        "synthetic": any(
            part
            for part in (
                line["synthetic"],
                base and base["synthetic"],
                start and start[1].synthetic,
                end.synthetic,
            )
        ),
        **_of_kernels(line, base),
    }
    missing = _missing(here, base, start)
    if start and end.ms is not None and start[1].settings != end.settings:
        here["ideal_ms"] = None
        missing = [f"latency cells of equal settings at TP={start[0]} and TP={line['tp']}"]
    if missing:
        return {**here, "source": None, "note": f"needs: {', '.join(missing)}"}
    return here | _solved(here, base) | {"note": _note(here, line, base, start, end)}


def _baseline(line: Record, smaller: list[Record], tp: int | None) -> Record | None:
    """The capture of the baseline's TP (None: of the smallest); by the same profiler, of the
    same run and analysed if there is such a one."""
    fitting = [
        other
        for other in smaller
        if tp in (None, other["tp"])
        and other["allreduce_backend"] in (NO_ALLREDUCE, line["allreduce_backend"])
    ]
    return min(
        fitting,
        key=lambda other: (
            other["tp"],
            other["compute_ms"] is None,
            program_of(other) != program_of(line),
            other["run"] != line["run"],
        ),
        default=None,
    )


def _missing(here: Record, base: Record | None, start: tuple[int, DecodeTime] | None) -> list[str]:
    """What the terms need and do not have."""
    base_tp, tp = here["baseline_tp"], here["tp"]
    at_base = f"at TP={base_tp}" if base_tp else "at a smaller TP"
    found = [] if start else [f"a latency cell like it {at_base}"]
    if here["decode_ms"] is None:
        found.append(f"a latency cell like it at TP={tp}")
    if here["communication_ms"] is None:
        found.append(f"an analysed capture at TP={tp}")
    if base_tp and _base_communication(base_tp, base) is None:
        found.append(f"an analysed capture at TP={base_tp}")
    return found


def _solved(here: Record, base: Record | None) -> Record:
    start, end, base_tp, tp = (
        here[name] for name in ("decode_baseline_ms", "decode_ms", "baseline_tp", "tp")
    )
    base_added = _base_communication(base_tp, base) or 0.0
    terms = solve(base_tp, start - base_added, tp, end - here["communication_ms"])
    return {
        "scaling_ms": terms.scaling / tp,
        "fixed_ms": terms.fixed,
        "source": f"decode: latency cells; communication: {here['profiler_ran']} capture; scaling "
        f"and fixed: solved from TP={base_tp} and TP={tp}",
    }


def _note(
    here: Record,
    line: Record,
    base: Record | None,
    start: tuple[int, DecodeTime] | None,
    end: DecodeTime,
) -> str | None:
    """What to know before the terms are believed."""
    terms = here | _solved(here, base)
    notes = []
    negative = [name for name in ("scaling", "fixed") if terms[f"{name}_ms"] < 0]
    if negative:
        notes.append(f"{' and '.join(negative)} below zero: the model does not hold")
    if line["transfer_lower_us"] is not None:
        notes.append("communication is at least that, so that fixed is at most that")
    if start and start[1].output_len != end.output_len:
        notes.append(f"decode times of {start[1].output_len} and {end.output_len} output tokens")
    if here["compute_fixed_ms"] is None:
        notes.append(f"its kernels need: an analysed capture at TP={here['baseline_tp']}")
    elif base and program_of(base) != program_of(line):
        notes.append(f"its kernels at TP={base['tp']} are of a capture by {base['profiler_ran']}")
    return "; ".join(notes) or None


def _base_communication(tp: int, base: Record | None) -> float | None:
    """As ``_communication``; no capture is needed where there is nothing to capture."""
    if tp == 1:
        return 0.0
    return _communication(base) if base else None


def _communication(line: Record) -> float | None:
    """Transfer and all-gather per step in ms; 0 at TP=1, which has neither."""
    if line["tp"] == 1:
        return 0.0
    if line["transfer_ms"] is None or line["all_gather_ms"] is None:
        return None
    return float(line["transfer_ms"] + line["all_gather_ms"])


def _of_kernels(line: Record, base: Record | None) -> Record:
    """The captures' own split; the figures are None without two analysed captures."""
    if base is None or line["compute_ms"] is None or base["compute_ms"] is None:
        return dict.fromkeys(("compute_baseline_ms", "compute_scaling_ms", "compute_fixed_ms"))
    terms = solve(base["tp"], base["compute_ms"], line["tp"], line["compute_ms"])
    return {
        "compute_baseline_ms": base["compute_ms"],
        "compute_scaling_ms": terms.scaling / line["tp"],
        "compute_fixed_ms": terms.fixed,
    }
