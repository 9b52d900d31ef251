"""Table ``cost``: what a model on a node class was planned to cost, and what it took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from tpsweep.analysis.series import Source
from tpsweep.analysis.table import (
    SYNTHETIC,
    Record,
    Table,
    View,
    figure,
    identity,
    model_name,
    text,
)
from tpsweep.core.manifest import MODEL_LABEL
from tpsweep.core.schema import FLOAT, INT, START_PHASES, TEXT, Column
from tpsweep.core.workloads import LATENCY, THROUGHPUT
from tpsweep.perfmodel.cell_time import cost

COLUMNS = (
    Column("site", TEXT, "name of the cluster or host"),
    Column("gpu", TEXT, "the site's name of the node class"),
    Column("gpu_card", TEXT, "the card that the site file names for it"),
    Column("gpus", INT, "GPUs that each engine holds"),
    Column("model", TEXT, "the model's name in the config"),
    MODEL_LABEL,
    Column("cells", INT, "planned cells"),
    Column("sessions", INT, "engines that they need; more starts only if a session is split"),
    Column("at_limit", INT, "cells without an expected time, counted with their time limit"),
    Column("gpu_h", FLOAT, "expected: GPUs x time, cells that share an engine in one session"),
    Column("gpu_h_unpacked", FLOAT, "expected with one engine start per cell"),
    Column("saving", FLOAT, "gpu_h_unpacked / gpu_h"),
    Column("cells_measured", INT, "cells that have a row"),
    Column("sessions_taken", INT, "sessions that made these rows"),
    Column("gpu_h_taken", FLOAT, "measured: from engine start to the last row of each session"),
    Column(
        "gpu_h_floor", FLOAT, "measured: each session's engine start, and its cells' kept repeats"
    ),
    Column("floor_ratio", FLOAT, "gpu_h_taken / gpu_h_floor"),
    Column("gpu_h_taken_unpacked", FLOAT, "gpu_h_taken with one engine start per cell"),
    Column("saving_taken", FLOAT, "gpu_h_taken_unpacked / gpu_h_taken"),
    Column("starts", INT, "engine starts that made these rows"),
    Column("start_s", FLOAT, "median of their engine_start_s"),
    *(Column(c.name, FLOAT, f"median of the starts: {c.doc}") for c in START_PHASES),
    SYNTHETIC,
)
VIEWS = (
    identity("Site", "site"),
    identity("GPU", "gpu"),
    identity("Card", "gpu_card"),
    View("Model", model_name, once=True),
    View("GPUs", text("gpus")),
    View("Cells", text("cells")),
    View("Engines", text("sessions")),
    View("Cells without expectation", text("at_limit")),
    View("Expected (GPU h)", figure("gpu_h", "n/a")),
    View("With one start per cell (GPU h)", figure("gpu_h_unpacked", "n/a")),
    View("Saving (factor)", figure("saving", "n/a")),
    View("Cells measured", text("cells_measured")),
    View("Sessions", text("sessions_taken")),
    View("Taken (GPU h)", figure("gpu_h_taken", "n/a")),
    View("Over floor (factor)", figure("floor_ratio", "n/a")),
    View("Saved by sharing (factor)", figure("saving_taken", "n/a")),
    View("Starts", text("starts")),
    View("Start (s)", figure("start_s", "n/a")),
    View("Imports (s)", figure("start_imports_s", "n/a")),
    View("Processes (s)", figure("start_processes_s", "n/a")),
    View("Weights (s)", figure("start_weights_s", "n/a")),
    View("Compile or load (s)", figure("start_compile_s", "n/a")),
    View("Graph capture (s)", figure("start_graphs_s", "n/a")),
    View("KV profile, warm-up (s)", figure("start_kv_s", "n/a")),
    View("Server, client (s)", figure("start_http_s", "n/a")),
)
LEGEND = (
    "Expected: by docs/plan.md, never measured. Taken is what the existing rows say about"
    " their sessions: engine starts and measurements, without failed attempts and preflights.",
    "The floor is one engine start per session and the kept repeats. Warm-ups, the cross-check with"
    " one output token, repeats for the energy alone and everything between cells are above it."
    " Saved by sharing: taken, had each of these cells had an engine start of its own, as long as"
    " its session's.",
    "Seconds of a start, medians of the starts: imports until vLLM is there; vLLM's processes with"
    " their own imports; what vLLM's log says of weights, torch.compile (or loading its cache),"
    " CUDA graphs and the rest of its initialization; server and load generator. n/a: it is not in"
    " the log, and part of the phase before.",
)
EMPTY = "Nothing is planned, or the manifest is an older one without expectations."
_CLASS = ("model", "gpu", "gpus")
_TIMES = ("started_at", "measured_at", "ended_at")
_TIMED = (LATENCY, THROUGHPUT)
"""Workloads whose rows have the wall time of each kept repeat."""


@dataclass(frozen=True)
class Spent:
    """Seconds of a session: from engine start to its last row, at least, with a start per cell."""

    taken: float
    floor: float
    unpacked: float


def build(source: Source) -> Table:
    """One line per model, node class and number of GPUs."""
    planned: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for cell in source.cells:
        if cell["status"] == "planned" and cell["expected_start_s"] is not None:
            planned[tuple(cell[name] for name in _CLASS)].append(cell)
    taken: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for cell in source.cells:
        if cell["state"] == "measured":
            taken[tuple(cell[name] for name in _CLASS)].append(cell)
    lines = [_line(cells, taken.get(key, [])) for key, cells in sorted(planned.items())]
    return Table("cost", "Cost: planned and taken", COLUMNS, VIEWS, lines, LEGEND, EMPTY)


def _line(cells: list[Record], rows: list[Record]) -> Record:
    first, end = cells[0], cost("session_end_s")
    work = sum(_seconds(cell) for cell in cells)
    starts = {cell["session"]: cell["expected_start_s"] + end for cell in cells}
    packed = sum(starts.values()) + work
    alone = sum(cell["expected_start_s"] + end for cell in cells) + work
    sessions = _sessions(rows)
    spent = [spent_by(found) for found in sessions.values()]
    hours = first["gpus"] / 3600
    return {
        **{name: first[name] for name in ("site", "gpu", "gpu_card", "gpus", "model")},
        "model_label": first["model_label"],
        "cells": len(cells),
        "sessions": len(starts),
        "at_limit": sum(cell["expected_s"] is None for cell in cells),
        "gpu_h": hours * packed,
        "gpu_h_unpacked": hours * alone,
        "saving": alone / packed,
        "cells_measured": len(rows),
        "sessions_taken": len(sessions),
        **_taken([one for one in spent if one], hours, is_known=bool(rows) and None not in spent),
        **_starts(rows),
        "synthetic": any(row["synthetic"] for row in rows),
    }


def _starts(rows: list[Record]) -> Record:
    """The engine starts that made rows, each counted once: median of all, and of its parts."""
    starts = {row["engine_id"]: row for row in rows if row.get("engine_id")}.values()

    def median(name: str) -> float | None:
        known = [row[name] for row in starts if row.get(name) is not None]
        return float(np.median(known)) if known else None

    middles = {column.name: median(column.name) for column in START_PHASES}
    return {"starts": len(starts), "start_s": median("engine_start_s"), **middles}


def _seconds(cell: Record) -> float:
    known = cell["expected_s"]
    return float(60 * (cell["minutes"] or 0) if known is None else known)


def _sessions(rows: list[Record]) -> dict[Any, list[Record]]:
    found: dict[Any, list[Record]] = defaultdict(list)
    for row in rows:
        found[row["session_id"]].append(row)
    return found


def _taken(spent: list[Spent], hours: float, *, is_known: bool) -> Record:
    if not is_known:
        names = ("gpu_h_taken", "gpu_h_floor", "floor_ratio", "gpu_h_taken_unpacked")
        return dict.fromkeys((*names, "saving_taken"))
    taken, floor, unpacked = (
        sum(getattr(one, name) for one in spent) for name in ("taken", "floor", "unpacked")
    )
    return {
        "gpu_h_taken": hours * taken,
        "gpu_h_floor": hours * floor,
        "floor_ratio": taken / floor if floor else None,
        "gpu_h_taken_unpacked": hours * unpacked,
        "saving_taken": unpacked / taken if taken else None,
    }


def spent_by(rows: Sequence[Record]) -> Spent | None:
    """What a session took by its rows; None if they do not say."""
    if any(row[name] is None for row in rows for name in _TIMES):
        return None
    began = min(_time(row["started_at"]) for row in rows)
    ended = max(_time(row["ended_at"]) for row in rows)
    start = max((row["engine_start_s"] or 0.0 for row in rows), default=0.0)
    taken = start + (ended - began).total_seconds()
    floor = start + sum(_kept_s(row) for row in rows)
    return Spent(taken, floor, taken + (len(rows) - 1) * start)


def _kept_s(row: Record) -> float:
    """Seconds of a cell's kept repeats; where they are not timed one by one, of all after warm-up.

    What else comes after the warm-ups (the cross-check, repeats for the energy) is not needed to
    get the row's values.
    """
    if row["workload"] in _TIMED and row["e2e_ms_samples"] is not None:
        return float(sum(row["e2e_ms_samples"])) / 1e3
    return (_time(row["ended_at"]) - _time(row["measured_at"])).total_seconds()


def _time(when: str) -> datetime:
    return datetime.fromisoformat(when)
