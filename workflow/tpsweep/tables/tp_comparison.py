"""Table ``tp_comparison``: what more GPUs per model bring, one line per TP.

Lines are compared within a series: cells whose identity differs in ``tp``, ``gpus``, ``replicas``
and ``run`` only. TP=1 has no all-reduce: its line is in the series of every backend.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tpsweep.analysis import prices, verdicts
from tpsweep.analysis.decode_figures import (
    DECODE_COLUMNS,
    decode_time,
    ratio_columns,
    time_ratio,
    value,
    value_columns,
)
from tpsweep.analysis.equal_sequences import Shares, engines_on
from tpsweep.analysis.nvlink_traffic import Traffic, traffic
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
    NOTE,
    Record,
    Table,
    View,
    digits,
    figure,
    sort_records,
    text,
)
from tpsweep.core.schema import FLOAT, Column
from tpsweep.core.workloads import LATENCY
from tpsweep.perfmodel.model_shape import Shape

DECODE, PREFILL = "tpot_ms_samples", "prefill_ms_samples"


def _speedup_columns(name: str) -> tuple[Column, ...]:
    doc = f"baseline's {name} time / this line's"
    return ratio_columns(f"{name}_speedup", doc, f"{name}_verdict")


COLUMNS = (
    *HEAD,
    *DECODE_COLUMNS,
    *value_columns("prefill_ms", "prefill time"),
    Column("output_tok_s", FLOAT, "median over runs; prefill is in it"),
    Column("output_tok_s_per_gpu", FLOAT, "output_tok_s / gpus"),
    Column("per_gpu_ratio", FLOAT, "output_tok_s_per_gpu / that of the baseline"),
    Column("split_output_tok_s", FLOAT, "computed: the baseline on as many GPUs, batch split"),
    Column("split_ratio", FLOAT, "output_tok_s / split_output_tok_s: at equal sequences per node"),
    Column("nvlink_gb_s", FLOAT, "sent by a GPU over the kept repeats, prefill included (NVML)"),
    Column("nvlink_share", FLOAT, "largest GPU's, of the link's peak in one direction"),
    Column("nvlink_decode_gb_s", FLOAT, "its part of the decode alone, by what the ranks exchange"),
    Column("nvlink_decode_share", FLOAT, "the same, of the link's peak in one direction"),
    BASELINE,
    *_speedup_columns("decode"),
    *_speedup_columns("prefill"),
    *prices.COLUMNS,
    *TAIL,
)


def _link_share(record: Record) -> str:
    share = record["nvlink_decode_share"]
    return "" if share is None else f"{digits(100 * share)} %"


VIEWS = (
    *LINE_VIEWS,
    View("Decode (ms/token)", figure("tpot_ms")),
    View("Prefill (ms)", figure("prefill_ms")),
    View("Intervals", text("interval_kind"), once=True),
    View("Output (tok/s)", figure("output_tok_s")),
    View("Per GPU (tok/s)", figure("output_tok_s_per_gpu")),
    View("Per GPU (ratio to baseline)", figure("per_gpu_ratio")),
    View("Baseline engines, batch split (tok/s, computed)", figure("split_output_tok_s")),
    View("At equal sequences per node (ratio)", figure("split_ratio")),
    View("NVLink in decode (GB/s)", figure("nvlink_decode_gb_s")),
    View("Of its peak", _link_share),
    View("Baseline TP", text("baseline_tp"), once=True),
    View("Decode speed-up", figure("decode_speedup")),
    View("Decode verdict", lambda record: verdicts.SHORT[record["decode_verdict"]]),
    View("Prefill speed-up", figure("prefill_speedup")),
    View("Prefill verdict", lambda record: verdicts.SHORT[record["prefill_verdict"]]),
    prices.VIEW,
    NOTE,
)
LEGEND = (
    "Values are geometric means of the run medians. Speed-up: the time of the baseline (smallest"
    " measured TP of the same series) divided by the line's.",
    verdicts.KINDS_LEGEND,
    "Batch split: as many engines of the baseline's TP as fit on the same GPUs, each with its"
    " share of the batch; computed from that batch's line, not measured. The ratio to them is the"
    " comparison of layouts on equal GPUs at equal sequences per node.",
    "NVLink in decode: NVML's counters of the kept repeats, in one direction, the mean of the GPUs."
    " They hold the prefill, too; the decode's part follows from what the ranks exchange (the"
    " all-reduces of every token, the logits of every step), for models that a capture describes.",
)


def build(source: Source) -> Table:
    """Every TP of every series of static batches that the manifest has, measured or not.

    Other workloads have tables of their own; captures have none: a profiled time is not an
    unprofiled one (measuring rule 6).
    """
    series = source.series(LATENCY, imported=True)
    shares = Shares(series)
    shapes = source.results.shapes
    lines = [record for one in series for record in _records(one, shares, shapes)]
    sort_records(lines, ORDER)
    verdict_names = ("decode_verdict", "prefill_verdict")
    legend = (*LEGEND, *verdicts.by_chance(lines, verdict_names), *prices.legend(lines))
    return Table("tp_comparison", "TP comparison", COLUMNS, VIEWS, lines, legend)


def _records(series: Series, shares: Shares, shapes: Mapping[str, Shape]) -> Iterator[Record]:
    baseline = series.baseline
    for line in series.lines:
        record: Record = {**series.record(line, *_warnings(line)), **decode_time(line)}
        record["baseline_tp"] = series.baseline_tp
        record |= value(line, "prefill_ms", PREFILL)
        record |= _speedup(baseline, line, DECODE, "decode")
        record |= _speedup(baseline, line, PREFILL, "prefill")
        record |= _rates(series, line, shares)
        record |= _nvlink(traffic(line.measured, shapes))
        record |= prices.cost_of(line, line.gpus, line.output_tok_s)
        yield record


def _speedup(baseline: Line | None, line: Line, samples: str, name: str) -> Record:
    other = None if line is baseline else line
    return time_ratio(f"{name}_speedup", baseline, other, samples, f"{name}_verdict")


def _rates(series: Series, line: Line, shares: Shares) -> Record:
    """Throughput, per GPU, and beside the baseline's on as many GPUs (measuring rule 9)."""
    rate, baseline = line.output_tok_s, series.baseline
    per_gpu = None if rate is None or not line.gpus else rate / line.gpus
    ratio = split = None
    if baseline is not None and line is not baseline:
        if per_gpu is not None and baseline.output_tok_s:
            ratio = per_gpu / (baseline.output_tok_s / baseline.gpus)
        engines = engines_on(line.gpus, baseline.layout)
        share = shares.at(series, baseline.layout, engines) if engines else None
        if engines and share is not None and share.output_tok_s is not None:
            split = share.output_tok_s * engines
    return {
        "output_tok_s": rate,
        "output_tok_s_per_gpu": per_gpu,
        "per_gpu_ratio": ratio,
        "split_output_tok_s": split,
        "split_ratio": rate / split if rate is not None and split else None,
    }


def _nvlink(found: Traffic) -> Record:
    return {
        "nvlink_gb_s": found.gb_s,
        "nvlink_share": found.share,
        "nvlink_decode_gb_s": found.decode_gb_s,
        "nvlink_decode_share": found.decode_share,
    }


def _warnings(line: Line) -> Iterator[str]:
    yield from dummy_note(line)
    if any(cell["prefill_chunked"] for cell in line.measured):
        yield "prefill was chunked"
    for samples, label in ((DECODE, "decode"), (PREFILL, "prefill")):
        given = sum(cell[samples] is not None and len(cell[samples]) > 0 for cell in line.measured)
        if given > len(line.runs(samples)):
            yield f"{label} samples of {given - len(line.runs(samples))} run(s) are not positive"
