"""``tpsweep report``: tables, figures and page of results folders, without Snakemake."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tpsweep import tables
from tpsweep.analysis.builder import read_tables
from tpsweep.analysis.table import TableError
from tpsweep.cli import page
from tpsweep.cli.tables import BUILDERS
from tpsweep.figures import files
from tpsweep.lab import builders as lab
from tpsweep.lab.reference import SHIPPED
from tpsweep.lab.reference.reading import ReferenceDataError, read_reference
from tpsweep.report.page import PAGE
from tpsweep.results.load import ResultsError
from tpsweep.results.merge import load_all


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("results", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--output", type=Path, help="output folder; required with several DIR")
    parser.add_argument(
        "--reference",
        type=Path,
        nargs="?",
        const=SHIPPED,
        metavar="CSV",
        help="compare with published numbers; without CSV, those shipped with tpsweep",
    )


def call(options: argparse.Namespace) -> int:
    """Run the command on its arguments."""
    return run(options.results, options.output, options.reference)


def run(folders: Sequence[Path], output: Path | None = None, reference: Path | None = None) -> int:
    """Build the tables of one or more folders once; figures and page from the tables' files.

    They go to ``output``, or into the folder itself if only one is given. ``reference``: a data set
    of published figures; their tables are written and shown in the page. Returns 0, or 2.
    """
    if output is None and len(folders) > 1:
        told = "--output: missing, allowed: a folder for the tables and the page of several folders"
        print(f"tpsweep report: {told}", file=sys.stderr)
        return 2
    output = folders[0] if output is None else output
    try:
        published = lab.published(read_reference(reference)) if reference else ()
        builders = (*BUILDERS, *published)
        loaded = load_all(folders)
        output.mkdir(parents=True, exist_ok=True)
        summary = tables.write_tables(output, loaded, builders)
        files.write_figures(output, read_tables(output / tables.FOLDER, builders, files.NEEDS))
        page.write(output, folders, builders)
    except (ResultsError, ReferenceDataError, TableError) as error:
        print(f"tpsweep report: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"tpsweep report: {output}: {error.strerror or error}", file=sys.stderr)
        return 2
    print(f"tpsweep report: {summary}; see {output / PAGE}", file=sys.stderr)
    return 0
