"""Table ``machines``: what ran on what, a line per site, node class and number of GPUs, by rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from tpsweep.analysis.series import Source
from tpsweep.analysis.table import SYNTHETIC, Record, Table, View, digits, joined, text
from tpsweep.core.schema import FLOATS, INT, TEXT, TEXTS, Column

_DISTINCT = {
    "card": ("gpu_names", TEXTS, "the cards by NVML"),
    "promised_card": ("gpu_card", TEXTS, "the cards that the site promises"),
    "cpu": ("cpu_model", TEXTS, "processors of the nodes"),
    "link": ("gpu_link", TEXTS, "weakest links inside the groups of GPUs"),
    "power_limit_w": ("gpu_power_limit_w", FLOATS, "enforced power limits of the GPUs"),
    "driver_version": ("driver_version", TEXTS, "NVIDIA drivers"),
    "cuda_version": ("cuda_version", TEXTS, "CUDA that torch was built for"),
    "nccl_version": ("nccl_version", TEXTS, "from vLLM's log"),
    "vllm_version": ("vllm_version_ran", TEXTS, "vLLM that measured"),
    "torch_version": ("torch_version", TEXTS, "torch that measured"),
    "network": ("network", TEXTS, "what joins the nodes of an engine on several"),
    "allreduce_backend": ("allreduce_backend_ran", TEXTS, "all-reduce that ran, by vLLM's log"),
    "hostname": ("hostname", TEXTS, "names of the hosts"),
    "hosts": ("host", TEXTS, "hosts, told apart by their GPUs where their names are equal"),
    "gpu_uuids": ("gpu_uuids", TEXTS, "the GPUs that were used"),
}
"""Columns with what the rows of a line say: the row's column, the type, and what it holds."""
COLUMNS = (
    Column("site", TEXT, "name of the cluster or host"),
    Column("gpu", TEXT, "the site's name of the node class"),
    Column("gpus", INT, "GPUs that each engine holds"),
    *(Column(name, kind, f"{doc}; distinct") for name, (_, kind, doc) in _DISTINCT.items()),
    Column("nodes", INT, "nodes that hold the GPUs of an engine"),
    Column("engine_starts", INT, "engines that measured"),
    Column("cells", INT, "cells measured"),
    Column("first_day", TEXT, "UTC day of the first measurement"),
    Column("last_day", TEXT, "UTC day of the last measurement"),
    SYNTHETIC,
)
_DAYS = ("started_at", "ended_at")


def _listed(name: str, absent: str = "n/a") -> Callable[[Record], str]:
    return lambda record: joined(record[name]) or absent


def _cards(record: Record) -> str:
    """By NVML; without one what was promised, and the processor."""
    if record["card"]:
        return joined(record["card"])
    return ", ".join(words for name in ("promised_card", "cpu") if (words := joined(record[name])))


def _gpus(record: Record) -> str:
    """``4 on 2 nodes``."""
    several = f" on {record['nodes']} nodes" if record["nodes"] > 1 else ""
    return f"{record['gpus']}{several}"


def _links(record: Record) -> str:
    """Inside of a node, and between nodes."""
    inside = joined(record["link"]) or "none"
    return f"{inside}; {joined(record['network'])}" if record["network"] else inside


def _limits(record: Record) -> str:
    return joined(digits(watts) for watts in record["power_limit_w"]) or "n/a"


def days(record: Record) -> str:
    """First and last day of a record as text; empty if none is known."""
    return " to ".join(dict.fromkeys(d for d in (record["first_day"], record["last_day"]) if d))


VIEWS = (
    View("Site", text("site"), once=True),
    View("GPU class", text("gpu")),
    View("GPUs", _gpus),
    View("Cards", _cards),
    View("Link", _links),
    View("Power limit (W)", _limits),
    View("Driver", _listed("driver_version")),
    View("CUDA", _listed("cuda_version")),
    View("NCCL", _listed("nccl_version")),
    View("vLLM", _listed("vllm_version")),
    View("torch", _listed("torch_version")),
    View("All-reduce that ran", _listed("allreduce_backend")),
    View("Hosts", _listed("hosts")),
    View("Engine starts", text("engine_starts")),
    View("Cells", text("cells")),
    View("Measured (UTC)", lambda record: days(record) or "n/a"),
)
EMPTY = "Nothing is measured yet."


def build(source: Source) -> Table:
    """One line per site, node class and number of GPUs that has a row."""
    groups: dict[tuple[str, str, int], list[Record]] = defaultdict(list)
    for cell in source.cells:
        if cell["state"] == "measured":
            groups[cell["site"], cell["gpu"], cell["gpus"]].append(cell)
    lines = [_line(rows) for _, rows in sorted(groups.items())]
    return Table("machines", "Where it ran", COLUMNS, VIEWS, lines, empty=EMPTY)


def _line(rows: list[Record]) -> Record:
    found = {name: _distinct(row[of] for row in rows) for name, (of, _, _) in _DISTINCT.items()}
    dates = [row[name][:10] for row in rows for name in _DAYS if row[name]]
    return {
        **{name: rows[0][name] for name in ("site", "gpu", "gpus")},
        **found,
        **{name: sorted(found[name]) for name in ("hostname", "hosts", "gpu_uuids")},
        "nodes": max(row["nodes"] or 1 for row in rows),
        "engine_starts": len({row["engine_id"] for row in rows} - {None}),
        "cells": len(rows),
        "first_day": min(dates, default=None),
        "last_day": max(dates, default=None),
        "synthetic": any(row["synthetic"] for row in rows),
    }


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Of texts, and of lists their members, in the order of the rows."""
    found: dict[Any, None] = {}
    for value in values:
        if isinstance(value, str):
            found[value] = None
        elif value is not None:
            found.update(dict.fromkeys(value.tolist()))
    return list(found)
