"""``tpsweep fetch``: a hub model's files on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tpsweep.sweep.download import FetchError, Request, fetch, write_marker


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("request", help="the model as JSON")
    parser.add_argument("marker", type=Path, help="written once the files are there")


def call(options: argparse.Namespace) -> int:
    """Fetch the files. Returns 0, or 2 if they cannot be fetched."""
    request = Request.from_json(options.request)
    try:
        folder = fetch(request)
    except FetchError as error:
        print(f"tpsweep: {error}", file=sys.stderr)
        return 2
    write_marker(request, folder, options.marker)
    return 0
