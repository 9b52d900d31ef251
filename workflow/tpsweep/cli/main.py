"""The ``tpsweep`` command: picks the module of a command, which declares its arguments and runs it.

Messages go to stderr, results to stdout or files. Exit code 0: done; 1: found something wrong;
2: bad usage (one line that names the key, the value and what is allowed).
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import tpsweep

COMMANDS = {
    "init": "write a commented sweep, or a profile for a site, from a few flags",
    "plan": "show what a sweep will run, what it costs and how long cells should take",
    "recommend": "say which layout and how many GPUs a load needs, and what that costs",
    "check": "show the state of a results folder, or check a site",
    "report": "make tables and page of one or more results folders",
    "rows": "join all rows in one file: Parquet, CSV or Excel",
    "compare": "compare two results folders cell by cell",
    "import": "take results of vLLM's own benchmarks as rows, marked",
    "comm": "where the time of a profiler capture went",
    "reference": "check published numbers for inconsistencies",
}
"""What people use, in the order of ``--help``. Each is a module of this package, with the functions
``add`` (its arguments) and ``call`` (run it on them); only the module that runs is imported."""
_MODULES = {"import": "import_rows"}
"""Modules of commands whose names are Python's."""
INTERNAL = {
    "manifest": "write the manifest of a sweep",
    "model": "generate a model folder from a shape, for dummy weights",
    "fetch": "download a hub model's files to this machine",
    "tables": "make the tables of a results folder",
    "figures": "draw the figures of a results folder",
    "page": "make the page of a results folder",
    "outcome": "say what came of a sweep, and where its results are",
}
"""What the Snakefile's rules call; not in ``--help``."""
NEW_OBJECTS = 200_000
"""Objects made between two searches for reference cycles; Python's default is 700. The records of
tables live until the command ends: at 10,000 cells, searching them was a tenth of the CPU time."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    gc.set_threshold(NEW_OBJECTS)
    options = _parser(words).parse_args(words)
    try:
        code: int = options.call(options)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough; the interpreter must not flush again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


class _Once(argparse.Action):
    """Keeps a value, and refuses a second one: argparse would lose the first."""

    is_given = False

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if option_string is not None and self.is_given:
            raise argparse.ArgumentError(self, "given twice, allowed: once")
        self.is_given = True
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    """Of this program and its commands: flags with a value are given once, unless they append."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        for name in (None, "store"):
            self.register("action", name, _Once)


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """A parser that knows every command, and the arguments of the one that was typed."""
    parser = _Parser(
        prog="tpsweep", description="Tensor-parallel benchmark sweeps of vLLM on Slurm."
    )
    parser.add_argument("--version", action="version", version=f"tpsweep {tpsweep.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    asked = next((word for word in words if not word.startswith("-")), None)
    for name, says in (COMMANDS | INTERNAL).items():
        shown: dict[str, Any] = {"help": says} if name in COMMANDS else {}
        command = commands.add_parser(name, description=f"{says[0].upper()}{says[1:]}.", **shown)
        if name == asked:
            module = import_module(f"tpsweep.cli.{_MODULES.get(name, name)}")
            module.add(command)
            command.set_defaults(call=module.call)
    if asked is not None and asked not in COMMANDS | INTERNAL:
        parser.error(f"COMMAND: {asked!r}, allowed: {', '.join(COMMANDS)}")
    return parser
