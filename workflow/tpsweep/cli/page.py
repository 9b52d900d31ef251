"""``tpsweep page``: from the tables of a results folder to its page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tpsweep import tables
from tpsweep.analysis.builder import Builder, read_tables
from tpsweep.analysis.table import Table, TableError
from tpsweep.cli.tables import BUILDERS
from tpsweep.core import results_paths
from tpsweep.lab import page as lab
from tpsweep.report.page import CELL_COLUMNS, PAGE, write_page
from tpsweep.results.merge import folder_of


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("results", type=Path)


def call(options: argparse.Namespace) -> int:
    """Run the command on its arguments."""
    return run(options.results)


def run(results: Path) -> int:
    """Write the page and its path on stderr. Returns 0, or 2 if there are no tables.

    An incomplete sweep is not an error here: the page itself says that it is incomplete.
    """
    try:
        write(results, [results], BUILDERS)
    except TableError as error:
        print(f"tpsweep page: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"tpsweep page: {results}: {error.strerror or error}", file=sys.stderr)
        return 2
    print(f"tpsweep page: see {results / PAGE}", file=sys.stderr)
    return 0


def write(output: Path, folders: Sequence[Path], builders: Sequence[Builder]) -> None:
    """Write the page of ``output`` from the tables of ``builders``, made from ``folders``' rows.

    Raises ``TableError`` or ``OSError``.
    """
    found = read_tables(output / tables.FOLDER, builders, columns={"cells": CELL_COLUMNS})
    name = " + ".join(folder.resolve().name for folder in folders)
    write_page(output / PAGE, found, name, lab.groups(found), _steps(found, folders))


def _steps(found: Mapping[str, Table], folders: Sequence[Path]) -> dict[str, Path]:
    """Pictures of a decode step of the captures that are analysed, by their ``cell_id``."""
    paths = {cell["cell_id"]: cell["path"] for cell in found["cells"].records}
    pictures: dict[str, Path] = {}
    for line in found["communication"].records:
        if line["self_check"] is None:
            continue
        for folder in folder_of(line["cell_id"], folders):
            picture = folder / results_paths.capture_picture(paths[line["cell_id"]])
            if picture.is_file():
                pictures.setdefault(line["cell_id"], picture)
    return pictures
