"""Table ``serving``: online latency at an offered rate, one line per TP and number of replicas.

The range of a figure spans every seed of every run. It is not a confidence interval: ranges
that overlap allow no claim, and ranges that do not overlap say nothing of another engine start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain

from tpsweep.analysis import percentiles, prices, starts, verdicts
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
    change,
    digits,
    figure,
    sort_records,
    text,
)
from tpsweep.core import saturation, stats
from tpsweep.core.schema import FLOAT, INT, SERVE_METRICS, TEXT, Column
from tpsweep.core.schema import PERCENTILES as PERCENTILES_KEPT
from tpsweep.core.stats import MIN_RUNS
from tpsweep.core.workloads import SERVE

COMPARED = ("ttft_p50_ms", "itl_p50_ms", "ttft_p99_ms")
PERCENTILES = {
    f"{name}_p{p}_ms": (name, p, f"{what}, percentile {p}")
    for name, what, _ in SERVE_METRICS
    for p in PERCENTILES_KEPT
    if f"{name}_p{p}_ms" not in verdicts.RANGED
}
"""Of all requests, or tokens, of a run's seeds together: no range."""
PLAIN = ("goodput_request_s", "goodput_share", "steady_share")
CHUNKED = 1.01
"""Tokens per streamed chunk from which on ITL is not a time per token."""
BUSY = 0.9
"""Of one processor: from here on the client may have been what limited the load."""


def _range_columns(name: str, doc: str) -> tuple[Column, ...]:
    return (
        Column(name, FLOAT, f"{doc}; median over runs"),
        Column(f"{name}_lo", FLOAT, "lowest seed of all runs"),
        Column(f"{name}_hi", FLOAT, "highest seed of all runs"),
        Column(f"{name}_starts", TEXT, f"how many runs; null from {MIN_RUNS} on"),
    )


def _change_columns(name: str) -> tuple[Column, ...]:
    return (
        Column(f"{name}_diff", FLOAT, f"{name} minus the baseline's, ms"),
        Column(f"{name}_pct", FLOAT, "the same in % of the baseline's"),
        Column(f"{name}_verdict", TEXT, "what ranges, or from 3 runs a side intervals, allow"),
    )


COLUMNS = (
    *HEAD,
    *_range_columns("request_s", "requests/s served"),
    *_range_columns("ttft_p50_ms", "time to first token, median"),
    *_range_columns("itl_p50_ms", "inter-token latency, median"),
    *(
        Column(name, FLOAT, f"{doc}; median over runs, or of their requests together")
        for name, (_, _, doc) in PERCENTILES.items()
    ),
    *_range_columns("output_tok_s", "output tokens/s"),
    Column("output_tok_s_per_gpu", FLOAT, "output_tok_s / gpus"),
    Column("goodput_request_s", FLOAT, "requests/s within the limits of the slo; median over runs"),
    Column("goodput_share", FLOAT, "of the requests: those within them; median over runs"),
    Column("steady_share", FLOAT, "of the time: first completion to last send; median over runs"),
    Column("saturated", TEXT, "yes: at least one run; no: all; else not shown; null: closed loop"),
    Column("max_in_flight", INT, "maximum requests sent and not finished at a time, of all runs"),
    BASELINE,
    *chain.from_iterable(_change_columns(name) for name in COMPARED),
    Column("per_gpu_ratio", FLOAT, "output_tok_s_per_gpu / that of the baseline"),
    *(replace(column, optional=True) for column in prices.COLUMNS),
    *TAIL,
)


def _ranged(name: str) -> Callable[[Record], str]:
    """A value with the range of its seeds; of how many starts, where these are few."""

    def show(record: Record) -> str:
        value, lo, hi = (record[f"{name}{end}"] for end in ("", "_lo", "_hi"))
        if value is None:
            return NA
        known = [record[f"{name}_starts"], lo is not None and f"seeds {digits(lo)} to {digits(hi)}"]
        words = "; ".join(filter(None, known))
        return f"{digits(value)} ({words})" if words else digits(value)

    return show


