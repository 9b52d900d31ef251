"""``tpsweep figures``: from the tables of a results folder to its figures, as files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tpsweep import tables
from tpsweep.analysis.builder import read_tables
from tpsweep.analysis.table import TableError
from tpsweep.figures import files


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("results", type=Path)


def call(options: argparse.Namespace) -> int:
    """Run the command on its arguments."""
    return run(options.results)


def run(results: Path) -> int:
    """Write the figures and one line on stderr. Returns 0, or 2 if there are no tables."""
    try:
        drawn = read_tables(results / tables.FOLDER, tables.BUILDERS, files.NEEDS)
        count = files.write_figures(results, drawn)
    except TableError as error:
        print(f"tpsweep figures: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"tpsweep figures: {results}: {error.strerror or error}", file=sys.stderr)
        return 2
    print(f"tpsweep figures: {count} figures; see {results / files.FOLDER}", file=sys.stderr)
    return 0
