"""An engine daemon under Nsight Systems: it restarts itself under nsys.

nsys is told what to trace when a program is launched under it, and records only between ``start``
and ``stop`` (``tpsweep.engine.profiler``): so one engine start makes any number of captures.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tpsweep.core.cell import NSYS_ONLY, NSYS_OR_TORCH, Engine
from tpsweep.core.errors import StartError
from tpsweep.engine import nsys_tools

_SESSION = "TPSWEEP_NSYS_SESSION"


def command(nsys: Path, session: str, program: list[str]) -> list[str]:
    """``nsys launch`` of ``program``: kernels of CUDA graphs one by one, workers included."""
    return [
        str(nsys),
        "launch",
        f"--session-new={session}",
        "--trace=cuda,nvtx",
        "--cuda-graph-trace=node",
        "--trace-fork-before-exec=true",
        "--wait=primary",
        *program,
    ]


def enter(engine: Engine) -> None:
    """If nsys must profile ``engine``, restart this program under nsys (does not return).

    Returns if it runs under nsys already, if the engine has another mode, or if the node has no
    nsys and torch is allowed instead. Raises ``StartError`` if torch is not allowed.
    """
    if engine.mode not in (NSYS_ONLY, NSYS_OR_TORCH) or _SESSION in os.environ:
        return
    nsys = nsys_tools.find_nsys()
    if nsys is None and engine.mode == NSYS_OR_TORCH:
        return
    if nsys is None:
        raise StartError(
            "engine_start",
            "profiler: nsys is not on this node; allowed: nsys on the PATH, or "
            f"its path in {nsys_tools.VARIABLE} (in the site's setup), or profiler: torch",
        )
    session = f"tpsweep-{os.getpid()}"
    program = [sys.executable, *sys.orig_argv[1:]]
    sys.stdout.flush()
    os.execve(nsys, command(nsys, session, program), {**os.environ, _SESSION: session})


def session_of(environment: Mapping[str, str]) -> str | None:
    """nsys's name of the session that this process runs in; None outside of one."""
    return environment.get(_SESSION)
