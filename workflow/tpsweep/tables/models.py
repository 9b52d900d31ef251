"""Table ``models``: small and large models side by side at increasing TP (static batches).

Every figure of a line is that of ``tp_comparison``; added is what the models are to each other.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from tpsweep.analysis import verdicts
from tpsweep.analysis.series import KEY, RUNS, Source
from tpsweep.analysis.table import (
    IDENTITY_VIEWS,
    NA,
    NOTE,
    Record,
    Table,
    View,
    figure,
    sort_key,
    text,
)
from tpsweep.core.layout import Layout
from tpsweep.core.schema import FLOAT, TEXT, Column
from tpsweep.tables import tp_comparison

NEEDS = ("tp_comparison",)
_OF_MODEL = ("model", "model_revision", "settings", "allreduce_backend")
_PLACE = tuple(name for name in KEY if name not in _OF_MODEL)
_LAST = ("decode_verdict", "note", "synthetic")
COLUMNS = (
    *(c for c in tp_comparison.COLUMNS if not c.name.startswith("prefill") and c.name not in _LAST),
    Column("efficiency", FLOAT, "decode_speedup x baseline_tp / tp: 1 is the ideal"),
    Column("smallest_model", TEXT, "of the same node class, batch and lengths: least GPU time"),
    Column("decode_ratio", FLOAT, "tpot_ms / that of the smallest model at the same TP"),
    Column("gpu_time_ratio", FLOAT, "tpot_ms x gpus / the smallest model's least tpot_ms x gpus"),
    *(c for c in tp_comparison.COLUMNS if c.name in _LAST),
)
VIEWS = (
    *(view for view in IDENTITY_VIEWS if view.heading not in ("Replicas", "GPUs")),
    View("State", text("state")),
    RUNS,
    View("Decode (ms/token)", figure("tpot_ms", NA)),
    View("Output (tok/s)", figure("output_tok_s", NA)),
    View("Per GPU (tok/s)", figure("output_tok_s_per_gpu", NA)),
    View("Decode speed-up over own smallest TP", figure("decode_speedup", NA)),
    View("Verdict", lambda record: verdicts.SHORT[record["decode_verdict"]]),
    View("Efficiency", figure("efficiency", NA)),
    View("Decode / smallest model, same TP", figure("decode_ratio", NA)),
    View("GPU time / smallest model's least", figure("gpu_time_ratio", NA)),
    NOTE,
)
LEGEND = (
    "A model that cannot run at a TP keeps its line, with the reason. Speed-up is over the model's"
    " own smallest measured TP; between models there is no verdict, only the ratio.",
)
EMPTY = "The matrix has no latency cells."
_ORDER = (*(name for name in _PLACE if name != "batch"), "batch", "allreduce_backend", "tp")


def build(_: Source, compared: Table) -> Table:
    """One line per model, TP and batch of each node class, measured or not."""
    places: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for line in compared.records:
        places[tuple(line[name] for name in _PLACE)].append(line)
    names = [column.name for column in COLUMNS]
    lines = [
        {name: record[name] for name in names}
        for place in places.values()
        for record in _beside(place)
    ]
    lines.sort(
        key=lambda record: (
            sort_key(record, _ORDER),
            record["model"] != record["smallest_model"],
            record["model"],
        )
    )
    return Table("models", "Models at increasing TP", COLUMNS, VIEWS, lines, LEGEND, EMPTY)


def _beside(place: list[Record]) -> list[Record]:
    """Lines of one node class, batch and lengths, with what the models are to each other."""
    least: dict[str, float] = defaultdict(lambda: math.inf)
    for line in place:
        if line["tpot_ms"] is not None:
            least[line["model"]] = min(least[line["model"]], line["tpot_ms"] * line["gpus"])
    smallest = min(least, key=lambda model: least[model], default=None)
    own = {_size(line): line["tpot_ms"] for line in place if line["model"] == smallest}
    return [_record(line, smallest, own.get(_size(line)), least) for line in place]


def _record(
    line: Record, smallest: str | None, beside: float | None, least: dict[str, float]
) -> Record:
    time, speedup = line["tpot_ms"], line["decode_speedup"]
    is_other = time is not None and line["model"] != smallest
    ideal = None if line["baseline_tp"] is None else line["tp"] / line["baseline_tp"]
    return {
        **line,
        "efficiency": None if speedup is None or not ideal else speedup / ideal,
        "smallest_model": smallest,
        "decode_ratio": time / beside if is_other and beside else None,
        "gpu_time_ratio": (
            time * line["gpus"] / least[smallest] if is_other and smallest is not None else None
        ),
    }


def _size(line: Record) -> tuple[object, ...]:
    """TP=1 has no all-reduce: its line stands beside every backend's."""
    layout = Layout.of(line)
    return layout, layout.backend(line["allreduce_backend"])
