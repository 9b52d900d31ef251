"""Table ``terms``: what of a decode step TP divides, what it does not, and what it adds.

    T(TP) = scaling / TP + fixed + communication(TP)

Measuring rule 7. T is the decode time of latency cells, communication that of a capture (transfer
and all-gather per step); the two unknowns come from two TPs, and have an interval from the spread
between engine starts. Beside them is what the captures show on their own: how much of compute
became less, and the gaps. Where the two ways disagree, the line says so. With a third TP the terms
are also fitted and tested.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from tpsweep.analysis.series import Source
from tpsweep.analysis.table import (
    IDENTITY_ORDER,
    IDENTITY_VIEWS,
    Record,
    Table,
    View,
    digits,
    figure,
    identity,
    sort_records,
    text,
)
from tpsweep.analysis.three_terms import ASSUMED_SPREAD, Point, Terms, Timed, fit, solve, spread_of
from tpsweep.analysis.unprofiled import DecodeTime, DecodeTimes, program_of
from tpsweep.core import schema, stats
from tpsweep.core.axes import NO_ALLREDUCE
from tpsweep.core.manifest import LABELS
from tpsweep.core.schema import BOOL, FLOAT, INT, TEXT, Column

NEEDS = ("communication",)
_FREE = ("cell_id", "tp", "gpus", "allreduce_backend", "run")
_SERIES = tuple(name for name in schema.IDENTITY_NAMES if name not in _FREE)
COLUMNS = (
    *(column for column in schema.IDENTITY if column.name != "cell_id"),
    *LABELS,
    Column("profiler_ran", TEXT, "of the capture at this TP"),
    Column("baseline_tp", INT, "smallest TP of the series with a decode time"),
    Column("decode_baseline_ms", FLOAT, "T(baseline): latency cells"),
    Column("decode_ms", FLOAT, "T(TP): latency cells"),
    Column("scaling_ms", FLOAT, "scaling / TP: the part of decode_ms that TP divides"),
    Column("fixed_ms", FLOAT, "the part that TP does not divide"),
    Column("fixed_ms_lo", FLOAT, "lower end, if decode times may be off by spread"),
    Column("fixed_ms_hi", FLOAT, "upper end"),
    Column("spread", TEXT, "between engine starts, of the decode times: measured or assumed"),
    Column("communication_ms", FLOAT, "transfer and all-gather per step: the capture at this TP"),
    Column("ideal_ms", FLOAT, "decode_baseline_ms x baseline_tp / TP"),
    Column("compute_baseline_ms", FLOAT, "kernels per profiled step: the capture at baseline_tp"),
    Column("compute_ms", FLOAT, "kernels per profiled step: the capture at this TP"),
    Column("compute_scaling_ms", FLOAT, "the part of compute_ms that TP divides, by the captures"),
    Column("compute_fixed_ms", FLOAT, "the part of it that TP does not divide, by the captures"),
    Column("gap_ms", FLOAT, "time without a kernel per profiled step, min over ranks"),
    Column("capture_fixed_ms", FLOAT, "compute_fixed_ms + gap_ms: fixed as the captures show it"),
    Column("capture_fixed_ms_lo", FLOAT, "lower end, if kernels may be off as decode times"),
    Column("capture_fixed_ms_hi", FLOAT, "upper end"),
    Column("agrees", BOOL, "fixed_ms and capture_fixed_ms differ by no more than their intervals"),
    Column("fit_tps", TEXT, "TPs of a fit: three or more with decode time and communication"),
    Column("fit_fixed_ms", FLOAT, "fixed by least squares over fit_tps"),
    Column("fit_fixed_ms_lo", FLOAT, "lower end, by the spread"),
    Column("fit_fixed_ms_hi", FLOAT, "upper end"),
    Column("fit_residual_ms", FLOAT, "decode_ms - what the fit gives for this TP"),
    Column("fit_p", FLOAT, "chance of residuals as large if the three terms hold (chi-squared)"),
    Column("source", TEXT, "where each term is from"),
    Column("note", TEXT, "what is missing, or why the terms should not be believed"),
    Column("synthetic", BOOL, "true: from invented files, never measured"),
)
NA = "n/a"
AGREES = {True: "yes", False: "no", None: NA}
UNLIKELY = 0.05
"""Below this chance a fit says that three terms do not describe the decode times."""
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
    View("Gap (ms)", figure("gap_ms", NA)),
    View("Fixed by the captures (ms)", figure("capture_fixed_ms", NA)),
    View("The two agree", lambda record: AGREES[record["agrees"]]),
    View("Fit over TPs", text("fit_tps", NA), once=True),
    View("Fixed by the fit (ms)", figure("fit_fixed_ms", NA), once=True),
    View("Decode - fit (ms)", figure("fit_residual_ms", NA), once=True),
    View("p of the fit", figure("fit_p", NA), once=True),
    View("Note", text("note"), once=True),
)
LEGEND = (
    "T(TP) = scaling / TP + fixed + communication, solved from the decode times of latency cells at"
    " two TPs and the communication (transfer and all-gather) of the capture. Two TPs give two"
    " unknowns: the split is exact by construction and says nothing about a third TP. The interval"
    f" of fixed is what it moves by if each decode time may be off: by {100 * ASSUMED_SPREAD:.0f} %"
    f" (assumed) with under {stats.MIN_RUNS} engine starts, else by their 95 % interval.",
    "Kernels: the same split of the captures' compute per step, independent of the decode times."
    " Fixed by the captures: kernels that TP does not divide and the gaps between them. Where it"
    " and the solution disagree, believe neither as a cause. A card that clocks lower at one TP, or"
    " a capture of steps that are slower than the decode's (compare its step with the decode time),"
    " makes them disagree.",
    "Fit: three TPs and more, by least squares. A small p says that three terms do not describe"
    " them.",
)
EMPTY = "No capture cells at TP above 1 in the matrix."


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
        if line["group"]:  # of a stage of a pipeline, whose time is not that of a step
            continue
        series[tuple(line[name] for name in _SERIES)].append(line)
    found = [
        _line(line, all_, times) for all_ in series.values() for line in all_ if line["tp"] > 1
    ]
    sort_records(found, (*IDENTITY_ORDER, "profiler_ran"))
    return found


def _line(line: Record, all_: list[Record], times: DecodeTimes) -> Record:
    """One capture; ``all_`` are those of its series, itself and every TP included."""
    start, end = times.smaller(line), times.of(line)
    smaller = [other for other in all_ if other["tp"] < line["tp"]]
    base = _like_at(line, smaller, start[0] if start else None)
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
        **_fitted(line, all_, times),
    }
    missing = _missing(here, base, start)
    if start and end.ms is not None and start[1].settings != end.settings:
        here["ideal_ms"] = None
        missing = [f"latency cells of equal settings at TP={start[0]} and TP={line['tp']}"]
    if missing:
        return {**here, "source": None, "note": f"needs: {', '.join(missing)}"}
    here |= _solved(here, base, start[1] if start else None, end)
    here["agrees"] = _agrees(here, is_bound=line["transfer_lower_us"] is not None)
    return here | {"note": _note(here, line, base, start, end)}


def _like_at(line: Record, others: list[Record], tp: int | None) -> Record | None:
    """The capture like ``line`` at a TP (None: the smallest of ``others``); by the same profiler,
    of the same run and analysed if there is such a one."""
    fitting = [
        other
        for other in others
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


def _solved(here: Record, base: Record | None, start: DecodeTime | None, end: DecodeTime) -> Record:
    if start is None:
        raise AssertionError  # for the type checker: a line without has no terms
    base_tp, tp = here["baseline_tp"], here["tp"]
    first, last = _timed(start), _timed(end)
    terms = solve(
        Point(base_tp, first, _base_communication(base_tp, base) or 0.0),
        Point(tp, last, here["communication_ms"]),
    )
    return {
        "scaling_ms": terms.scaling / tp,
        "fixed_ms": terms.fixed,
        "fixed_ms_lo": terms.fixed - terms.fixed_off,
        "fixed_ms_hi": terms.fixed + terms.fixed_off,
        "spread": f"TP={base_tp}: {_spread(start, first)}; TP={tp}: {_spread(end, last)}",
        "source": f"decode: latency cells; communication: {here['profiler_ran']} capture; scaling "
        f"and fixed: solved from TP={base_tp} and TP={tp}",
    }


def _timed(time: DecodeTime) -> Timed:
    return Timed(time.ms or 0.0, spread_of(time.starts))


def _spread(time: DecodeTime, timed: Timed) -> str:
    starts = f"{len(time.starts)} start{'s' if len(time.starts) > 1 else ''}"
    how = "assumed, " if len(time.starts) < stats.MIN_RUNS else ""
    return f"{100 * timed.spread:.1f} % ({how}{starts})"


def _agrees(here: Record, *, is_bound: bool) -> bool | None:
    """Whether solution and captures differ by no more than both may be off.

    ``is_bound``: communication is at least what it says, so that fixed is at most that; captures
    that show less say nothing against it.
    """
    if here["capture_fixed_ms"] is None:
        return None
    off = [here[f"{name}_hi"] - here[name] for name in ("fixed_ms", "capture_fixed_ms")]
    more = here["capture_fixed_ms"] - here["fixed_ms"]
    if is_bound and more < 0:
        return None
    return bool(abs(more) <= math.hypot(*off))


def _fitted(line: Record, all_: list[Record], times: DecodeTimes) -> Record:
    """The terms by all TPs that have a decode time and communication; None for under three."""
    names = ("fit_tps", "fit_fixed_ms", "fit_fixed_ms_lo", "fit_fixed_ms_hi")
    nothing = dict.fromkeys((*names, "fit_residual_ms", "fit_p"))
    end, points = times.of(line), []
    for tp, time in times.sizes(line):
        capture = line if tp == line["tp"] else _like_at(line, all_, tp)
        communication = _base_communication(tp, capture)
        if communication is not None and time.settings == end.settings:
            points.append(Point(tp, _timed(time), communication))
    at = next((at for at, point in enumerate(points) if point.tp == line["tp"]), None)
    if len(points) < 3 or at is None:
        return nothing
    found = fit(points)
    terms = found.terms
    return {
        "fit_tps": ", ".join(str(point.tp) for point in points),
        "fit_fixed_ms": terms.fixed,
        "fit_fixed_ms_lo": terms.fixed - terms.fixed_off,
        "fit_fixed_ms_hi": terms.fixed + terms.fixed_off,
        "fit_residual_ms": found.residuals[at],
        "fit_p": found.p,
    }


def _note(
    here: Record,
    line: Record,
    base: Record | None,
    start: tuple[int, DecodeTime] | None,
    end: DecodeTime,
) -> str | None:
    """What to know before the terms are believed."""
    notes = []
    negative = [name for name in ("scaling", "fixed") if here[f"{name}_ms"] < 0]
    if negative:
        notes.append(f"{' and '.join(negative)} below zero: the model does not hold")
    if here["agrees"] is False:
        notes.append(
            f"the captures show {digits(here['capture_fixed_ms'])} ms that TP does not divide, the"
            f" decode times {digits(here['fixed_ms'])}: they disagree"
        )
    if here["fit_p"] is not None and here["fit_p"] < UNLIKELY:
        notes.append(f"three terms do not describe TP={here['fit_tps']}")
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
    """The captures' own split; the values are None without two analysed captures."""
    names = ("compute_baseline_ms", "compute_scaling_ms", "compute_fixed_ms")
    of_fixed = ("capture_fixed_ms", "capture_fixed_ms_lo", "capture_fixed_ms_hi")
    found = dict.fromkeys((*names, *of_fixed)) | {"gap_ms": line["gap_ms_least"]}
    if base is None or line["compute_ms"] is None or base["compute_ms"] is None:
        return found
    terms = _kernel_terms(line, base)
    found |= {
        "compute_baseline_ms": base["compute_ms"],
        "compute_scaling_ms": terms.scaling / line["tp"],
        "compute_fixed_ms": terms.fixed,
    }
    if line["gap_ms_least"] is not None:
        fixed = terms.fixed + line["gap_ms_least"]
        values = (fixed, fixed - terms.fixed_off, fixed + terms.fixed_off)
        found |= dict(zip(of_fixed, values, strict=True))
    return found


def _kernel_terms(line: Record, base: Record) -> Terms:
    """Of the compute of two captures: one engine start each, so that the spread is assumed."""
    return solve(*(Point(one["tp"], Timed(one["compute_ms"])) for one in (base, line)))
