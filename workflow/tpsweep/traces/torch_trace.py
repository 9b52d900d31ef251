"""Reader of PyTorch profiler traces (Chrome JSON, gzip or plain): one file per rank."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from tpsweep.core.errors import CaptureError
from tpsweep.traces import kernels
from tpsweep.traces.events import (
    Annotation,
    Ints,
    Place,
    ProcessGroup,
    RankEvents,
    parse_annotation,
)
from tpsweep.traces.nsys import look_up

_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_LAUNCH = ("cuda_runtime", "cuda_driver")
_CHUNK = 1 << 20
_RANK_IN_NAME = re.compile(r"rank[_-]?(\d+)|(?:^|[-_.])(?:TP|tp)-(\d+)(?=[-_.])")
"""The last is SGLang's: ``1759130995.32-TP-0.trace.json.gz``."""
_PLACE_IN_NAME = re.compile(
    r"(?<![a-z])(dp|pp|tp)(?:(?=\d+[_.])|-(?=\d+[-_.]))(\d+)", re.IGNORECASE
)
"""vLLM's: ``dp0_pp1_tp0_rank1``; SGLang's: ``TP-0-DP-1``. Our own ``pp2-b8-in512`` is a size."""


@dataclass
class _Columns:
    """Events that are kept of a trace: five numbers each, 40 bytes, in one growing array."""

    ids: dict[tuple[str, tuple[int, ...]], int]  # a name and the ranks that it joins
    values: array[int] = field(default_factory=lambda: array("q"))

    WIDTH = 5  # start, end, stream, correlation, name

    def __bool__(self) -> bool:
        return bool(self.values)

    def rows(self) -> Ints:
        """Shape (events, 5), in the order of the trace."""
        return np.frombuffer(self.values, dtype=np.int64).reshape(-1, self.WIDTH)

    def add(self, event: dict[str, Any], stream: Any, correlation: Any) -> None:
        words = str(event["name"])
        arguments = _arguments(event)
        peers = _peers(arguments.get("Process Group Ranks"))
        if collective := arguments.get("Collective name"):
            words = kernels.annotated(words, str(collective))
        name = self.ids.setdefault((words, peers), len(self.ids))
        start = _ns(event["ts"])
        end = start + _ns(event.get("dur", 0))
        number = stream if isinstance(stream, int) else -1
        self.values.extend((start, end, number, -1 if correlation is None else correlation, name))


_Range = tuple[int, int, str, tuple[int, ...]]


@dataclass
class _Trace:
    """What is kept of a trace while it is read.

    ``calls``: correlation and time of each launch, one after the other. ``recorded`` and
    ``host``: begin, end and name of each collective that the host called, with the ranks that it
    joins if said (``record_param_comms``, ``nccl:all_reduce``); ``gpu``: the same on the GPU's
    timeline.
    """

    header: dict[str, Any] = field(default_factory=dict)
    ids: dict[tuple[str, tuple[int, ...]], int] = field(default_factory=dict)
    devices: dict[Any, _Columns] = field(default_factory=dict)
    operators: _Columns = field(default_factory=lambda: _Columns({}))
    calls: array[int] = field(default_factory=lambda: array("q"))
    annotations: list[Annotation] = field(default_factory=list)
    recorded: list[_Range] = field(default_factory=list)
    host: list[_Range] = field(default_factory=list)
    gpu: list[_Range] = field(default_factory=list)
    training: str | None = None

    def add(self, event: dict[str, Any]) -> None:
        category = event.get("cat")
        arguments = _arguments(event)
        name = str(event.get("name"))
        if (
            self.training is None
            and category in ("cpu_op", "user_annotation")
            and kernels.table().training.search(name)
        ):
            self.training = name
        if category in _DEVICE:
            device = arguments.get("device") if category == "kernel" else None
            columns = self.devices.setdefault(device, _Columns(self.ids))
            columns.add(event, arguments.get("stream"), arguments.get("correlation"))
        elif category in _LAUNCH and "correlation" in arguments:
            self.calls.extend((arguments["correlation"], _ns(event["ts"])))
        elif category in ("user_annotation", "gpu_user_annotation") and name.startswith("nccl:"):
            to = self.host if category == "user_annotation" else self.gpu
            to.append(self._range(event, name.removeprefix("nccl:"), arguments))
        elif category == "cpu_op":
            if name == "record_param_comms" and arguments.get("Collective name"):
                words = str(arguments["Collective name"])
                self.recorded.append(self._range(event, words, arguments))
            if not self.devices:
                self.operators.add(event, event.get("tid"), None)
        elif category == "user_annotation" and (
            annotation := parse_annotation(_ns(event["ts"]), name)
        ):
            self.annotations.append(annotation)

    @staticmethod
    def _range(event: dict[str, Any], words: str, arguments: dict[str, Any]) -> _Range:
        begin = _ns(event["ts"])
        peers = _peers(arguments.get("Process Group Ranks"))
        return begin, begin + _ns(event.get("dur", 0)), words, peers


def _arguments(event: dict[str, Any]) -> dict[str, Any]:
    found = event.get("args") or {}
    if not isinstance(found, dict):
        raise TypeError(f"args: {found!r}")
    return found


def _numbered(info: dict[str, Any]) -> dict[str, Any]:
    """``distributedInfo`` with its numbers as such, also where they are text; none for null."""
    numbers = {key: info[key] for key in ("rank", "world_size") if info.get(key) is not None}
    rest = {key: info[key] for key in info if key not in ("rank", "world_size")}
    return {**rest, **{key: int(value) for key, value in numbers.items()}}


