"""Table ``validity``: rows that were refused and why, and what differs inside each comparison.

A comparison is what ``tpsweep`` lays side by side: the TPs and replicas of one model on one node
class. Beside the TP nothing should differ in it; what does could explain the difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from tpsweep.results import Results
from tpsweep.row import BOOL, IDENTITY, INT, TEXT, Column
from tpsweep.tables.series import NO_ALLREDUCE, load_cells
from tpsweep.tables.table import (
    IDENTITY_VIEWS,
    Record,
    Table,
    View,
    digits,
    identity,
    sort_key,
    text,
)

WORKLOADS = ("latency", "throughput", "serve")
INVALID = "invalid"
_SUBJECT = (
    *("site", "gpu", "gpu_card", "model", "model_revision", "dtype", "weights", "vllm_version"),
    *("workload", "variant", "allreduce_backend"),
)
_PLACE = ("batch", "input_len", "output_len", "num_prompts", "request_rate", "max_concurrency")
CLOCK_SPREAD = 0.05
"""SM clocks of two TPs at one batch that differ by more are told: a GPU may have been throttled."""


@dataclass(frozen=True)
class Field:
    """A column of the rows that should be alike. ``parallel``: means something from TP=2 on."""

    column: str
    label: str
    parallel: bool = False


FIELDS = (
    Field("vllm_version_ran", "vLLM"),
    Field("torch_version", "torch"),
    Field("cuda_version", "CUDA"),
    Field("driver_version", "driver"),
    Field("nccl_version", "NCCL", parallel=True),
    Field("gpu_names", "GPUs"),
    Field("gpu_power_limit_w", "power limit (W)"),
    Field("gpu_mem_clock_mhz", "memory clock (MHz)"),
    Field("gpu_link", "link", parallel=True),
    Field("allreduce_backend_ran", "all-reduce that ran", parallel=True),
    Field("fusions_enabled", "fusions", parallel=True),
    Field("cpu_model", "processor"),
    Field("hostname", "node"),
    Field("tpsweep_version", "tpsweep"),
)
CLOCK = "gpu_sm_clock_mhz"
_IDENTITY = {column.name: column for column in IDENTITY}
COLUMNS = (
    Column("kind", TEXT, "refused: measured, and no row; differs; or alike: nothing differs"),
    *(_IDENTITY[name] for name in _SUBJECT),
    Column("tp", TEXT, "of the refused cell, or the TPs that are compared"),
    Column("what", TEXT, "the rule that was broken, or what differs"),
    Column("values", TEXT, "what was found, with the TPs that have it"),
    Column("could_explain", BOOL, "whether it could explain a difference; null if refused"),
    Column("cells", INT, "rows that were looked at; 1 if refused"),
    Column("cell_id", TEXT, "of the refused cell"),
    Column("synthetic", BOOL, "true: from made-up rows, never measured"),
)
_YES = {None: "", True: "yes", False: "no"}
_OTHERS = (
    *("GPUs", "TP", "Replicas", "Batch", "Requests", "Max in flight", "Data set"),
    *("Rate (requests/s)", "Input (tokens)", "Output (tokens)"),
)
VIEWS = (
    View("What", text("kind")),
    *(view for view in IDENTITY_VIEWS if view.heading not in _OTHERS),
    View("TP", text("tp")),
    View("Rule, or what differs", text("what")),
    View("Found", text("values")),
    View("Could explain a difference", lambda record: _YES[record["could_explain"]]),
    identity("Cells", "cells"),
)
LEGEND = (
    "Refused: measured, and against a rule of measuring (docs/measuring.md), so that there is no"
    " row. Differs: the rows of one comparison do not have it in common. SM clocks are told where"
    f" those of two TPs differ by over {CLOCK_SPREAD:.0%} at one batch: they follow the load, so"
    " that this may be a result and not its cause.",
)
EMPTY = "Nothing is measured yet."
_KINDS = ("refused", "differs", "alike")


def build(results: Results) -> Table:
    """Refused cells, then for every comparison what differs in it, or that nothing does."""
    cells = [cell for workload in WORKLOADS for cell in _cells(results, workload)]
    lines = [*_refused(results), *_compared(cells)]
    lines.sort(key=lambda line: (_KINDS.index(line["kind"]), sort_key(line, (*_SUBJECT, "what"))))
    return Table("validity", "Validity", COLUMNS, VIEWS, lines, LEGEND, EMPTY)


def _cells(results: Results, workload: str) -> Iterator[Record]:
    columns = tuple(field.column for field in FIELDS)
    return load_cells(results, workload, (*columns, CLOCK))


def _refused(results: Results) -> Iterator[Record]:
    for workload in (*WORKLOADS, "capture"):
        for cell in load_cells(results, workload, ()):
            if cell["state"] == "failed" and cell["failure_type"] == INVALID:
                rule, _, found = str(cell["reason"]).partition(": ")
                yield {
                    "kind": "refused",
                    **{name: cell[name] for name in _SUBJECT},
                    "tp": str(cell["tp"]),
                    "what": rule,
                    "values": found or None,
                    "could_explain": None,
                    "cells": 1,
                    "cell_id": cell["cell_id"],
                    "synthetic": False,
                }


def _compared(cells: list[Record]) -> Iterator[Record]:
    """TP=1 has no all-reduce: its cells stand in the comparison of every backend."""
    groups: dict[tuple[Any, ...], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        if cell["state"] == "measured":
            same = tuple(cell[name] for name in _SUBJECT if name != "allreduce_backend")
            groups[same][cell["allreduce_backend"]].append(cell)
    for same, by_backend in groups.items():
        single = by_backend.pop(NO_ALLREDUCE, [])
        for backend, found in (by_backend or {NO_ALLREDUCE: []}).items():
            yield from _group((*same, backend), [*single, *found])


def _group(key: tuple[Any, ...], cells: list[Record]) -> Iterator[Record]:
    common: Record = {
        **dict(zip(_SUBJECT, key, strict=True)),
        "tp": ", ".join(str(tp) for tp in sorted({cell["tp"] for cell in cells})),
        "cells": len(cells),
        "cell_id": None,
        "synthetic": any(cell["synthetic"] for cell in cells),
    }
    found = [(field.label, _values(cells, field)) for field in FIELDS]
    found.append(("SM clock (MHz)", _clocks(cells)))
    differing = [(label, values) for label, values in found if values]
    for label, values in differing:
        said = {"what": label, "values": values, "could_explain": label != "tpsweep"}
        yield {"kind": "differs", **common, **said}
    if not differing:
        yield {"kind": "alike", **common, "what": None, "values": None, "could_explain": False}


def _values(cells: list[Record], field: Field) -> str:
    """Each value with the TPs that have it; "" if there is one only. What is null is not known."""
    tps: dict[str, set[int]] = defaultdict(set)
    for cell in cells:
        value = _plain(cell[field.column])
        if value and (cell["tp"] > 1 or not field.parallel):
            tps[value].add(cell["tp"])
    if len(tps) < 2:
        return ""
    return "; ".join(
        f"{value} (TP={', '.join(str(tp) for tp in sorted(found))})" for value, found in tps.items()
    )


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return ", ".join(sorted({item if isinstance(item, str) else digits(item) for item in value}))


def _clocks(cells: list[Record]) -> str:
    """The batch or rate at which the SM clocks of two TPs differ most; "" if they do not."""
    places: dict[tuple[Any, ...], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        if cell[CLOCK] is not None and len(cell[CLOCK]):
            place = tuple(cell[name] for name in _PLACE)
            places[place][cell["tp"]].append(float(median(cell[CLOCK])))
    worst, said = CLOCK_SPREAD, ""
    for place, by_tp in places.items():
        clocks = {tp: float(median(values)) for tp, values in by_tp.items()}
        spread = max(clocks.values()) / min(clocks.values()) - 1 if min(clocks.values()) else 0.0
        if spread > worst:
            named = zip(_PLACE, place, strict=True)
            where = ", ".join(f"{name} {value}" for name, value in named if value is not None)
            each = "; ".join(f"{clock:.0f} (TP={tp})" for tp, clock in sorted(clocks.items()))
            worst, said = spread, f"at {where}: {each}"
    return said
