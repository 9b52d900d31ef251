"""Table ``expected``: each row beside what was expected of it, and what to look for.

The expectation is in the manifest (``tpsweep.perfmodel.cell_time``); ratios are measured /
expected. Decode is expected of latency and serve cells, prefill of latency cells, seconds of all.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from functools import cache

from tpsweep.analysis.series import Source
from tpsweep.analysis.table import (
    CELL_HEAD,
    CELL_VIEWS,
    IDENTITY_ORDER,
    NA,
    NOTE,
    SYNTHETIC,
    Record,
    Table,
    View,
    digits,
    figure,
    labels_of,
    sort_records,
    text,
)
from tpsweep.core import schema
from tpsweep.core.schema import FLOAT, TEXT, Column
from tpsweep.core.workloads import LATENCY, SERVE
from tpsweep.perfmodel.constants import document

_FIGURES = {column.name: column for column in schema.FIGURES}
_INTERVALS = ("tpot_ms", "tpot_ms_lo", "tpot_ms_hi", "prefill_ms", "prefill_ms_lo", "prefill_ms_hi")
COLUMNS = (
    *CELL_HEAD,
    *(_FIGURES[name] for name in _INTERVALS),
    Column("expected_tpot_ms", FLOAT, "by docs/expectation.md, never measured"),
    Column("tpot_ratio", FLOAT, "decode, measured / expected"),
    Column("expected_prefill_ms", FLOAT, "by docs/expectation.md, never measured"),
    Column("prefill_ratio", FLOAT, "prefill, measured / expected"),
    Column("seconds", FLOAT, "from the first warm-up to the end of the last repeat"),
    Column("expected_s", FLOAT, "by docs/plan.md, never measured"),
    Column("seconds_ratio", FLOAT, "measured / expected; never flagged"),
    Column("flag", TEXT, "what is off by more than the factor of the legend, and what to look for"),
    Column("note", TEXT, "reason why there is no expectation"),
    SYNTHETIC,
)
VIEWS = (
    *CELL_VIEWS,
    View("Decode (ms/token)", figure("tpot_ms", NA)),
    View("Expected (ms)", figure("expected_tpot_ms", NA)),
    View("Decode / expected", figure("tpot_ratio", NA)),
    View("Prefill (ms)", figure("prefill_ms", NA)),
    View("Prefill expected (ms)", figure("expected_prefill_ms", NA)),
    View("Prefill / expected", figure("prefill_ratio", NA)),
    View("Cell (s)", figure("seconds", NA)),
    View("Cell expected (s)", figure("expected_s", NA)),
    View("Cell / expected", figure("seconds_ratio", NA)),
    View("Look", text("flag"), once=True),
    NOTE,
)
EMPTY = "The matrix is empty."
_TIMES = ("started_at", "ended_at")
_SERVED = "tpot_p50_ms"
"""What a serve row has in the place of ``tpot_ms``."""
_WANTED = ("expected_prefill_ms", "expected_tpot_ms", "expected_s")
_OF_TP = ("cell_id", "tp", "gpus", "allreduce_backend", "run")
"""What tells cells of one setting at different TP apart."""
SLOWER = "another GPU, throttling, eager mode, TP not applied, work of others"
FASTER = "another GPU or dtype, fewer tokens, prompts from the prefix cache"
OLD = "an older manifest, without expectations: the next run of the sweep writes a new one"


@cache
def limit(name: str) -> float:
    """A limit of the flags, from data/expectation.yaml."""
    return float(document()["flags"][name]["value"])


def legend() -> tuple[str, ...]:
    """What the ratios mean and when a line is flagged."""
    return (
        "Expected: computed from card, model and batch (docs/expectation.md), never"
        " measured, and beyond 8B and 70B on H200 an extrapolation."
        f" A line is flagged if decode is off by more than {limit('factor'):g} times in either"
        f" direction, or a prefill that should take {limit('prefill_from_ms'):g} ms or more.",
        "Of serving, decode is TPOT p50 at the offered rate, or at saturation; near that a small"
        " error of a step is a large one of TPOT: nothing is flagged. Seconds are by docs/plan.md,"
        " without what profilers cost.",
    )


def build(source: Source) -> Table:
    """One line per cell of the manifest, measured or not."""
    at_tp: dict[tuple[object, ...], dict[int, float]] = defaultdict(dict)
    for cell in source.cells:
        if cell["expected_tpot_ms"] is not None and cell["workload"] == LATENCY:
            at_tp[_setting(cell)][cell["tp"]] = cell["expected_tpot_ms"]
    lines = [_line(cell, at_tp[_setting(cell)]) for cell in source.cells]
    sort_records(lines, IDENTITY_ORDER)
    return Table("expected", "Expected and measured", COLUMNS, VIEWS, lines, legend(), EMPTY)


def _setting(cell: Record) -> tuple[object, ...]:
    return tuple(cell[name] for name in schema.IDENTITY_NAMES if name not in _OF_TP)


def _line(cell: Record, at_tp: dict[int, float]) -> Record:
    line: Record = {**dict.fromkeys(column.name for column in COLUMNS), "synthetic": False}
    line |= {name: cell[name] for name in (*schema.IDENTITY_NAMES, "state", "reason", *_WANTED)}
    line |= labels_of(cell)
    line["note"] = cell["expectation_note"]
    nothing = all(cell[name] is None for name in _WANTED)
    if cell["state"] == "measured" and not line["note"] and nothing:
        line["note"] = OLD
    if cell["state"] != "measured":
        return line
    line |= {name: cell[name] for name in _INTERVALS}
    is_served = cell["workload"] == SERVE
    if is_served:
        line["tpot_ms"] = cell[_SERVED]
    line["synthetic"] = bool(cell["synthetic"])
    line["seconds"] = _seconds(cell)
    if line["seconds"] is not None and cell["expected_s"]:
        line["seconds_ratio"] = line["seconds"] / cell["expected_s"]
    for name in ("tpot", "prefill"):
        found, wanted = line[f"{name}_ms"], cell[f"expected_{name}_ms"]
        line[f"{name}_ratio"] = found / wanted if found is not None and wanted else None
    line["flag"] = None if is_served else "; ".join(_flags(line, cell, at_tp)) or None
    return line


def _seconds(measured: Record) -> float | None:
    began, ended = (measured[name] for name in _TIMES)
    if began is None or ended is None:
        return None
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()


def _flags(line: Record, measured: Record, at_tp: dict[int, float]) -> list[str]:
    factor, found = limit("factor"), []
    wanted = line["expected_prefill_ms"] or 0
    for name, what in (("tpot", "decode"), ("prefill", "prefill")):
        ratio = line[f"{name}_ratio"]
        if ratio is None or 1 / factor <= ratio <= factor:
            continue
        if name == "prefill" and wanted < limit("prefill_from_ms"):
            continue
        seen = _seen(line, measured)
        if name == "tpot":
            seen += _as_at(line, at_tp)
        elif measured["prefill_chunked"]:
            seen.append("the prefill went in chunks")
        causes = ", ".join(seen) or f"look for {SLOWER if ratio > 1 else FASTER}"
        found.append(f"{what} is {digits(ratio)} x what is expected: {causes}")
    return found


def _seen(line: Record, measured: Record) -> list[str]:
    """What the row itself says that could be the cause."""
    seen = []
    if '"enforce_eager": true' in (measured["engine_args"] or ""):
        seen.append("eager mode, which the host bounds, and hosts differ")
    others = sorted({*(measured["gpu_names"] if measured["gpu_names"] is not None else [])})
    if others and others != [line["gpu_card"]]:
        seen.append(f"the GPUs are {', '.join(others)}")
    if measured["tp_ran"] is not None and measured["tp_ran"] != line["tp"]:
        seen.append(f"TP={measured['tp_ran']} ran")
    return seen


def _as_at(line: Record, at_tp: dict[int, float]) -> list[str]:
    """The TPs at which this decode time would be as expected."""
    near = limit("as_of_another_tp")
    alike = [
        tp
        for tp, wanted in sorted(at_tp.items())
        if tp != line["tp"] and abs(line["tpot_ms"] / wanted - 1) <= near
    ]
    return [f"it is what TP={tp} should take: TP not applied?" for tp in alike]