def _peers(ranks: Any) -> tuple[int, ...]:
    """Ranks of a group, a list or the text of one; none if it is cut short (``...``)."""
    if isinstance(ranks, str):
        if "..." in ranks:
            return ()
        ranks = re.findall(r"\d+", ranks)
    if not isinstance(ranks, list | tuple):
        return ()
    return tuple(sorted({int(rank) for rank in ranks}))


def read(path: Path) -> list[RankEvents]:
    """The rank's GPU events; in a trace of a CPU engine, the operators (``cpu_op``).

    One rank, or one per GPU for a process that drives several and does not say its rank. Read
    event by event: memory grows with the events, not with the text. Raises ``CaptureError``.
    """
    trace = _Trace()
    try:
        for event in _events(path, trace.header):
            trace.add(event)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CaptureError(
            f"{path}: the gzip file is cut short or damaged ({error}); stop the profiler before "
            "the engine ends (llm.stop_profile()), and copy the whole file"
        ) from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, CaptureError):
            raise
        raise CaptureError(f"{path}: not a PyTorch profiler trace ({error!r})") from error
    if not trace.devices and not trace.operators:
        raise EmptyTraceError(
            f"{path}: no kernels and no operators in the trace; profile while requests run "
            "(profiler_config: profiler=torch)"
        )
    distributed = trace.header.get("distributedInfo") or {}
    numbers = sorted(device for device in trace.devices if isinstance(device, int))
    if len(numbers) > 1 and "rank" not in distributed:
        return [
            _rank(path, trace, [trace.devices[device]], place)
            for place, device in enumerate(numbers)
        ]
    if trace.devices:
        return [_rank(path, trace, list(trace.devices.values()), None)]
    return [_rank(path, trace, [], None)]


class EmptyTraceError(CaptureError):
    """A trace that holds nothing to analyse: a front end's, if ranks are beside it."""


def _rank(path: Path, trace: _Trace, parts: list[_Columns], number: int | None) -> RankEvents:
    on_gpu = bool(parts)
    rows = np.concatenate([part.rows() for part in parts]) if on_gpu else trace.operators.rows()
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    start, end, stream, correlation, name = (np.ascontiguousarray(column) for column in rows.T)

    def launched() -> Ints:
        # An operator is its own launch; a kernel's is the runtime call of equal correlation.
        if not on_gpu:
            return start
        pairs = np.frombuffer(trace.calls, dtype=np.int64).reshape(-1, 2)
        return look_up(pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))], correlation)

    ids = trace.ids if on_gpu else trace.operators.ids
    if on_gpu and (trace.recorded or trace.host or trace.gpu):
        name = _named_by_ranges(trace, name, start, launched)
    distributed = trace.header.get("distributedInfo") or {}
    in_name = [first or second for first, second in _RANK_IN_NAME.findall(path.name)]
    rank = distributed.get("rank", int(in_name[-1]) if in_name else 0)
    coordinates = {key.lower(): int(of) for key, of in _PLACE_IN_NAME.findall(path.name)}
    return RankEvents(
        rank=rank if number is None else number,
        source=path.name,
        names=[words for words, _ in ids],
        name=name,
        start=start,
        end=end,
        stream=stream,
        annotations=sorted(trace.annotations, key=lambda annotation: annotation.start),
        launched=launched,
        world=distributed.get("world_size"),
        operators=not on_gpu,
        peers={index: peers for (_, peers), index in ids.items() if peers},
        groups=_groups(distributed.get("pg_config")),
        place=Place(**coordinates) if number is None else Place(),
        training=trace.training,
        unnumbered=number is None and not in_name and "rank" not in distributed,
    )


def _named_by_ranges(trace: _Trace, name: Ints, start: Ints, launched: Callable[[], Ints]) -> Ints:
    """Names of the kernels that run any collective, with that which the range around says.

    The range is on the GPU's timeline around the kernel, or on the host's around its launch.
    """
    names = list(trace.ids)
    vague = np.array([bool(kernels.table().ambiguous.search(words)) for words, _ in names])
    place = np.flatnonzero(vague[name])
    if not len(place):
        return name
    found = name.copy()
    at_host = launched()[place]
    for ranges, times in (
        (trace.recorded, at_host),
        (trace.host, at_host),
        (trace.gpu, start[place]),
    ):
        if not ranges:
            continue
        ordered = sorted(ranges, key=lambda one: one[0])
        begins = np.array([one[0] for one in ordered])
        before = np.searchsorted(begins, times, side="right") - 1
        for event, at, time in zip(place.tolist(), before.tolist(), times.tolist(), strict=True):
            if at < 0 or time >= ordered[at][1] or found[event] != name[event]:
                continue
            words, peers = names[int(name[event])]
            key = kernels.annotated(words, ordered[at][2]), ordered[at][3] or peers
            found[event] = trace.ids.setdefault(key, len(trace.ids))
    return found


def _groups(config: Any) -> tuple[ProcessGroup, ...]:
    """The process groups of ``distributedInfo``; what is not in their form is not one."""
    if not isinstance(config, list):
        return ()
    found = [
        ProcessGroup(str(one.get("pg_desc") or ""), _peers(one.get("ranks")))
        for one in config
        if isinstance(one, dict)
    ]
    return tuple(group for group in found if group.ranks)


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
            header["distributedInfo"] = _numbered(decoder.raw_decode(text, info.end())[0])
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
