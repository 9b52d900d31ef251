"""The page ``report.html`` of a results folder: one file that asks for nothing else."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tpsweep import tables
from tpsweep.analysis.table import Table
from tpsweep.core.atomic import replacing
from tpsweep.figures.files import write_figures
from tpsweep.lab.reference.compare_published import build, build_findings
from tpsweep.lab.reference.reading import ReferenceDataError, read_reference
from tpsweep.report.page import PAGE, render
from tpsweep.results.load import Results, ResultsError, load
from tpsweep.results.merge import load_all


def run_page(results: Path) -> int:
    """``tpsweep page``: writes the page, names it on stderr; exit code 0, or 2 without a manifest.

    An incomplete sweep is no error of this program: its page says so itself.
    """
    try:
        _write_page(results, load(results), results.resolve().name)
    except ResultsError as error:
        print(f"tpsweep page: {error}", file=sys.stderr)
        return 2
    print(f"tpsweep page: see {results / PAGE}", file=sys.stderr)
    return 0


def run(folders: Sequence[Path], output: Path | None = None, reference: Path | None = None) -> int:
    """``tpsweep report``: tables, figures and page of one or more folders, without Snakemake.

    They go to ``output``, or into the folder if there is one only. ``reference``: a data set of
    published figures; their tables are written, and shown in the page. Exit code 0, or 2.
    """
    if output is None and len(folders) > 1:
        said = "--output: missing, allowed: a folder for the tables and the page of several folders"
        print(f"tpsweep report: {said}", file=sys.stderr)
        return 2
    output = folders[0] if output is None else output
    try:
        published = None if reference is None else read_reference(reference)
        loaded = load_all(folders)
        output.mkdir(parents=True, exist_ok=True)
        summary = tables.write_tables(output, loaded)
        write_figures(output, loaded)
        beside = [] if published is None else [build(loaded, published), build_findings(published)]
        for table in beside:
            table.write(output / tables.FOLDER, tables.mark(loaded, summary))
        _write_page(output, loaded, " + ".join(folder.resolve().name for folder in folders), beside)
    except (ResultsError, ReferenceDataError) as error:
        print(f"tpsweep report: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"tpsweep report: {output}: {error.strerror or error}", file=sys.stderr)
        return 2
    print(f"tpsweep report: {summary}; see {output / PAGE}", file=sys.stderr)
    return 0


def _write_page(folder: Path, loaded: Results, name: str, beside: Sequence[Table] = ()) -> None:
    with replacing(folder / PAGE) as path:
        path.write_text(render(loaded, name, beside), "utf-8")
