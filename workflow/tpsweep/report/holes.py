"""Sections of what has no row: failures one by one, the other cells grouped and counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from tpsweep.analysis.table import Record
from tpsweep.report.boxes import Box, Part, joined
from tpsweep.results.load import Results, records

NO_FAILURES = "No cell failed."
NO_HOLES = "Every cell of the matrix was planned and run."
_POINT = {
    "variant": "{}",
    "allreduce_backend": "all-reduce {}",
    "batch": "batch {}",
    "input_len": "{} in",
    "output_len": "{} out",
    "num_prompts": "{} requests",
    "request_rate": "{:g}/s",
    "max_concurrency": "at most {} in flight",
    "run": "run {}",
}


def make_failures(results: Results, limit: int) -> Part:
    """One line per failed cell, at most ``limit``, with their count by type above."""
    cells = {cell["cell_id"]: cell for cell in records(results.manifest)}
    failures = sorted(
        records(results.failures), key=lambda found: (found["type"], found["cell_id"])
    )
    if not failures:
        return Part([], NO_FAILURES)
    counts = Counter(found["type"] for found in failures)
    headings = ["Type", "Model", "GPU", "TP", "Workload", "Cell", "Message", "Log", "When (UTC)"]
    lines = [_failure_line(found, cells[found["cell_id"]]) for found in failures[:limit]]
    common = [(kind, str(count)) for kind, count in counts.most_common()]
    more = max(0, len(failures) - limit)
    box = Box("Failed cells", headings, lines, common)
    return Part([box], more=more, more_in="tables/cells.csv")


def make_holes(results: Results, limit: int) -> Part:
    """Cells that were not run, by state and reason."""
    groups: dict[tuple[Any, Any], list[Record]] = defaultdict(list)
    for cell in records(results.manifest):
        if cell["state"] not in ("measured", "failed"):
            groups[cell["state"], cell["reason"]].append(cell)
    if not groups:
        return Part([], NO_HOLES)
    lines = [
        [
            state,
            reason or ("not run yet" if state == "missing" else ""),
            str(len(cells)),
            *(joined(cell[name] for cell in cells) for name in ("model", "gpu", "tp", "workload")),
        ]
        for (state, reason), cells in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]
    headings = ["State", "Reason", "Cells", "Models", "GPU classes", "TP", "Workloads"]
    box = Box("Cells without a measurement", headings, lines[:limit])
    more = max(0, len(lines) - limit)
    return Part([box], more=more, more_in="tables/cells.csv")


def _failure_line(found: Record, cell: Record) -> list[str]:
    point = [form.format(cell[name]) for name, form in _POINT.items() if cell[name] is not None]
    message = str(found["message"] or "")
    return [
        str(found["type"]),
        cell["model"],
        cell["gpu"],
        str(cell["tp"]),
        cell["workload"],
        ", ".join(point),
        message if len(message) <= 500 else f"{message[:500]} ...",
        str(found["log"] or "none"),
        str(found["when"] or "")[:16].replace("T", " "),
    ]
