"""Table ``throughput``: offline requests, one line per TP, with computed TP=1 engines beside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tpsweep.analysis import prices, verdicts
from tpsweep.analysis.decode_figures import ratio_columns, ratio_starts, value, value_columns
from tpsweep.analysis.series import (
    BASELINE,
    HEAD,
    LINE,
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
    figure,
    sort_records,
    text,
)
from tpsweep.core.schema import FLOAT, TEXT, Column
from tpsweep.core.workloads import THROUGHPUT

SAMPLES = {"request_s": "request_s_samples", "output_tok_s": "output_tok_s_samples"}

COLUMNS = (
    *HEAD,
    Column("source", TEXT, "measured, or computed: <n> engines of TP=<baseline>"),
    *value_columns("request_s", "requests/s"),
    *value_columns("output_tok_s", "output tokens/s"),
    Column("interval_kind", TEXT, verdicts.KINDS),
    Column("total_tok_s", FLOAT, "input and output tokens/s, median over runs"),
    Column("output_tok_s_per_gpu", FLOAT, "output_tok_s / gpus"),
    BASELINE,
    *ratio_columns("ratio", "output_tok_s / that of the baseline; computed lines: a multiple"),
    Column("per_gpu_ratio", FLOAT, "output_tok_s_per_gpu / that of the baseline"),
    *prices.COLUMNS,
    *TAIL,
)
_RATIO = tuple(column.name for column in ratio_columns("ratio", ""))
VIEWS = (
    *LINE_VIEWS,
    View("Served (requests/s)", figure("request_s", NA)),
    View("Output (tok/s)", figure("output_tok_s", NA)),
    View("Intervals", text("interval_kind"), once=True),
    View("Per GPU (tok/s)", figure("output_tok_s_per_gpu", NA)),
    View("Baseline TP", text("baseline_tp"), once=True),
    View("Output (ratio to baseline)", figure("ratio", NA)),
    View("Verdict", lambda record: verdicts.SHORT[record["ratio_verdict"]]),
    View("Per GPU (ratio to baseline)", figure("per_gpu_ratio", NA)),
    prices.VIEW,
    NOTE,
)
LEGEND = (
    "Values are geometric means of the run medians. Ratio: the line's output tokens/s divided"
    " by those of the baseline (smallest measured TP of the same series); above 1 is more.",
    verdicts.KINDS_LEGEND,
    "Computed: a multiple of the baseline's value, as if as many of its engines as fit on the same"
    " GPUs each worked off a request set of their own. No measurement.",
)
EMPTY = "The matrix has no throughput cells."


def build(source: Source) -> Table:
    """Every TP of every request set, measured or not, by GPUs, with computed lines in between."""
    lines = [
        record
        for series in source.series(THROUGHPUT, imported=True)
        for record in (*_measured(series), *_computed(series))
    ]
    order = (*(name for name in ORDER if name not in LINE), "gpus", "tp")
    sort_records(lines, order)
    legend = (*LEGEND, *verdicts.by_chance(lines, ("ratio_verdict",)), *prices.legend(lines))
    return Table("throughput", "Throughput", COLUMNS, VIEWS, lines, legend, EMPTY)


def _measured(series: Series) -> Iterator[Record]:
    for line in series.lines:
        if series.baseline is None or line is series.baseline or not line.measured:
            ratio = _ratio(None, line)
        else:
            ratio = _ratio(series.baseline, line)
        source = "measured" if line.measured else None
        rates = _rates(line)
        yield {
            **series.record(line, *_warnings(line)),
            "baseline_tp": series.baseline_tp,
            "source": source,
            **rates,
            **prices.cost_of(line, line.gpus, rates["output_tok_s"]),
            **ratio,
        }


def _computed(series: Series) -> Iterator[Record]:
    """The baseline times ``n`` beside every larger line on ``n`` times as many GPUs."""
    one = series.baseline
    if one is None or one.layout.engines != 1 or one.imported or series.has_experts:
        return
    rates = _rates(one)
    known = {(line.tp, line.gpus) for line in series.lines if line.measured}
    for gpus in dict.fromkeys(line.gpus for line in series.lines if line.measured):
        engines, rest = divmod(gpus, one.gpus)
        if engines < 2 or rest or (one.tp, gpus) in known:
            continue
        source = f"computed: {engines} engines of TP={one.tp}"
        # As many engines on as many GPUs: each token costs what it costs the one.
        yield {
            **series.record(one, *_warnings(one)),
            "baseline_tp": series.baseline_tp,
            **{n: v * engines if _scales(n, v) else v for n, v in rates.items()},
            **prices.cost_of(one, one.gpus, rates["output_tok_s"]),
            "replicas": engines,
            "gpus": gpus,
            "state": source,
            "source": source,
            **dict.fromkeys(_RATIO),
            "ratio": None if rates["output_tok_s"] is None else float(engines),
            "per_gpu_ratio": None if rates["output_tok_s"] is None else 1.0,
        }


def _scales(name: str, value: Any) -> bool:
    return isinstance(value, float) and name != "output_tok_s_per_gpu"


def _rates(line: Line) -> Record:
    found: Record = {"interval_kind": None, "total_tok_s": line.median("total_tok_s")}
    for name, samples in SAMPLES.items():
        found |= value(line, name, samples)
        if found[name] is None:
            found[name] = line.median(name)
    rate = found["output_tok_s"]
    found["output_tok_s_per_gpu"] = None if rate is None or not line.gpus else rate / line.gpus
    return found


def _ratio(baseline: Line | None, line: Line) -> Record:
    samples = SAMPLES["output_tok_s"]
    if baseline is None or not baseline.side(samples).runs or not line.side(samples).runs:
        return dict.fromkeys((*_RATIO, "per_gpu_ratio"))
    # stats.speedup is made for times, where less is better: for rates the sides change places.
    found = line.ratio_to(baseline, samples)
    known = ratio_starts(line, baseline, samples, found)
    values = (found.value, found.lo, found.hi, found.kind, found.verdict, known)
    per_gpu = found.value * baseline.gpus / line.gpus
    return {**dict(zip(_RATIO, values, strict=True)), "per_gpu_ratio": per_gpu}


def _warnings(line: Line) -> Iterator[str]:
    yield from dummy_note(line)
