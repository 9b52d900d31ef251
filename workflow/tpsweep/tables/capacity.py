"""Table ``capacity``: the highest request rate that keeps an SLO, one line per SLO and layout."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from tpsweep.analysis import prices
from tpsweep.analysis.recommend.evidence import engine_of, traffic_of
from tpsweep.analysis.recommend.expected import Expectation
from tpsweep.analysis.recommend.inputs import Inputs
from tpsweep.analysis.series import (
    BASELINE,
    HEAD,
    LINE_VIEWS,
    ORDER,
    TAIL,
    Line,
    Series,
    Source,
    dummy_note,
)
from tpsweep.analysis.table import (
    NA,
    NOTE,
    Record,
    Table,
    View,
    digits,
    figure,
    sort_records,
    text,
)
from tpsweep.core.schema import FLOAT, INT, TEXT, Column
from tpsweep.core.slo import Slo
from tpsweep.core.workloads import CAPACITY

AT_CAPACITY = {
    "output_tok_s": "output tokens/s",
    "ttft_p50_ms": "median TTFT",
    "ttft_p99_ms": "p99 of TTFT",
    "tpot_p50_ms": "median TPOT",
    "tpot_p99_ms": "p99 of TPOT",
}
COLUMNS = (
    *HEAD,
    Column("slo", TEXT, "its name in the config"),
    Column("slo_limits", TEXT, "its limits as JSON"),
    Column("capacity_request_s", FLOAT, "highest confirmed requests/s; lowest of the runs"),
    Column("capacity_request_s_hi", FLOAT, "highest of the runs"),
    Column("capacity_upper_request_s", FLOAT, "lowest failing requests/s, of all runs"),
    Column("expected_request_s", FLOAT, "what `tpsweep recommend` expects of it without its rows"),
    Column("capacity_request_s_per_gpu", FLOAT, "capacity_request_s / gpus"),
    Column("verdict", TEXT, "of each run, those that differ"),
    Column("limit", TEXT, "what failed at the upper rate, or saturated"),
    Column("probes", INT, "probes of all runs"),
    *(
        Column(name, FLOAT, f"{doc} at the capacity; median of the runs")
        for name, doc in AT_CAPACITY.items()
    ),
    BASELINE,
    Column(
        "per_gpu_ratio",
        FLOAT,
        "capacity_request_s_per_gpu / that of the baseline; null if no rate failed of one of them",
    ),
    *(replace(column, optional=True) for column in prices.COLUMNS),
    *TAIL,
)


def _bracket(record: Record) -> str:
    """``64.3 to 67.5``: confirmed, and failing."""
    low, high = (record[f"capacity_{end}request_s"] for end in ("", "upper_"))
    if low is None:
        return NA if high is None else f"below {digits(high)}"
    return f"{digits(low)} to {digits(high)}" if high is not None else f"{digits(low)} or more"


def _per_gpu(record: Record) -> str:
    value = record["capacity_request_s_per_gpu"]
    if value is None:
        return NA
    return digits(value) if _is_known(record) else f"{digits(value)} or more"


def _is_known(record: Record) -> bool:
    """Whether there is a capacity: one up to which no rate failed is only a lower bound."""
    ends = ("capacity_request_s", "capacity_upper_request_s")
    return all(record[end] is not None for end in ends)


VIEWS = (
    *LINE_VIEWS,
    View("SLO", text("slo")),
    View("Limits", text("slo_limits"), once=True),
    View("Capacity (requests/s)", _bracket),
    View("Expected (requests/s)", figure("expected_request_s", NA)),
    View("Per GPU (requests/s)", _per_gpu),
    View("Verdict", text("verdict", NA)),
    View("Limited by", text("limit", NA)),
    View("TTFT p50 (ms)", figure("ttft_p50_ms", NA)),
    View("TPOT p50 (ms)", figure("tpot_p50_ms", NA)),
    View("Output (tok/s)", figure("output_tok_s", NA)),
    View("Baseline TP", text("baseline_tp"), once=True),
    View("Per GPU (ratio to baseline)", figure("per_gpu_ratio", NA)),
    prices.VIEW,
    NOTE,
)
LEGEND = (
    "Capacity: the highest rate of Poisson arrivals at which the SLO held again on other seeds, to"
    " the lowest rate that failed. Of several runs (engine starts) the lowest capacity counts.",
    "Below: this rate failed and none below it was confirmed (unfinished: max_probes came first)."
    " Or more: no rate failed up to max_request_rate, and there is no ratio. Limited by: the limit"
    " that failed at the upper rate; saturated: requests waited longer and longer, whatever the"
    " limits.",
    "Expected: what `tpsweep recommend` says without rows (docs/expectation.md).",
    "TTFT, TPOT and tokens/s are of the probes that confirmed it. All probes are in the rows.",
)
EMPTY = "The matrix has no capacity cells."


@dataclass(frozen=True)
class _Found:
    """The answer of one run for one SLO: its element of each list column."""

    cell: Record
    place: int

    def __call__(self, name: str) -> Any:
        values = self.cell[name]
        found = None if values is None else values[self.place]
        # Lists of a row come as arrays of floats, where null is NaN.
        return None if found is None or found != found else found


def build(source: Source) -> Table:
    """Every SLO of every layout; a layout without a row has one line."""
    inputs = Inputs(source.measured, {}, source.results.folders)
    lines = [record for series in source.series(CAPACITY) for record in _records(series, inputs)]
    sort_records(lines, (*ORDER, "slo"))
    legend = (*LEGEND, *prices.legend(lines))
    return Table("capacity", "Capacity", COLUMNS, VIEWS, lines, legend, EMPTY)


def _records(series: Series, inputs: Inputs) -> Iterator[Record]:
    base = _by_slo(series.baseline) if series.baseline else {}
    for line in series.lines:
        expectation = _expectation(line, inputs)
        without: dict[str | None, list[_Found]] = {None: []}
        for slo, found in (_by_slo(line) or without).items():
            record = {**series.record(line, *_notes(line, found)), "slo": slo}
            record |= _figures(line, found) | {"baseline_tp": series.baseline_tp}
            record["expected_request_s"] = _expected(expectation, record)
            before = base.get(slo)
            ratio = None
            if before and series.baseline is not None and line is not series.baseline:
                ratio = _ratio(record, _figures(series.baseline, before))
            record["per_gpu_ratio"] = ratio
            yield record | prices.cost_of(line, line.gpus, record["output_tok_s"])


def _expectation(line: Line, inputs: Inputs) -> Expectation | None:
    """Of its engine under its requests; None without a row, which has the SLOs."""
    for row in line.measured:
        traffic = traffic_of(row)
        if traffic is not None:
            return Expectation(engine_of(row), traffic, inputs.shape(row["model"]))
    return None


def _expected(expectation: Expectation | None, record: Record) -> float | None:
    if expectation is None or record["slo_limits"] is None:
        return None
    slo = Slo.of(record["slo"], json.loads(record["slo_limits"]))
    known = expectation.capacity(slo)
    return known.request_s if known else None


def _ratio(record: Record, base: Record) -> float | None:
    if not _is_known(record) or not _is_known(base):
        return None
    one, two = (each["capacity_request_s_per_gpu"] for each in (base, record))
    return two / one if one and two else None


def _by_slo(line: Line) -> dict[str | None, list[_Found]]:
    found: dict[str | None, list[_Found]] = {}
    for cell in line.measured:
        names = cell["slo_names"]
        for place, name in enumerate(() if names is None else names):
            found.setdefault(name, []).append(_Found(cell, place))
    return found


def _figures(line: Line, found: Sequence[_Found]) -> Record:
    rates = [one("capacity_request_s") for one in found]
    known = [rate for rate in rates if rate is not None]
    upper = [rate for one in found if (rate := one("capacity_upper_request_s")) is not None]
    lowest = min(known) if known and len(known) == len(rates) else None
    return {
        "slo_limits": _limits(found),
        "capacity_request_s": lowest,
        "capacity_request_s_hi": max(known, default=None),
        "capacity_upper_request_s": min(upper, default=None),
        "capacity_request_s_per_gpu": lowest / line.gpus if lowest and line.gpus else None,
        "verdict": _words(one("capacity_verdicts") for one in found),
        "limit": _words(one("capacity_limits") for one in found),
        "probes": sum(len(one.cell["probe_request_s"]) for one in found) or None,
        # Of a run that has no capacity there is nothing: the others are not what the line says.
        **{
            name: None if lowest is None else _median(one(f"capacity_{name}") for one in found)
            for name in AT_CAPACITY
        },
    }


def _limits(found: Sequence[_Found]) -> str | None:
    if not found:
        return None
    return json.dumps(json.loads(found[0].cell["slos"])[found[0]("slo_names")])


def _words(values: Iterable[str | None]) -> str | None:
    return "; ".join(dict.fromkeys(value for value in values if value)) or None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _notes(line: Line, found: Sequence[_Found]) -> Iterator[str]:
    yield from dummy_note(line)
    yield from dict.fromkeys(note for one in found if (note := one("capacity_notes")))
