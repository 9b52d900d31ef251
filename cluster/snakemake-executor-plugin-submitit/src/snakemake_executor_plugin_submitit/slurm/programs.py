"""Running Slurm's programs."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from .environment import calm

CALL_LIMIT_S = 60.0


def call(
    words: Sequence[str], environ: Mapping[str, str], limit_s: float = CALL_LIMIT_S
) -> subprocess.CompletedProcess[str]:
    """Run a program of Slurm's; exit code 127 for one that is missing, 124 for one that hangs."""
    try:
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
            env=calm(environ),
        )
    except OSError as error:
        return subprocess.CompletedProcess(words, 127, "", str(error))
    except subprocess.TimeoutExpired:
        said = f"{words[0]}: no answer within {limit_s:g} s"
        return subprocess.CompletedProcess(words, 124, "", said)


def one_line(program: str, text: str) -> str:
    """The last line of what a program of that name said."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{program}: {lines[-1] if lines else 'failed with no error output'}"
