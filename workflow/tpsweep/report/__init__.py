"""The page ``report.html`` of a results folder: one file that asks for nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

from tpsweep.atomic import replacing
from tpsweep.report.page import PAGE, render
from tpsweep.results import ResultsError, load


def run(results: Path) -> int:
    """The command: writes the page, names it on stderr; exit code 0, or 2 without a manifest.

    An incomplete sweep is no error of this program: its page says so itself.
    """
    try:
        loaded = load(results)
    except ResultsError as error:
        print(f"tpsweep report: {error}", file=sys.stderr)
        return 2
    with replacing(results / PAGE) as path:
        path.write_text(render(loaded, results.resolve().name), "utf-8")
    print(f"tpsweep report: see {results / PAGE}", file=sys.stderr)
    return 0
