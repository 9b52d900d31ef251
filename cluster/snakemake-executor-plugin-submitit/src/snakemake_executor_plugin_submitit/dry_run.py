"""What would be submitted, for people and for grep."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .slurm.scripts import BatchScript

LAST = "# dry run: nothing was submitted; jobs that need the output of these are not shown\n"


def as_text(scripts: Iterable[BatchScript]) -> str:
    """Batch scripts, each below its sessions: lines that begin with ``#``."""
    text = ""
    for script, sessions in scripts:
        text += "".join(f"# {session}\n" for session in sessions)
        text += f"{script}\n\n"
    return text


def print_scripts(scripts: Iterable[BatchScript], refused: Iterable[str]) -> None:
    """Print batch scripts, and a line for each job that none can be written for."""
    print(as_text(scripts), end="")
    for line in refused:
        print(f"# refused: {line}")
    print(LAST, end="")
    sys.stdout.flush()
