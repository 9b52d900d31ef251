"""``tpsweep model``: a model folder of a shape, for dummy weights."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tpsweep.perfmodel.model_folder import make_model_folder


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("shape", type=Path, help="a config.json")
    parser.add_argument("folder", type=Path)


def call(options: argparse.Namespace) -> int:
    """Make the folder. Returns 0, or 2 if the shape is unusable or writing fails."""
    try:
        make_model_folder(options.shape, options.folder)
    except (OSError, ValueError) as error:
        print(f"tpsweep: {error}", file=sys.stderr)
        return 2
    return 0
