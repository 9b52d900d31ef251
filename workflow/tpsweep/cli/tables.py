"""``tpsweep tables``: from rows and manifest to the tables of a results folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tpsweep import tables
from tpsweep.lab import builders as lab
from tpsweep.results.integrity import leave_records
from tpsweep.results.load import ResultsError, load

BUILDERS = (*tables.BUILDERS, *lab.BUILDERS)
"""Every table of a sweep."""


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("results", type=Path)


def call(options: argparse.Namespace) -> int:
    """Run the command on its arguments."""
    return run(options.results)


def run(results: Path) -> int:
    """Write the tables and a summary on stderr. Returns 0, 1 or 2 (no tables).

    An incomplete sweep is not an error here: the tables themselves say so. An unreadable row is
    (1): it leaves a failure record, so that the next run measures it again.
    """
    try:
        loaded = load(results, keep=True)
        summary = tables.write_tables(results, loaded, BUILDERS)
    except ResultsError as error:
        print(f"tpsweep tables: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"tpsweep tables: {results}: {error.strerror or error}", file=sys.stderr)
        return 2
    print(f"tpsweep tables: {summary}; see {results / tables.FOLDER}", file=sys.stderr)
    return 1 if leave_records(results, loaded) else 0
