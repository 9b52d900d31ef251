"""Every bad input and fault: one line, an exit code that is not 0, no finished row lost."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.bad_input.case import Case, Report, copy_of, judge, make_template
from tests.bad_input.cases import CASES
from tests.bad_input.table import PAGE, start_all, wrong_of

ROOT = Path(__file__).resolve().parents[2]
BY_NAME = {case.name: case for case in CASES}
ALONE = [case for case in CASES if not case.tested_in]
Tried = dict[str, Future[Report]]


def marks(case: Case) -> list[pytest.MarkDecorator]:
    real = [pytest.mark.vllm] if case.needs_vllm else []
    root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
    return [*real, *([root] if case.needs_root else [])]


@pytest.fixture(scope="module")
def tried(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tried]:
    """The selected cases, several at a time: a start of Snakemake is seconds on one core."""
    folder = tmp_path_factory.mktemp("bad_input")
    template = make_template(folder / "template")
    asked = (getattr(item, "callspec", None) for item in request.session.items)
    names = {spec.params.get("name") for spec in asked if spec} & set(BY_NAME)
    selected = [case for case in CASES if case.name in names]
    with start_all(
        selected, lambda case: judge(case, copy_of(template, folder / case.name))
    ) as all_:
        yield all_


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
    assert len(BY_NAME) == len(CASES) == len({case.wrong for case in CASES})
