"""Bad inputs and faults that need vLLM, one by one: beside each other a start takes minutes.

``ALL_DEATHS=1`` and `make bad-inputs` also try a port that is taken twice, a minute of starts.
"""

from __future__ import annotations

import os

import pytest

from tests.bad_input.cases import CASES
from tests.bad_input.trying import Tried, marks

LONG = set() if os.environ.get("ALL_DEATHS") else {"port_in_use"}
ALONE = [case for case in CASES if not case.tested_in and case.needs_vllm and case.name not in LONG]


@pytest.mark.parametrize("name", [pytest.param(case.name, marks=marks(case)) for case in ALONE])
def test_it_is_one_line_and_loses_no_row(name: str, tried: Tried) -> None:
    report = tried[name].result()
    assert not report.problems, "\n".join([*report.problems, report.output[-4000:]])
