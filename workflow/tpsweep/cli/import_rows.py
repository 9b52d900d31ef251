"""``tpsweep import``: results of vLLM's own benchmarks as rows, marked, beside own ones."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tpsweep.results import imported
from tpsweep.results.imported import ImportRefusedError


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="JSON of vllm bench latency, throughput or serve, or a folder of vllm bench sweep",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what the files do not say, such as tp=2, gpu=H100, input_len=512; for all of them",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("imported"),
        help="results folder of imported rows alone (default: imported); more are added to it",
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON on stdout")


def call(options: argparse.Namespace) -> int:
    """Read the files and write their rows; nothing is written if one of them cannot be read."""
    try:
        given = dict(map(imported.parse_setting, options.set))
        found = imported.read(options.files, given)
        fresh = imported.write(options.output, found)
    except (ImportRefusedError, OSError) as error:
        print(f"tpsweep import: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps([one.row for one in found], indent=1).replace("Infinity", '"inf"'))
    else:
        again = f", {len(found) - fresh} again" if fresh < len(found) else ""
        print(f"{options.output}: {fresh} rows imported{again}")
        for one in found:
            unknown = [n for n in ("tp", "gpu", "dtype") if one.row.get(n) is None]
            note = f" (not known: {', '.join(unknown)}; --set says them)" if unknown else ""
            print(f"  {one.row['imported']}{note}")
        print(f"Beside own rows: tpsweep report RESULTS {options.output} --output FOLDER")
    return 0
