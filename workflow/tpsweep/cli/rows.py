"""``tpsweep rows``: every row of the current manifest in one file, for pandas or a spreadsheet."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa

from tpsweep.core import schema
from tpsweep.core.atomic import replacing
from tpsweep.core.joined_rows import ROWS
from tpsweep.results.load import Results, ResultsError, load

FORMATS = (".csv", ".xlsx", ".parquet")


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"))
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="a .csv or .xlsx, which leave out raw samples, or a .parquet; default: rows.parquet"
        " in the results folder",
    )


def call(options: argparse.Namespace) -> int:
    """Run the command on its arguments."""
    return run(options.results, options.output)


def run(results: Path, output: Path | None = None) -> int:
    """Write the file and say on stderr what is in it. Returns 0, or 2."""
    if output is not None and output.suffix not in FORMATS:
        allowed = f"allowed: a name that ends in {', '.join(FORMATS)}"
        print(f"tpsweep rows: --output: {str(output)!r}, {allowed}", file=sys.stderr)
        return 2
    try:
        loaded = load(results, keep=output is None)
        if output is not None:
            _write(loaded, output)
    except ResultsError as error:
        print(f"tpsweep rows: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"tpsweep rows: {output or results}: {error.strerror or error}", file=sys.stderr)
        return 2
    found = f"{len(loaded.rows)} rows of {loaded.planned} planned cells"
    print(f"tpsweep rows: {output or results / ROWS}: {found}", file=sys.stderr)
    return 0


def _write(loaded: Results, output: Path) -> None:
    with replacing(output) as path, path.open("wb") as file:
        if output.suffix == ".parquet":
            loaded.rows.to_parquet(file, index=False)
        elif output.suffix == ".csv":
            _flat(loaded.rows).to_csv(file, index=False)
        else:
            flat = _flat(loaded.rows)
            flat.to_excel(file, sheet_name="rows", index=False, engine="openpyxl")


def _flat(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns that a spreadsheet's cell can hold: no raw samples; values per GPU as text."""
    samples = {column.name for column in schema.SAMPLES}
    lists = [
        name for name in schema.SCHEMA.names if pa.types.is_list(schema.SCHEMA.field(name).type)
    ]
    flat = rows[[name for name in rows.columns if name not in samples]].copy()
    for name in lists:
        if name in flat:
            flat[name] = flat[name].map(lambda values: ", ".join(map(str, values)), "ignore")
    return flat
