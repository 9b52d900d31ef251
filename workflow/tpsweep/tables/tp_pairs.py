"""Table ``tp_pairs``: every TP against every larger one of its series, batch by batch."""

from __future__ import annotations

from tpsweep.analysis import verdicts
from tpsweep.analysis.decode_figures import DECODE, rate_ratio, ratio_columns, time_ratio
from tpsweep.analysis.equal_sequences import Shares, engines_on
from tpsweep.analysis.pairs import (
    PAIR_HEAD,
    PAIR_ORDER,
    PAIR_TAIL,
    PAIR_VIEWS,
    differences,
    identify,
    pairs,
    synthetic,
)
from tpsweep.analysis.series import Line, Series, Source
from tpsweep.analysis.table import NA, NOTE, Record, Table, View, figure, sort_records, text
from tpsweep.core.schema import FLOAT, TEXT, Column
from tpsweep.core.workloads import LATENCY

PREFILL = "prefill_ms_samples"
COLUMNS = (
    *PAIR_HEAD,
    Column("state_from", TEXT, "of the smaller TP: measured, or why it or some runs are not"),
    Column("state_to", TEXT, "of the larger TP"),
    *ratio_columns("decode_speedup", "decode time of the smaller TP / that of the larger"),
    Column("decode_efficiency", FLOAT, "decode_speedup / (tp_to / tp_from)"),
    *ratio_columns("prefill_speedup", "prefill time of the smaller TP / that of the larger"),
    Column("prefill_efficiency", FLOAT, "prefill_speedup / (tp_to / tp_from)"),
    Column("output_ratio", FLOAT, "output_tok_s of the larger TP / that of the smaller"),
    Column("per_gpu_ratio", FLOAT, "the same per GPU"),
    Column(
        "equal_sequences_ratio",
        FLOAT,
        "output_tok_s of the larger TP / that of smaller engines on its GPUs, batch split",
    ),
    *PAIR_TAIL,
)
VIEWS = (
    *PAIR_VIEWS,
    View("State, smaller TP", text("state_from"), once=True),
    View("State, larger TP", text("state_to"), once=True),
    View("Decode speed-up", figure("decode_speedup", NA)),
    View("Intervals", text("decode_speedup_kind"), once=True),
    View("Decode verdict", lambda record: verdicts.SHORT[record["decode_speedup_verdict"]]),
    View("Decode efficiency", figure("decode_efficiency", NA)),
    View("Prefill speed-up", figure("prefill_speedup", NA)),
    View("Prefill verdict", lambda record: verdicts.SHORT[record["prefill_speedup_verdict"]]),
    View("Prefill efficiency", figure("prefill_efficiency", NA)),
    View("Output (ratio)", figure("output_ratio", NA)),
    View("Per GPU (ratio)", figure("per_gpu_ratio", NA)),
    View("At equal sequences per node (ratio)", figure("equal_sequences_ratio", NA)),
    NOTE,
)
LEGEND = (
    "Speed-up: time of the smaller TP / that of the larger."
    " Efficiency: speed-up / (larger TP / smaller TP); 1 would be perfect scaling.",
    "Output and per GPU: at equal batch, where the larger TP holds more GPUs. At equal sequences"
    " per node: beside engines of the smaller TP on the same GPUs, each with its share of the batch"
    " (computed from the smaller TP's line at that share).",
    verdicts.KINDS_LEGEND,
)
EMPTY = "The matrix has no latency cells at two TPs."


def build(source: Source) -> Table:
    """Every pair of TPs at every batch that the manifest has, measured or not."""
    every = source.series(LATENCY)
    shares = Shares(every)
    lines = [_record(series, low, high, shares) for series in every for low, high in pairs(series)]
    sort_records(lines, PAIR_ORDER)
    judged = ("decode_speedup_verdict", "prefill_speedup_verdict")
    legend = (*LEGEND, *verdicts.by_chance(lines, judged))
    return Table("tp_pairs", "TP against TP", COLUMNS, VIEWS, lines, legend, EMPTY)


def _record(series: Series, low: Line, high: Line, shares: Shares) -> Record:
    ideal = high.tp / low.tp
    decode = time_ratio("decode_speedup", low, high, DECODE)
    prefill = time_ratio("prefill_speedup", low, high, PREFILL)
    output = rate_ratio(high, low)
    return {
        **identify(series, low, high),
        "state_from": low.state,
        "state_to": high.state,
        **decode,
        "decode_efficiency": _divided(decode["decode_speedup"], ideal),
        **prefill,
        "prefill_efficiency": _divided(prefill["prefill_speedup"], ideal),
        "output_ratio": output,
        "per_gpu_ratio": _divided(output, high.gpus / low.gpus),
        "equal_sequences_ratio": _at_equal_sequences(series, low, high, shares),
        "note": "; ".join(differences(low, high)) or None,
        "synthetic": synthetic(low, high),
    }


def _at_equal_sequences(series: Series, low: Line, high: Line, shares: Shares) -> float | None:
    engines = engines_on(high.gpus, low.layout)
    share = shares.at(series, low.layout, engines) if engines else None
    return _divided(rate_ratio(high, share), engines) if engines else None


def _divided(value: float | None, by: float) -> float | None:
    return None if value is None else value / by
