"""Bad inputs and faults that need vLLM, one by one: beside each other a start takes minutes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bad_input.cases import CASES
from tests.bad_input.trying import Tried, marks, trying

ALONE = [case for case in CASES if not case.tested_in and case.needs_vllm]


@pytest.fixture(scope="module")
def tried(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tried]:
    with trying(ALONE, request, tmp_path_factory.mktemp("bad_input")) as found:
        yield found


@pytest.mark.parametrize("name", [pytest.param(case.name, marks=marks(case)) for case in ALONE])
def test_it_is_one_line_and_loses_no_row(name: str, tried: Tried) -> None:
    report = tried[name].result()
    assert not report.problems, "\n".join([*report.problems, report.output[-4000:]])
