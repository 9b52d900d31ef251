"""What would be submitted, for people and for grep."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from .packing import Session


def print_scripts(scripts: Iterable[tuple[str, list[Session]]], refused: Iterable[str]) -> None:
    """Print batch scripts, each below its sessions; other lines begin with ``#``."""
    for text, sessions in scripts:
        for session in sessions:
            print(f"# {session}")
        print(f"{text}\n")
    for line in refused:
        print(f"# refused: {line}")
    print("# dry run: nothing was submitted; jobs that need the output of these are not shown")
    sys.stdout.flush()
