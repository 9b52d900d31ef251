"""The preflight as a job: go to where vLLM is, then look (``tpsweep.measure.preflight``)."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from tpsweep.core.preflight_record import Check, Request
from tpsweep.core.program import Program, ProgramError
from tpsweep.measure import launch, preflight


def main(argv: Sequence[str]) -> int:
    """``argv``: the script and its arguments. 0 if all is well, 65 if not, 2 for bad usage."""
    options = _parser().parse_args(argv[1:])
    asked = Request.from_json(options.request)
    if not options.program:
        return preflight.run(asked, options.models, options.results, options.output)
    program = Program.from_json(options.program)
    said = launch.problem(program, os.environ)
    if not said:
        words = [str(Path(argv[0]).resolve()), "--request", options.request, "--models"]
        words += [*map(str, options.models), "--results", str(options.results)]
        try:
            launch.become(program, [*words, "--output", str(options.output)])
        except (OSError, ProgramError) as error:
            said = str(error)
    # The preflight cannot even run there: that is what it found.
    found = [Check("vLLM's environment", False, said)]
    return preflight.leave(asked, found, None, options.results, options.output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Check a node class before its cells.")
    parser.add_argument("--request", required=True, help="what is asked, as JSON")
    parser.add_argument("--models", required=True, nargs="+", type=Path, help="their markers")
    parser.add_argument("--results", required=True, type=Path, help="the results root")
    parser.add_argument("--output", required=True, type=Path, help="written if all is well")
    parser.add_argument("--program", default="", help="where vLLM is, as JSON; default: here")
    return parser
