"""A PyTorch profiler trace without what the analysis does not read."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
from collections.abc import Set
from pathlib import Path
from typing import Any

from tools.grouping import grouped
from tpsweep.traces.events import parse_annotation

_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_LAUNCH = ("cuda_runtime", "cuda_driver")
_OF_COLLECTIVES = ("Collective name", "Process Group Ranks")
"""Arguments of a kernel that runs any collective: which one, and the ranks that it joins."""
_FIELDS = ("ph", "cat", "name", "pid", "tid", "ts", "dur")
_MARK = "tpsweep_cut"
_MARK_BYTES = f'"{_MARK}"'.encode()
_HEAD = 1 << 14  # the mark is the first key


def is_cut(path: Path) -> bool:
    """Whether a trace is one that ``cut`` has written."""
    with gzip.open(path) as file:
        return _MARK_BYTES in file.read(_HEAD)


def cut(path: Path, target: Path, step_starts: Set[int]) -> None:
    """Write to ``target`` what ``torch_trace.read`` needs of ``path``, a trace in gzip.

    GPU events keep name, time and stream, collectives also their kind and ranks; of a CPU engine's
    trace the operators stay. Of the runtime calls only those stay that launched an event with a
    start in ``step_starts`` (ns): they mark where a step begins. ``deviceProperties`` and the other
    keys beside the events stay.
    """
    packed = path.read_bytes()
    trace = json.loads(gzip.decompress(packed))
    events = [event for event in trace.pop("traceEvents") if isinstance(event, dict)]
    trace.pop("traceName", None)  # a path on the node
    mark = {"original_sha256": hashlib.sha256(packed).hexdigest(), "original_bytes": len(packed)}
    kept = _kept(events, step_starts)
    names = [(event["cat"], event["name"]) for event in kept]
    order = grouped(names, [_ns(event) for event in kept])
    head = json.dumps({_MARK: mark, **trace})[:-1]
    lines = ",\n".join(json.dumps(kept[place], separators=(",", ":")) for place in order)
    target.write_bytes(_packed(f'{head}, "traceEvents": [\n{lines}\n]}}\n'.encode()))


def _kept(events: list[dict[str, Any]], step_starts: Set[int]) -> list[dict[str, Any]]:
    device = [event for event in events if event.get("cat") in _DEVICE]
    kept = device or [event for event in events if event.get("cat") == "cpu_op"]
    begins = {_correlation(event) for event in device if _ns(event) in step_starts} - {None}
    launches = [
        event for event in events if event.get("cat") in _LAUNCH and _correlation(event) in begins
    ]
    announced = [
        event
        for event in events
        if event.get("cat") == "user_annotation" and parse_annotation(0, str(event["name"]))
    ]
    return [
        *(_slim(event, with_launch=_ns(event) in step_starts) for event in kept),
        *(_slim(event, with_launch=True) for event in launches),
        *(_slim(event, with_launch=False) for event in announced),
    ]


def _slim(event: dict[str, Any], with_launch: bool) -> dict[str, Any]:
    slim = {key: event[key] for key in _FIELDS if key in event}
    launched = ("correlation",) if with_launch else ()
    keys = ("stream", *launched, *_OF_COLLECTIVES)
    arguments = {key: event["args"][key] for key in keys if key in (event.get("args") or {})}
    return {**slim, "args": arguments} if arguments else slim


def _correlation(event: dict[str, Any]) -> Any:
    return (event.get("args") or {}).get("correlation")


def _ns(event: dict[str, Any]) -> int:
    return round(float(event["ts"]) * 1000)


def _packed(data: bytes) -> bytes:
    """gzip, the same for the same data; by zopfli where it is installed, which packs better."""
    try:
        zopfli = importlib.import_module("zopfli.gzip")
    except ImportError:
        return gzip.compress(data, 9, mtime=0)
    return bytes(zopfli.compress(data, numiterations=5))
