"""``make bad-inputs``: try all bad inputs and faults, and write docs/generated/bad-input.md."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from tests.bad_input.case import Case, Report, copy_of, judge, make_template
from tests.bad_input.cases import CASES

PAGE = Path("docs/generated/bad-input.md")
TOGETHER = 4
LINE_LIMIT = 220
HEADER = """\
# Bad input and faults

Written by `make bad-inputs`. Each case runs
`snakemake --profile cluster/local --configfile sweep.yaml` in a copy of the project that already
has finished rows. *Output* is the telling line, verbatim; beyond {limit} characters its middle is
cut. *Finished rows* counts readable rows before and after.

| what was wrong | output | exit code | finished rows |
|---|---|---|---|
"""


def wrong_of(case: Case) -> str:
    """The first field of a case's line."""
    return _cell(case.wrong)


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("`", "'")


def line_of(report: Report) -> str:
    """A line of the table."""
    shown = report.line
    if len(shown) > LINE_LIMIT:  # the start names the cell, the end the cause
        shown = f"{shown[: LINE_LIMIT // 3]} ... {shown[-LINE_LIMIT * 2 // 3 :]}"
    rows = f"{report.before} -> {report.after}"
    return f"| {_cell(report.wrong)} | `{_cell(shown)}` | {report.code} | {rows} |\n"


def table(reports: Sequence[Report]) -> str:
    """The reports as Markdown."""
    return HEADER.format(limit=LINE_LIMIT) + "".join(map(line_of, reports))


@contextmanager
def start_all(
    cases: Sequence[Case], judge_one: Callable[[Case], Report]
) -> Iterator[dict[str, Future[Report]]]:
    """A context: reports to come, by name. Cases with an engine run one by one, after the others:
    beside them its start takes minutes."""
    quick, slow = [], []
    for case in cases:
        (slow if case.needs_vllm else quick).append(case)
    with ThreadPoolExecutor(TOGETHER) as many, ThreadPoolExecutor(1) as single:
        found = {case.name: many.submit(judge_one, case) for case in quick}
        single.submit(wait, list(found.values()))
        yield found | {case.name: single.submit(judge_one, case) for case in slow}


def run_all(cases: Sequence[Case], folder: Path) -> list[Report]:
    """Try the cases, some at a time, each in a project of its own below ``folder``."""
    template = make_template(folder / "template")

    def tried(case: Case) -> Report:
        report = judge(case, copy_of(template, folder / case.name))
        verdict = "; ".join(report.problems) or "good"
        print(f"{case.name}: {verdict}\n    {report.line[:LINE_LIMIT]}", flush=True)
        return report

    with start_all(cases, tried) as found:
        return [found[case.name].result() for case in cases]


def main() -> int:
    """Run all cases (or those named). Write the page if all went well, else return 1."""
    chosen = [case for case in CASES if not sys.argv[1:] or case.name in sys.argv[1:]]
    with tempfile.TemporaryDirectory(prefix="bad-input-") as folder:
        reports = run_all(chosen, Path(folder))
    if any(report.problems for report in reports):
        return 1
    if len(chosen) == len(CASES):
        PAGE.write_text(table(reports), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
