"""Table ``expected``: each latency row beside what was expected of it, and what to look for.

The expectation stands in the manifest (``tpsweep.plan.expectation``); ratios are measured /
expected.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache

from tpsweep import row
from tpsweep.expect_constants import document
from tpsweep.results import Results, records
from tpsweep.row import BOOL, FLOAT, TEXT, Column
from tpsweep.tables.table import (
    IDENTITY_VIEWS,
    Record,
    Table,
    View,
    digits,
    figure,
    identity,
    sort_key,
    text,
)

_FIGURES = {column.name: column for column in row.FIGURES}
_INTERVALS = ("tpot_ms", "tpot_ms_lo", "tpot_ms_hi", "prefill_ms", "prefill_ms_lo", "prefill_ms_hi")
COLUMNS = (
    *row.IDENTITY,
    Column("state", TEXT, "measured, failed, missing, infeasible or excluded"),
    Column("reason", TEXT, "why there is no row"),
    *(_FIGURES[name] for name in _INTERVALS),
    Column("expected_tpot_ms", FLOAT, "by docs/expectation.md, never measured"),
    Column("tpot_ratio", FLOAT, "decode, measured / expected"),
    Column("expected_prefill_ms", FLOAT, "by docs/expectation.md, never measured"),
    Column("prefill_ratio", FLOAT, "prefill, measured / expected"),
    Column("flag", TEXT, "what is off by more than the factor of the legend, and what to look for"),
    Column("note", TEXT, "why nothing is expected"),
    Column("synthetic", BOOL, "true: from made-up rows, never measured"),
)
NA = "n/a"
VIEWS = (
    *IDENTITY_VIEWS,
    identity("Run", "run"),
    View("State", text("state")),
    View("Reason", text("reason"), once=True),
    View("Decode (ms/token)", figure("tpot_ms", NA)),
    View("Expected (ms)", figure("expected_tpot_ms", NA)),
    View("Decode / expected", figure("tpot_ratio", NA)),
    View("Prefill (ms)", figure("prefill_ms", NA)),
    View("Prefill expected (ms)", figure("expected_prefill_ms", NA)),
    View("Prefill / expected", figure("prefill_ratio", NA)),
    View("Look", text("flag"), once=True),
    View("Note", text("note"), once=True),
)
EMPTY = "No latency cells in the matrix."
_ORDER = tuple(name for name in row.IDENTITY_NAMES if name != "cell_id")
_FROM_ROW = (*_INTERVALS, "prefill_chunked", "engine_args", "gpu_names", "tp_ran", "synthetic")
_EXPECTED = ("expected_prefill_ms", "expected_tpot_ms", "expectation_note")
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
        "Expected is what docs/expectation.md's formulas say of card, model and batch: never"
        " measured, and beyond 8B and 70B on H200 an extrapolation."
        f" A line is flagged if decode is off by more than {limit('factor'):g} times in either"
        f" direction, or a prefill that should take {limit('prefill_from_ms'):g} ms or more.",
    )


def build(results: Results) -> Table:
    """One line per latency cell of the manifest, measured or not."""
    rows = results.rows[results.rows["workload"] == "latency"]
    by_id = {line["cell_id"]: line for line in records(rows, ("cell_id", *_FROM_ROW))}
    manifest = results.manifest[results.manifest["workload"] == "latency"]
    cells = records(manifest, (*row.IDENTITY_NAMES, "state", "reason", *_EXPECTED))
    at_tp: dict[tuple[object, ...], dict[int, float]] = defaultdict(dict)
    for cell in cells:
        if cell["expected_tpot_ms"] is not None:
            at_tp[_setting(cell)][cell["tp"]] = cell["expected_tpot_ms"]
    lines = [_line(cell, by_id.get(cell["cell_id"]), at_tp[_setting(cell)]) for cell in cells]
    lines.sort(key=lambda line: sort_key(line, _ORDER))
    return Table("expected", "Expected and measured", COLUMNS, VIEWS, lines, legend(), EMPTY)


def _setting(cell: Record) -> tuple[object, ...]:
    return tuple(cell[name] for name in row.IDENTITY_NAMES if name not in _OF_TP)


def _line(cell: Record, measured: Record | None, at_tp: dict[int, float]) -> Record:
    line: Record = {**dict.fromkeys(column.name for column in COLUMNS), "synthetic": False}
    line |= {name: value for name, value in cell.items() if name in line}
    line["note"] = cell["expectation_note"]
    if cell["expected_tpot_ms"] is None and not line["note"] and cell["state"] == "measured":
        line["note"] = OLD if cell["expected_prefill_ms"] is None else None
    if measured is None:
        return line
    line |= {name: measured[name] for name in _INTERVALS}
    line["synthetic"] = bool(measured["synthetic"])
    for name in ("tpot", "prefill"):
        found, wanted = measured[f"{name}_ms"], cell[f"expected_{name}_ms"]
        line[f"{name}_ratio"] = found / wanted if found is not None and wanted else None
    line["flag"] = "; ".join(_flags(line, measured, at_tp)) or None
    return line


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
