"""Bad inputs as tests: what is selected is tried together, and each test waits for its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bad_input.case import Case, Report, copy_of, judge, make_template
from tests.bad_input.table import start_all

Tried = dict[str, Future[Report]]


def marks(case: Case) -> list[pytest.MarkDecorator]:
    """What a case needs."""
    real = [pytest.mark.vllm] if case.needs_vllm else []
    root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
    return [*real, *([root] if case.needs_root else [])]


@contextmanager
def trying(cases: Sequence[Case], request: pytest.FixtureRequest, folder: Path) -> Iterator[Tried]:
    """A context: those of ``cases`` that pytest has selected, several at a time: a start of
    Snakemake is seconds on one core."""
    template = make_template(folder / "template")
    asked = (getattr(item, "callspec", None) for item in request.session.items)
    names = {spec.params.get("name") for spec in asked if spec}
    selected = [case for case in cases if case.name in names]
    with start_all(selected, lambda case: judge(case, copy_of(template, folder / case.name))) as it:
        yield it
