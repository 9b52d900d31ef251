"""Table ``tp_comparison``: what more GPUs per model bring, one line per TP.

Lines are compared within a series: cells whose identity differs in ``tp``, ``gpus``, ``replicas``
and ``run`` only. TP=1 has no all-reduce: its line is in the series of every backend.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tpsweep.analysis import prices, verdicts
from tpsweep.analysis.decode_figures import ratio_columns, time_ratio
from tpsweep.analysis.series import (
    BASELINE,
    HEAD,
    ORDER,
    TAIL,
    Line,
    Series,
    Source,
    dummy_note,
)
from tpsweep.analysis.table import (
    IDENTITY_VIEWS,
    Record,
    Table,
    View,
    figure,
    identity,
    sort_records,
    text,
)
from tpsweep.core import stats
from tpsweep.core.layout import Layout
from tpsweep.core.schema import FLOAT, TEXT, Column
from tpsweep.core.workloads import LATENCY

DECODE, PREFILL = "tpot_ms_samples", "prefill_ms_samples"


def _speedup_columns(name: str) -> tuple[Column, ...]:
    doc = f"baseline's {name} time / this line's"
    return ratio_columns(f"{name}_speedup", doc, f"{name}_verdict")


COLUMNS = (
    *HEAD,
    Column("tpot_ms", FLOAT, "decode time per output token: median of the run medians"),
    Column("tpot_ms_lo", FLOAT, "95 % interval of the kind interval_kind"),
    Column("tpot_ms_hi", FLOAT, "95 % interval of the kind interval_kind"),
    Column("prefill_ms", FLOAT, "median of the run medians"),
    Column("prefill_ms_lo", FLOAT, "95 % interval of the kind interval_kind"),
    Column("prefill_ms_hi", FLOAT, "95 % interval of the kind interval_kind"),
    Column("interval_kind", TEXT, verdicts.KINDS),
    Column("output_tok_s", FLOAT, "median over runs; prefill is in it"),
    Column("output_tok_s_per_gpu", FLOAT, "output_tok_s / gpus"),
    Column("per_gpu_ratio", FLOAT, "output_tok_s_per_gpu / that of the baseline"),
    Column("split_output_tok_s", FLOAT, "computed: the baseline on as many GPUs, batch split"),
    BASELINE,
    *_speedup_columns("decode"),
    *_speedup_columns("prefill"),
    *prices.COLUMNS,
    *TAIL,
)

VIEWS = (
    *IDENTITY_VIEWS,
    identity("Settings", "settings"),
    View("State", text("state")),
    View("Runs", lambda record: f"{record['runs']}/{record['runs_planned']}"),
    View("Decode (ms/token)", figure("tpot_ms")),
    View("Prefill (ms)", figure("prefill_ms")),
    View("Intervals", text("interval_kind"), once=True),
    View("Output (tok/s)", figure("output_tok_s")),
    View("Per GPU (tok/s)", figure("output_tok_s_per_gpu")),
    View("Per GPU (ratio to baseline)", figure("per_gpu_ratio")),
    View("Baseline engines, batch split (tok/s, computed)", figure("split_output_tok_s")),
    View("Baseline TP", text("baseline_tp"), once=True),
    View("Decode speed-up", figure("decode_speedup")),
    View("Decode verdict", lambda record: verdicts.SHORT[record["decode_verdict"]]),
    View("Prefill speed-up", figure("prefill_speedup")),
    View("Prefill verdict", lambda record: verdicts.SHORT[record["prefill_verdict"]]),
    prices.VIEW,
    View("Note", text("note"), once=True),
)
LEGEND = (
    "Values are medians of the run medians, with 95 % intervals. Speed-up: the time of the"
    " baseline (smallest measured TP of the same series) divided by the line's.",
    verdicts.KINDS_LEGEND,
    "Batch split: as many engines of the baseline's TP as fit on the same GPUs, each with its"
    " share of the batch; computed from that batch's line, not measured.",
)


def build(source: Source) -> Table:
    """Every TP of every series of static batches that the manifest has, measured or not.

    Other workloads have tables of their own; captures have none: a profiled time is not an
    unprofiled one (measuring rule 6).
    """
    series = source.series(LATENCY, imported=True)
    throughput = {
        (one.place(one.batch), line.layout): line.output_tok_s
        for one in series
        for line in one.lines
    }
    lines = [record for one in series for record in _records(one, throughput)]
    sort_records(lines, ORDER)
    legend = (*LEGEND, *prices.legend(lines))
    return Table("tp_comparison", "TP comparison", COLUMNS, VIEWS, lines, legend)


def _records(
    series: Series, throughput: dict[tuple[tuple[Any, ...], Layout], float | None]
) -> Iterator[Record]:
    baseline = series.baseline
    for line in series.lines:
        record: Record = {**series.record(line, *_warnings(line)), "interval_kind": None}
        record["baseline_tp"] = series.baseline_tp
        record |= _interval(line, DECODE, "tpot_ms") | _interval(line, PREFILL, "prefill_ms")
        record |= _speedup(baseline, line, DECODE, "decode")
        record |= _speedup(baseline, line, PREFILL, "prefill")
        record |= _rates(series, line, throughput)
        record |= prices.cost_of(line, line.gpus, line.output_tok_s)
        yield record


def _interval(line: Line, samples: str, name: str) -> Record:
    if not line.runs(samples):
        return {name: None, f"{name}_lo": None, f"{name}_hi": None}
    found = stats.median_of_runs(line.side(samples))
    kind = {} if found.lo is None else {"interval_kind": found.kind}
    return {name: found.value, f"{name}_lo": found.lo, f"{name}_hi": found.hi, **kind}


def _speedup(baseline: Line | None, line: Line, samples: str, name: str) -> Record:
    other = None if line is baseline else line
    return time_ratio(f"{name}_speedup", baseline, other, samples, f"{name}_verdict")


def _rates(
    series: Series, line: Line, throughput: dict[tuple[tuple[Any, ...], Layout], float | None]
) -> Record:
    """Throughput, per GPU, and beside the baseline's on as many GPUs (measuring rule 9)."""
    rate, baseline = line.output_tok_s, series.baseline
    per_gpu = None if rate is None or not line.gpus else rate / line.gpus
    ratio = split = None
    if baseline is not None and line is not baseline:
        if per_gpu is not None and baseline.output_tok_s:
            ratio = per_gpu / (baseline.output_tok_s / baseline.gpus)
        engines, rest = divmod(line.gpus, baseline.gpus)
        if series.batch is not None and engines > 1 and rest == 0 and series.batch % engines == 0:
            place = series.place(series.batch // engines)
            share = throughput.get((place, baseline.layout))
            split = None if share is None else share * engines
    return {
        "output_tok_s": rate,
        "output_tok_s_per_gpu": per_gpu,
        "per_gpu_ratio": ratio,
        "split_output_tok_s": split,
    }


def _warnings(line: Line) -> Iterator[str]:
    yield from dummy_note(line)
    if any(cell["prefill_chunked"] for cell in line.measured):
        yield "prefill was chunked"
    for samples, label in ((DECODE, "decode"), (PREFILL, "prefill")):
        given = sum(cell[samples] is not None and len(cell[samples]) > 0 for cell in line.measured)
        if given > len(line.runs(samples)):
            yield f"{label} samples of {given - len(line.runs(samples))} run(s) are not positive"
