"""The page ``report.html`` of a results folder: one file that asks for nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

from tpsweep import tables
from tpsweep.atomic import replacing
from tpsweep.reference.beside import build, build_findings
from tpsweep.reference.reading import ReferenceDataError, read_reference
from tpsweep.report.page import PAGE, render
from tpsweep.results import ResultsError, load


def run(results: Path, reference: Path | None = None) -> int:
    """The command: writes the page, names it on stderr; exit code 0, or 2 without a manifest.

    ``reference``: a data set of published figures; their tables are written, and shown in the page.

    An incomplete sweep is no error of this program: its page says so itself.
    """
    try:
        published = None if reference is None else read_reference(reference)
        loaded = load(results)
    except (ResultsError, ReferenceDataError) as error:
        print(f"tpsweep report: {error}", file=sys.stderr)
        return 2
    beside = [] if published is None else [build(loaded, published), build_findings(published)]
    for table in beside:
        table.write(results / tables.FOLDER, tables.mark(loaded, tables.summarise(loaded)))
    with replacing(results / PAGE) as path:
        path.write_text(render(loaded, results.resolve().name, beside), "utf-8")
    print(f"tpsweep report: see {results / PAGE}", file=sys.stderr)
    return 0
