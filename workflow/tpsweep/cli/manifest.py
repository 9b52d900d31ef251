"""``tpsweep manifest``: the manifest of a sweep."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tpsweep.sweep.manifest import write_manifest
from tpsweep.sweep.sweep import InputError, load_sweep


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("sweep", help="config and site as JSON")
    parser.add_argument("output", type=Path)


def call(options: argparse.Namespace) -> int:
    """Write the manifest. Returns 0, or 2 if the sweep is unusable or writing fails."""
    try:
        sweep = load_sweep(json.loads(options.sweep), Path.cwd())
        shapes, prices = sweep.config.shapes, sweep.config.settings.prices
        write_manifest(
            sweep.planned,
            options.output,
            sweep.raw,
            shapes,
            prices,
            sweep.config.unknown,
            lab=sweep.config.settings.lab,
        )
    except InputError as error:
        print(f"tpsweep: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"tpsweep: {options.output}: {error.strerror or error}", file=sys.stderr)
        return 2
    return 0