VIEWS = (
    *LINE_VIEWS,
    View("Served (requests/s)", _ranged("request_s")),
    View("TTFT p50 (ms)", _ranged("ttft_p50_ms")),
    View("ITL p50 (ms)", _ranged("itl_p50_ms")),
    View("TPOT p50 (ms)", figure("tpot_p50_ms", NA)),
    View("E2E p50 (ms)", figure("e2e_p50_ms", NA)),
    View("TTFT p99 (ms)", figure("ttft_p99_ms", NA)),
    View("Per GPU (tok/s)", figure("output_tok_s_per_gpu", NA)),
    View("Goodput (requests/s)", figure("goodput_request_s", NA)),
    View("Saturated", text("saturated", NA)),
    View("Baseline TP", text("baseline_tp"), once=True),
    View("TTFT p50 change", change("ttft_p50_ms", "ms", NA)),
    View("TTFT p50 verdict", lambda record: verdicts.SHORT[record["ttft_p50_ms_verdict"]]),
    View("ITL p50 change", change("itl_p50_ms", "ms", NA)),
    View("ITL p50 verdict", lambda record: verdicts.SHORT[record["itl_p50_ms_verdict"]]),
    View("TTFT p99 change", change("ttft_p99_ms", "ms", NA)),
    View("Per GPU (ratio to baseline)", figure("per_gpu_ratio", NA)),
    prices.VIEW,
    NOTE,
)
LEGEND = (
    "Values are medians over runs, with the range over all seeds of all runs. Change: the line's"
    " value minus the baseline's (smallest measured TP and number of replicas of the same"
    " series). Replicas are measured, not computed.",
    "Overlapping seed ranges are inconclusive; separate ranges hold for these starts only. Only"
    f" from {MIN_RUNS} runs (engine starts) a side on is the spread between engine starts"
    " known, and a difference significant or not.",
    "Saturated: yes if the wait of requests kept growing while they arrived, so that TTFT depends"
    " on how long the test ran; no if an overload of 5 % can be excluded; not shown: the run was"
    " too short, or too near to capacity, to tell. Always yes at an infinite rate; n/a in a closed"
    " loop.",
    "Times are from a request's send: a wait in the client for max_concurrency is not in them, nor"
    " in goodput. Per GPU at a fixed rate says how the same load is shared, not what could be"
    " served. Percentiles 90 and 95, and 99 of ITL, TPOT and E2E, are in the table's .csv and"
    " .parquet. Settings: a digest of engine limits, SLOs and what else can change a number.",
)
EMPTY = "The matrix has no serve cells."


def build(source: Source) -> Table:
    """Every TP and number of replicas at every offered rate, measured or not."""
    series = source.series(SERVE, imported=True)
    lines = [record for one in series for record in _records(one)]
    sort_records(lines, ORDER)
    legend = (*LEGEND, *_too_few(lines), *prices.legend(lines))
    return Table("serving", "Serving", COLUMNS, VIEWS, lines, legend, EMPTY)


def _too_few(lines: Iterable[Record]) -> tuple[str, ...]:
    """Why there is no p99, where a measured line has none; empty if all have it."""
    if all(line["ttft_p99_ms"] is not None or not line["runs"] for line in lines):
        return ()
    return (
        f"A p99 needs {stats.least_samples(99):,} requests (requests x seeds, all runs together),"
        f" for {stats.TAIL_SAMPLES} to lie beyond it. A measured line with n/a has fewer.",
    )


def _records(series: Series) -> Iterator[Record]:
    before = series.baseline
    base = _figures(before) if before else {}
    for line in series.lines:
        found = base if line is before else _figures(line)
        record = {**series.record(line, *_warnings(line)), **found, "per_gpu_ratio": None}
        record["baseline_tp"] = series.baseline_tp
        compared = before if line is not before else None
        for name in COMPARED:
            record |= _change(name, compared, base.get(name), line, found[name])
        if compared and found["output_tok_s"] and base["output_tok_s"]:
            record["per_gpu_ratio"] = found["output_tok_s_per_gpu"] / base["output_tok_s_per_gpu"]
        yield record | prices.cost_of(line, line.gpus, found["output_tok_s"])


def _figures(line: Line) -> Record:
    found: Record = {name: line.median(name) for name in PLAIN}
    for name, (metric, p, _) in PERCENTILES.items():
        found[name] = percentiles.over_runs(line, metric, p)
    for name in verdicts.RANGED:
        lo, hi = verdicts.seed_range(line, name)
        few = starts.few(len(line.measured)) if line.median(name) is not None else None
        found |= {name: line.median(name), f"{name}_lo": lo, f"{name}_hi": hi}
        found[f"{name}_starts"] = few
    rate = found["output_tok_s"]
    found["output_tok_s_per_gpu"] = None if rate is None or not line.gpus else rate / line.gpus
    found["saturated"] = _saturated(line)
    most = [cell["max_in_flight"] for cell in line.measured if cell["max_in_flight"] is not None]
    found["max_in_flight"] = max(most, default=None)
    return found


def _saturated(line: Line) -> str | None:
    told = {saturation.judge_row(cell) for cell in line.measured} - {None}
    for verdict in (saturation.YES, saturation.NOT_SHOWN, saturation.NO):
        if verdict in told:
            return verdict
    return None


def _change(
    name: str, baseline: Line | None, before: float | None, line: Line, after: float | None
) -> Record:
    """``after`` (of ``line``) against ``before`` (of ``baseline``), in ms and %."""
    if baseline is None or not before or after is None:
        return dict.fromkeys((f"{name}_diff", f"{name}_pct", f"{name}_verdict"))
    return {
        f"{name}_diff": after - before,
        f"{name}_pct": 100 * (after / before - 1),
        f"{name}_verdict": verdicts.of_load(name, baseline, line),
    }


def _warnings(line: Line) -> Iterator[str]:
    yield from dummy_note(line)
    chunk = line.median("tokens_per_chunk")
    if chunk is not None and chunk > CHUNKED:
        yield f"ITL is per streamed chunk of {chunk:.2f} tokens"
    busy = max((cell["client_cpu_share"] or 0.0 for cell in line.measured), default=0.0)
    if busy > BUSY:
        yield f"the client used {busy:.0%} of a processor and may have been the limit"
