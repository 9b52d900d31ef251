"""Where the seconds of an engine start go: own stamps, and what vLLM's log says of its parts."""

from __future__ import annotations

import re
from dataclasses import dataclass

_WEIGHTS = re.compile(r"Model loading took \S+ GiB memory and ([\d.]+) seconds")
_COMPILE = re.compile(r"torch\.compile took ([\d.]+) s in total")
_GRAPHS = re.compile(r"Graph capturing finished in ([\d.]+) secs")
_INIT = re.compile(r"init engine \(profile, create kv cache, warmup model\) took ([\d.]+) s")


@dataclass(frozen=True)
class StartPhases:
    """Seconds of the parts of a start, in their order; they sum up to ``engine_start_s``.

    None: vLLM's log does not tell it. Weights are then in ``start_processes_s``, compilation and
    graphs in ``start_kv_s``. Of several workers the slowest counts.
    """

    start_imports_s: float
    start_processes_s: float
    start_weights_s: float | None
    start_compile_s: float | None
    start_graphs_s: float | None
    start_kv_s: float | None
    start_http_s: float


def phases_of(log: str, imports_s: float, http_s: float, start_s: float) -> StartPhases:
    """The parts of a start whose log is ``log``.

    ``imports_s``: from the process's start until vLLM was imported, ``http_s``: for server and load
    generator once the engine ran, ``start_s``: all.
    """
    weights, compiled, graphs, init = (
        max(map(float, found.findall(log)), default=None)
        for found in (_WEIGHTS, _COMPILE, _GRAPHS, _INIT)
    )
    known = (weights or 0.0) + (init or 0.0)
    kv = None if init is None else max(0.0, init - (compiled or 0.0) - (graphs or 0.0))
    rest = max(0.0, start_s - imports_s - http_s - known)
    return StartPhases(imports_s, rest, weights, compiled, graphs, kv, http_s)
