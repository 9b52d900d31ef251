"""What the page's choice answers from: the table ``choices`` as data for its script.

The answers themselves are ``templates/recommend.js``; it orders and words them as
``analysis.recommend`` does, from the same numbers.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from tpsweep.analysis.recommend.evidence import EXPECTED, RATES, SEARCHED
from tpsweep.analysis.recommend.expected import HALF
from tpsweep.analysis.recommend.question import COST, GPUS
from tpsweep.analysis.recommend.text import (
    UNEVEN,
    errors_of,
    published_errors,
    ttft_errors,
    warnings_of,
)
from tpsweep.analysis.table import Record, Table, model_name
from tpsweep.core.slo import GOODPUT, LIMITS, OF_REQUESTS, Slo
from tpsweep.core.workloads import CAPACITY, SERVE
from tpsweep.perfmodel.constants import document
from tpsweep.tables import Summary

Data = dict[str, Any]


def choices_of(table: Table, folder: str, cells: Sequence[Record]) -> Data:
    """Models with their engines; ``models`` is empty if nothing can be asked. ``cells``: of the
    sweep; those that are missing could tell more."""
    by_model: dict[str, list[Record]] = defaultdict(list)
    for line in table.records:
        by_model[line["model"]].append(line)
    seen = document()["serving_seen"]
    is_priced = any(line["gpu_hour_usd"] for line in table.records)
    return {
        "folder": folder,
        "uneven": UNEVEN,
        "ttft_is_low": ttft_errors(),
        "ttft_shares": [seen["ttft_p99_half"], seen["ttft_p99_most"]],
        "half": HALF,
        "names": [*LIMITS, *OF_REQUESTS],
        "percentiles": len(LIMITS),
        "share": GOODPUT,
        "objective": COST if is_priced else GPUS,
        "models": [_model(name, lines) | _missing(name, cells) for name, lines in by_model.items()],
    }


def _missing(model: str, cells: Sequence[Record]) -> Data:
    """Cells without a row that would show the model's served load; whether any is without one."""
    served = Summary.of(
        cell["state"]
        for cell in cells
        if cell["model"] == model and cell["workload"] in (SERVE, CAPACITY)
    )
    every = Summary.of(cell["state"] for cell in cells)
    return {"missing": served.planned - served.measured, "is_incomplete": not every.complete}


def _model(name: str, lines: list[Record]) -> Data:
    first = lines[0]
    engines: dict[int, list[Record]] = defaultdict(list)
    for line in lines:
        engines[line["engine"]].append(line)
    expected = [line for line in lines if line["known"] == EXPECTED]  # one of each engine
    slos = [Slo.of(key, limits) for key, limits in json.loads(first["slos"]).items()]
    errors = [error for line in expected for error in line["tpot_errors"]]
    used = [{**line, "weights": known} for line in expected for known in line["weights"]]
    return {
        "name": name,
        "label": model_name(first),
        "input": first["input_len"],
        "output": first["output_len"],
        "slos": [{"name": slo.name, "limits": slo.limits, "words": slo.words} for slo in slos],
        "rows": sum(line["rows"] for line in expected),
        "starts": len({start for line in expected for start in line["engine_ids"]}),
        "errors": errors_of(errors) or published_errors(),
        "warnings": [*warnings_of(used)],
        "engines": [_engine(own) for own in engines.values()],
    }


def _engine(lines: list[Record]) -> Data:
    """``rates``: measured; ``searches``: by their limits; ``expected``: its loads."""
    of = {line["known"]: line for line in lines}
    last = of[EXPECTED]
    names = ("layout", "place", "gpu", "gpus", "nodes", "per_node", "gpu_hour_usd")
    return {
        **{name: last[name] for name in names},
        "rates": _rates(of[RATES]) if RATES in of else [],
        "searches": [_search(line) for line in lines if line["known"] == SEARCHED],
        "expected": _points(last),
        "problem": last["problem"],
        "busy_from": last["busy_from_request_s"],
    }


def _rates(line: Record) -> list[Data]:
    columns = ("rate_starts", "saturated", "unsure", "watts")
    return [
        point
        | {name.removeprefix("rate_"): line[name][at] for name in columns}
        | {"unknown": line["unknown"][at].split()}
        for at, point in enumerate(_points(line))
    ]


def _search(line: Record) -> Data:
    found = {name: line[f"{name}_request_s"] for name in ("capacity", "fails_at")}
    own = {"limits": Slo.of("", json.loads(line["slo_limits"])).limits, "rates": _points(line)}
    return found | own | {name: line[name] for name in ("slo", "starts", "remarks")}


def _points(line: Record) -> list[Data]:
    """Percentiles in the order of ``LIMITS``."""
    return [
        {"rate": rate, "ms": [line[name][at] for name in LIMITS]}
        for at, rate in enumerate(line["request_rates"])
    ]
