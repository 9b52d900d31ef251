"""The page's answers: the lab's four questions and five expectations, as two boxes."""

from __future__ import annotations

from collections.abc import Mapping

from tpsweep.analysis.table import Table
from tpsweep.core.workloads import CAPTURE, LATENCY
from tpsweep.lab.answers import answer_questions, check_expectations, lines_of
from tpsweep.report.boxes import Box, Part

LEGEND = (
    "The sentences are generated from the tables of this page, which have every number. An"
    " expectation holds in part if some of the measured batches and series keep it.",
)


def make_questions(tables: Mapping[str, Table], limit: int) -> Part:
    """Both boxes; at most ``limit`` sentences. None in a matrix without latency and captures."""
    if not any(cell["workload"] in (LATENCY, CAPTURE) for cell in tables["cells"].records):
        return Part([], "No latency or capture cells in the matrix.")
    lines = lines_of(tables)
    answers = [
        [answer.question if at == 0 else "", sentence]
        for answer in answer_questions(lines)
        for at, sentence in enumerate(answer.sentences)
    ]
    checks = [[c.expectation, c.verdict, c.numbers] for c in check_expectations(lines)]
    boxes = [
        Box("Questions", ["Question", "Answer"], answers[:limit]),
        Box("Expectations", ["Expectation", "Verdict", "Numbers"], checks),
    ]
    return Part(boxes, legend=LEGEND)
