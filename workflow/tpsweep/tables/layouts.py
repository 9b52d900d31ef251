"""Table ``layouts``: the ways to spread a model over the same GPUs, side by side.

Two lines and more per group of GPUs: one engine at the whole TP, ``n`` engines of TP / n, and every
other layout that the matrix has on as many GPUs (pipeline stages). For ``serve`` all are measured
cells (``replicas: n``); for static batches the smaller engines are computed from their own cell at
the n-th part of the batch, and say so. What is missing is a line with why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tpsweep.analysis import percentiles, prices
from tpsweep.analysis.equal_sequences import Shares
from tpsweep.analysis.layout_answers import answers
from tpsweep.analysis.series import HEAD, LINE, ORDER, TAIL, Line, Series, Source, dummy_note
from tpsweep.analysis.table import (
    IDENTITY_VIEWS,
    NA,
    NOTE,
    Record,
    Table,
    View,
    figure,
    identity,
    sort_records,
    text,
)
from tpsweep.core.layout import Layout
from tpsweep.core.schema import FLOAT, INT, TEXT, Column
from tpsweep.core.workloads import LATENCY, SERVE

TIMES = ("tpot_ms", "prefill_ms", "ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms")
RATES = ("request_s", "output_tok_s")
ENERGY = "energy_j_per_tok"
_FIGURES = (*TIMES, *RATES, ENERGY)
RATIOS = ("output_tok_s", "tpot_ms", "ttft_p50_ms", "itl_p50_ms")
COLUMNS = (
    *HEAD,
    Column("source", TEXT, "measured, or computed: <n> times the engine at batch / n"),
    Column("single_tp", INT, "TP of the one engine of TP alone that it stands beside, if any"),
    Column("tpot_ms", FLOAT, "latency: decode time per output token, median over runs"),
    Column("prefill_ms", FLOAT, "latency: median over runs"),
    Column("ttft_p50_ms", FLOAT, "serve: time to first token, median; median over runs"),
    Column("ttft_p99_ms", FLOAT, "serve: percentile 99; as in the table serving"),
    Column("itl_p50_ms", FLOAT, "serve: inter-token latency, median; median over runs"),
    Column("request_s", FLOAT, "requests/s of all engines, median over runs"),
    Column("output_tok_s", FLOAT, "output tokens/s of all engines, median over runs"),
    Column("output_tok_s_per_gpu", FLOAT, "output_tok_s / gpus"),
    Column("kv_cache_tokens", FLOAT, "tokens that the KV caches of all engines hold, from the log"),
    Column(ENERGY, FLOAT, "joules of the GPUs per output token; null if not known"),
    *(Column(f"{name}_ratio", FLOAT, f"{name} / that of the one engine") for name in RATIOS),
    *prices.COLUMNS,
    *TAIL,
)
VIEWS = (
    *IDENTITY_VIEWS,
    identity("Settings", "settings"),
    View("State", text("state")),
    View("Source", text("source", NA)),
    View("Decode (ms/token)", figure("tpot_ms", NA)),
    View("Prefill (ms)", figure("prefill_ms", NA)),
    View("TTFT p50 (ms)", figure("ttft_p50_ms", NA)),
    View("TTFT p99 (ms)", figure("ttft_p99_ms", NA)),
    View("ITL p50 (ms)", figure("itl_p50_ms", NA)),
    View("Output (tok/s)", figure("output_tok_s", NA)),
    View("Per GPU (tok/s)", figure("output_tok_s_per_gpu", NA)),
    View("KV cache (tokens)", figure("kv_cache_tokens", NA)),
    View("Energy (J/token)", figure(ENERGY, NA)),
    View("Output (ratio to one engine)", figure("output_tok_s_ratio", NA)),
    View("Decode (ratio to one engine)", figure("tpot_ms_ratio", NA)),
    View("TTFT p50 (ratio)", figure("ttft_p50_ms_ratio", NA)),
    View("ITL p50 (ratio)", figure("itl_p50_ms_ratio", NA)),
    prices.VIEW,
    NOTE,
)
LEGEND = (
    "Computed: the smaller engine's own cell at its share of the batch; its rates times the number"
    " of engines, its times and joules per token as they are. As if the engines did not disturb"
    " each other; no measurement. Not of a mixture of experts: vLLM joins the experts of"
    " data-parallel engines (DP), which only a measurement tells.",
    "Ratios are of medians, without intervals, so they cannot be significant.",
)
EMPTY = "No latency or serve cells of one engine over several GPUs in the matrix."
ANSWERS = "By the values, not tested (at equal sequences on the same GPUs):"
JOINED = "not computed: one engine does not tell what several do that share their experts"
_ORDER = (*(n for n in ORDER if n not in LINE), "gpus", *(n for n in reversed(LINE) if n != "gpus"))


@dataclass(frozen=True)
class _Other:
    """Another layout: its line, how often it counts (1: all engines are in it), and what it is."""

    line: Line
    times: int
    state: str
    source: str | None


def build(source: Source) -> Table:
    """Every engine over several GPUs beside all other layouts that its series could have."""
    static = source.series(LATENCY)
    shares = Shares(static)
    lines = [
        record for series in (*static, *source.series(SERVE)) for record in _records(series, shares)
    ]
    sort_records(lines, _ORDER)
    found = answers(lines)
    legend = (*((ANSWERS, *found) if found else ()), *LEGEND, *prices.legend(lines))
    return Table("layouts", "Layouts on the same GPUs", COLUMNS, VIEWS, lines, legend, EMPTY)


def _records(series: Series, shares: Shares) -> Iterator[Record]:
    single = [line for line in series.lines if line.layout.is_tp_alone]
    for one in single:
        smaller = [line for line in single if line.tp < one.tp and one.tp % line.tp == 0]
        if series.batch is None:
            tps = dict.fromkeys(
                [ln.tp for ln in series.lines if ln.tp < one.tp and ln.gpus == one.gpus]
                + [line.tp for line in smaller]
            )
            others = [_measured(series, one, tp) for tp in tps]
        else:
            others = [_computed(series, one, line, shares) for line in smaller]
        seen = [other.line for other in others]
        others += [
            _Other(line, 1, line.state, "measured" if line.measured else None)
            for line in series.lines
            if line.gpus == one.gpus and line is not one and line not in seen
        ]
        if not others:
            continue
        whole = _figures(one, 1)
        source = "measured" if one.measured else None
        yield _record(series, one, _Other(one, 1, one.state, source), whole)
        for other in others:
            yield _record(series, one, other, whole)
    yield from _without_one(series, {one.gpus for one in single})


def _without_one(series: Series, seen: set[int]) -> Iterator[Record]:
    """Layouts on as many GPUs, where the matrix has no engine of TP alone to stand beside."""
    for gpus in sorted({line.gpus for line in series.lines} - seen - {0}):
        lines = [line for line in series.lines if line.gpus == gpus]
        for line in lines if len(lines) > 1 else []:
            other = _Other(line, 1, line.state, "measured" if line.measured else None)
            yield _record(series, None, other, {})


def _measured(series: Series, one: Line, tp: int) -> _Other:
    """Serve: the cells that ran as many engines behind one address, experts joined or apart."""
    engines, axis = one.gpus // tp, "dp" if series.has_experts else "replicas"
    layout = Layout.of({**one.layout.sizes, "tp": tp, axis: engines})
    for line in series.lines:
        if line.layout == layout:
            return _Other(line, 1, line.state, "measured" if line.measured else None)
    missing = Line(layout, [])
    return _Other(missing, 1, f"not in the matrix: needs {axis}: {engines} at TP={tp}", None)


def _computed(series: Series, one: Line, small: Line, shares: Shares) -> _Other:
    """Static batches: the smaller TP at its share of the batch, if that is measured."""
    engines, batch = one.tp // small.tp, series.batch or 0
    share, rest = divmod(batch, engines)
    nothing = Line(small.layout, [])
    if series.has_experts:
        return _Other(replace(nothing, layout=Layout(tp=small.tp, dp=engines)), 1, JOINED, None)
    if rest:
        state = f"not computed: batch {batch} does not divide by {engines}"
        return _Other(nothing, engines, state, None)
    line = shares.at(series, small.layout, engines)
    if line is None or not line.measured:
        why = line.state if line else "not in the matrix"
        return _Other(
            nothing, engines, f"not computed: batch {share} at TP={small.tp}: {why}", None
        )
    source = f"computed: {engines} times TP={small.tp} at batch {share}"
    state = source if line.state == "measured" else f"{source}; {line.state}"
    return _Other(line, engines, state, source)


def _record(series: Series, one: Line | None, other: _Other, whole: Record) -> Record:
    line = other.line
    found = _figures(line, other.times)
    rate, gpus = found["output_tok_s"], line.gpus * other.times
    ratios = {
        f"{name}_ratio": found[name] / whole[name]
        if line is not one and found[name] is not None and whole.get(name)
        else None
        for name in RATIOS
    }
    return {
        **series.record(line, *dummy_note(line)),
        **found,
        **ratios,
        "replicas": line.layout.replicas * other.times,
        "gpus": gpus,
        "state": other.state,
        "source": other.source,
        "single_tp": one.tp if one else None,
        "output_tok_s_per_gpu": None if rate is None else rate / gpus,
        **prices.cost_of(line, gpus, rate),
    }


def _figures(line: Line, times: int) -> Record:
    """Medians over runs; rates are those of ``times`` such engines."""
    found: Record = {name: line.median(name) for name in _FIGURES}
    found["ttft_p99_ms"] = percentiles.over_runs(line, "ttft", 99)
    found["kv_cache_tokens"] = line.median("kv_cache_tokens")
    for name in (*RATES, "kv_cache_tokens"):
        if found[name] is not None:
            found[name] *= times
    return found
