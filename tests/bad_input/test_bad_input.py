"""Every bad input and fault: one line, an exit code that is not 0, no finished row lost.

Those that start an engine are in test_with_engine.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.bad_input.cases import CASES
from tests.bad_input.table import PAGE, wrong_of
from tests.bad_input.trying import Tried, marks

ROOT = Path(__file__).resolve().parents[2]
ALONE = [case for case in CASES if not case.tested_in and not case.needs_vllm]


@pytest.mark.parametrize("name", [pytest.param(case.name, marks=marks(case)) for case in ALONE])
def test_it_is_one_line_and_loses_no_row(name: str, tried: Tried) -> None:
    report = tried[name].result()
    assert not report.problems, "\n".join([*report.problems, report.output[-4000:]])


def test_the_others_are_tried_by_a_test_that_is_there() -> None:
    elsewhere = [case.tested_in.split("::") for case in CASES if case.tested_in]
    assert elsewhere
    for path, name in elsewhere:
        assert f"def {name}(" in (ROOT / path).read_text("utf-8")


def test_the_page_has_exactly_these_cases() -> None:
    lines = (ROOT / PAGE).read_text("utf-8").splitlines()
    rows = [line for line in lines if re.match(r"\| (?!what was wrong|---)", line)]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(map(wrong_of, CASES))


def test_names_are_unique() -> None:
    names = {case.name for case in CASES}
    assert len(names) == len(CASES) == len({case.wrong for case in CASES})
