"""``tpsweep outcome``: what came of a sweep, in a few lines for the terminal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tpsweep import tables
from tpsweep.analysis.builder import read_tables
from tpsweep.analysis.table import TableError
from tpsweep.report import outcome


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("results", type=Path)
    parser.add_argument("--failed", action="store_true", help="some jobs did not end well")


def call(options: argparse.Namespace) -> int:
    """Print the lines on stderr. Returns 0, or 2 if there are no tables."""
    results: Path = options.results
    try:
        found = read_tables(results / tables.FOLDER, tables.BUILDERS, outcome.NEEDS)
    except TableError as error:
        print(f"tpsweep outcome: {error}", file=sys.stderr)
        return 2
    said = outcome.lines(results, found, ended_well=not options.failed)
    print("\n".join(f"tpsweep: {line}" for line in said), file=sys.stderr)
    return 0
