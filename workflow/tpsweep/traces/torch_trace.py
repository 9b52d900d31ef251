"""Reader of PyTorch profiler traces (Chrome JSON, gzip or plain): one file per rank."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from tpsweep.core.errors import CaptureError
from tpsweep.traces.events import (
    Annotation,
    Ints,
    RankEvents,
    parse_annotation,
)
from tpsweep.traces.nsys import look_up

_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_LAUNCH = ("cuda_runtime", "cuda_driver")
_CHUNK = 1 << 20
_RANK_IN_NAME = re.compile(r"rank[_-]?(\d+)")


class _Columns:
    """Events that are kept of a trace: five numbers each, 40 bytes, in one growing array."""

    WIDTH = 5  # start, end, stream, correlation, name

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self.values = array("q")

    def __bool__(self) -> bool:
        return bool(self.values)

    def rows(self) -> Ints:
        """Shape (events, 5), in the order of the trace."""
        return np.frombuffer(self.values, dtype=np.int64).reshape(-1, self.WIDTH)

    def add(self, event: dict[str, Any], stream: Any, correlation: Any) -> None:
        name = self.ids.setdefault(str(event["name"]), len(self.ids))
        start = _ns(event["ts"])
        end = start + _ns(event.get("dur", 0))
        number = stream if isinstance(stream, int) else -1
        self.values.extend((start, end, number, -1 if correlation is None else correlation, name))


def read(path: Path) -> RankEvents:
    """The rank's GPU events; in a trace of a CPU engine, the operators (``cpu_op``).

    Read event by event: memory grows with the events, not with the text. Raises ``CaptureError``.
    """
    device, operators = _Columns(), _Columns()
    calls = array("q")  # correlation and time of each launch, one after the other
    annotations: list[Annotation] = []
    header: dict[str, Any] = {}
    try:
        for event in _events(path, header):
            category = event.get("cat")
            arguments = event.get("args") or {}
            if category in _DEVICE:
                device.add(event, arguments.get("stream"), arguments.get("correlation"))
            elif category == "cpu_op" and not device:
                operators.add(event, event.get("tid"), None)
            elif category in _LAUNCH and "correlation" in arguments:
                calls.extend((arguments["correlation"], _ns(event["ts"])))
            elif category == "user_annotation" and (
                annotation := parse_annotation(_ns(event["ts"]), str(event["name"]))
            ):
                annotations.append(annotation)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CaptureError(
            f"{path}: the gzip file is cut short or damaged ({error}); stop the profiler before "
            "the engine ends (llm.stop_profile()), and copy the whole file"
        ) from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, CaptureError):
            raise
        raise CaptureError(f"{path}: not a PyTorch profiler trace ({error!r})") from error
    kept = device if device else operators
    if not kept:
        raise CaptureError(
            f"{path}: no kernels and no operators in the trace; profile while requests run "
            "(profiler_config: profiler=torch)"
        )
    return _rank(path, kept, calls if device else None, annotations, header)


def _rank(
    path: Path,
    kept: _Columns,
    calls: array[int] | None,
    annotations: list[Annotation],
    header: dict[str, Any],
) -> RankEvents:
    rows = kept.rows()
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    start, end, stream, correlation, name = (np.ascontiguousarray(column) for column in rows.T)

    def launched() -> Ints:
        # An operator is its own launch; a kernel's is the runtime call of equal correlation.
        if calls is None:
            return start
        pairs = np.frombuffer(calls, dtype=np.int64).reshape(-1, 2)
        return look_up(pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))], correlation)

    distributed = header.get("distributedInfo") or {}
    in_name = _RANK_IN_NAME.findall(path.name)
    rank = distributed.get("rank", int(in_name[-1]) if in_name else 0)
    return RankEvents(
        rank=rank,
        source=path.name,
        names=list(kept.ids),
        name=name,
        start=start,
        end=end,
        stream=stream,
        annotations=sorted(annotations, key=lambda annotation: annotation.start),
        launched=launched,
        world=distributed.get("world_size"),
        operators=calls is None,
    )


def _ns(microseconds: float | int | str) -> int:
    return round(float(microseconds) * 1000)


def _events(path: Path, header: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The objects of ``traceEvents``, one after the other; ``distributedInfo`` into ``header``."""
    decoder = json.JSONDecoder()
    with _open(path) as file:
        text = file.read(_CHUNK)
        while (begin := re.search(r'"traceEvents"\s*:\s*\[', text)) is None:
            more = file.read(_CHUNK)
            if not more:
                raise CaptureError(f"{path}: no traceEvents: not a PyTorch profiler trace")
            text += more
        if info := re.search(r'"distributedInfo"\s*:\s*(?=\{)', text[: begin.start()]):
            header["distributedInfo"] = decoder.raw_decode(text, info.end())[0]
        place = begin.end()
        while True:
            place = _skip(text, place)
            if text[place : place + 1] == "]":
                return
            try:
                event, end = decoder.raw_decode(text, place)
            except json.JSONDecodeError:
                more = file.read(_CHUNK)
                if not more:
                    raise CaptureError(
                        f"{path}: the trace is cut short; stop the profiler before the engine "
                        "ends, and copy the whole file"
                    ) from None
                text, place = text[place:] + more, 0
                continue
            place = end
            if isinstance(event, dict):
                yield event


_BETWEEN = re.compile(r"[\s,]*")


def _skip(text: str, place: int) -> int:
    match = _BETWEEN.match(text, place)
    return match.end() if match else place


def _open(path: Path) -> IO[str]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    if zipped:
        return gzip.open(path, "rt", encoding="utf-8", errors="replace")
    return path.open("r", encoding="utf-8", errors="replace")
