"""Published rows to recommend from, and how they are asked; made-up searches on their engines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tpsweep.analysis.recommend.evidence import Evidence, gather
from tpsweep.analysis.recommend.inputs import Inputs
from tpsweep.analysis.recommend.offers import Answer, Candidates, answer
from tpsweep.analysis.recommend.question import Question, Traffic
from tpsweep.core.slo import Slo

ROOT = Path(__file__).parents[3]
ARCHIVE = ROOT / "tests" / "data" / "published" / "h200x2-one-engine.tar.xz"
EIGHT, SEVENTY = "llama-3.1-8b", "llama-3.1-70b"
SERVED, STATIC = Traffic(220, 190), Traffic(512, 64)
LOOSE, TIGHT, FAST = (
    Slo.parse(limits)
    for limits in (
        "ttft_p99_ms=500,tpot_p99_ms=50",
        "ttft_p99_ms=100,tpot_p99_ms=10",
        "ttft_p99_ms=60,tpot_p99_ms=6",
    )
)
Record = dict[str, Any]


def ask(inputs: Inputs, model: str, slo: Slo | None, rate: float | None, **more: Any) -> Answer:
    traffic = SERVED if model == EIGHT else STATIC
    evidence = gather(inputs.rows, model, traffic)
    candidates = Candidates(evidence, inputs.others(model), inputs.classes, inputs.shape(model))
    return answer(Question(model, traffic, rate, slo, **more), candidates)


def searched(row: Record, **columns: Any) -> Record:
    """A made-up row of the capacity workload, on the engine of a real row."""
    names = ("slo_names", "capacity_request_s", "capacity_upper_request_s", "capacity_verdicts")
    base = {**row, "workload": "capacity", "slos": json.dumps({"chat": LOOSE.by_name})}
    return (
        base
        | dict(zip(names, ([v] for v in ("chat", 70.0, 75.0, "bracket")), strict=True))
        | columns
    )


def evidence_of(rows: Iterable[Record]) -> Evidence:
    (found,) = gather(rows, EIGHT, SERVED).values()
    return found
