"""Table ``tp_pairs``: every TP against every larger one of its series, batch by batch."""

from __future__ import annotations

from tpsweep.analysis import verdicts
from tpsweep.analysis.decode_figures import DECODE, rate_ratio, ratio_columns, time_ratio
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
    NOTE,
)
LEGEND = (
    "Speed-up: median time of the smaller TP / that of the larger, with its 95 % interval."
    " Efficiency: speed-up / (larger TP / smaller TP); 1 would be perfect scaling.",
    verdicts.KINDS_LEGEND,
)
EMPTY = "The matrix has no latency cells at two TPs."


def build(source: Source) -> Table:
    """Every pair of TPs at every batch that the manifest has, measured or not."""
    lines = [
        _record(series, low, high)
        for series in source.series(LATENCY)
        for low, high in pairs(series)
    ]
    sort_records(lines, PAIR_ORDER)
    return Table("tp_pairs", "TP against TP", COLUMNS, VIEWS, lines, LEGEND, EMPTY)


def _record(series: Series, low: Line, high: Line) -> Record:
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
        "note": "; ".join(differences(low, high)) or None,
        "synthetic": synthetic(low, high),
    }


def _divided(value: float | None, by: float) -> float | None:
    return None if value is None else value / by
