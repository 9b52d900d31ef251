"""A ``--configfile`` that is not there, in one line: Snakemake itself shows a traceback."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

OPTIONS = ("--configfile", "--configfiles")


def missing(words: Sequence[str]) -> str:
    """One line on the first file that a command line names and that is not there; "" if none."""
    option = ""
    for word in words:
        name, given, value = word.partition("=")
        if word.startswith("-"):
            option = name if name in OPTIONS else ""
        file = value if given and option == name else "" if word.startswith("-") else word
        if option and file and not Path(file).exists():
            return f"{option}: {file}: no such file, allowed: the path of a config file"
    return ""
