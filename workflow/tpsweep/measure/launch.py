"""Start a program where vLLM is: ``python -m tpsweep.measure.launch JSON WORD…``.

JSON is a ``core.program.Program``, the words are its interpreter's. Runs with Snakemake's own
Python, on the node, and becomes that program. Standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tpsweep.core.program import OLDEST, Program, ProgramError
from tpsweep.core.request import StartFailure

PROBE = """
import importlib.util, json, sys
lacking = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
print("\\ntpsweep-environment:", json.dumps([list(sys.version_info[:2]), lacking]))
"""
ANSWER = "tpsweep-environment:"
LIMIT_S = 300
"""The first look into an image on a parallel file system takes long."""


def problem(program: Program, environ: Mapping[str, str]) -> str:
    """Why ``program`` cannot run our daemon on this node, in one line; "" if it can."""
    try:
        argv = program.argv(["-c", PROBE, *program.needs], environ)
        done = subprocess.run(
            argv,
            env=program.environment(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
            check=False,
        )
    except ProgramError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"{program.name}: no answer after {LIMIT_S} s"
    answers = [line for line in done.stdout.splitlines() if line.startswith(ANSWER)]
    if done.returncode or not answers:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        last = said[-1][:200] if said else "no error output"
        return f"{program.name}: exit code {done.returncode}: {last}"
    version, lacking = json.loads(answers[-1].removeprefix(ANSWER))
    return _judged(program, tuple(version), lacking)


def _judged(program: Program, version: tuple[int, int], lacking: list[str]) -> str:
    if version < OLDEST:
        have, needed = (".".join(map(str, v)) for v in (version, OLDEST))
        return f"{program.name}: Python {have}, needed: {needed} or newer"
    if "vllm" in lacking:
        return f"{program.name}: vLLM is not installed in it"
    packages = " ".join(program.needs[name] for name in lacking)
    if not packages:
        return ""
    remedy = f"install them there, or in a folder that `packages` names: pip install {packages}"
    return f"{program.name}: lacks {packages}; {remedy}"


def become(program: Program, words: list[str]) -> None:
    """Replace this process by ``program``; raises ``OSError``, ``ProgramError``."""
    argv, environment = program.argv(words, os.environ), program.environment(os.environ)
    sys.stdout.flush()
    os.execvpe(argv[0], argv, environment)


def main(arguments: list[str]) -> int:
    """Entry point; 1 if the program cannot be started, and the session's cells know why."""
    program, words = Program.from_json(arguments[0]), arguments[1:]
    said = problem(program, os.environ)
    if not said:
        try:
            become(program, words)
        except (OSError, ProgramError) as error:
            said = str(error)
    print(said, file=sys.stderr)
    if folder := os.environ.get("SESSION_DIR"):
        StartFailure("engine_start", said).write(Path(folder))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
