"""Which jobs share a session: pure functions from jobs to sessions."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from .runner import Cell
from .site import Site

READABLE_LIMIT = 48


class PackingError(ValueError):
    """Resources that no session can have; one line naming the resource, value and allowed."""


@dataclass(frozen=True)
class SessionKey:
    """What cells must have in common to share a session ("" for none, 0 GPUs for none)."""

    session: str
    command: str
    gpu_type: str
    gpus: int


@dataclass(frozen=True)
class Request:
    """A job that wants to run: times in minutes, None for no limit; a low ``order`` runs early."""

    key: SessionKey
    cell: Cell
    order: int = 0
    start_minutes: float | None = None

    @property
    def minutes(self) -> float:
        """The job's share of a session's time; 0 if it has no limit."""
        return (self.cell.limit_s or 0) / 60


@dataclass(frozen=True)
class Session:
    """Cells in the order in which they run; ``minutes`` is the longest that they may take."""

    id: str
    key: SessionKey
    cells: list[Cell]
    start_minutes: float | None
    minutes: float

    def __str__(self) -> str:
        plural = "" if len(self.cells) == 1 else "s"
        where = f", {self.key.gpus} x {self.key.gpu_type}" if self.key.gpus else ""
        return f"session {self.id}: {len(self.cells)} job{plural}{where}"


def check(request: Request, site: Site) -> None:
    """Raise ``PackingError`` if ``site`` has no node, or no time, for what is asked."""
    key = request.key
    known = ", ".join(site.gpus)
    if key.gpu_type and key.gpu_type not in site.gpus:
        raise PackingError(
            f"gpu_type: {key.gpu_type!r} is not of site {site.name}, allowed: {known}"
        )
    if key.gpus < 0:
        raise PackingError(f"gpus: {key.gpus}, allowed: 0 and more")
    if key.gpus and not key.gpu_type:
        raise PackingError(f"gpus: {key.gpus} need a gpu_type, allowed: {known}")
    if key.gpus and key.gpus > site.gpus[key.gpu_type].per_node:
        most = site.gpus[key.gpu_type].per_node
        raise PackingError(f"gpus: {key.gpus} of {key.gpu_type}, allowed: up to {most} (one node)")
    longest = site.session_minutes(key.gpu_type)
    asked = (request.start_minutes or 0) + request.minutes
    if longest is not None and asked > longest:
        raise PackingError(
            f"runtime + session_runtime: {asked:g}, allowed: up to {longest} minutes"
        )


def pack(requests: Iterable[Request], site: Site) -> list[Session]:
    """Sessions of jobs with equal keys, in order of ``order``, split at the site's limits.

    Every request is in exactly one session. Keys keep the order of their first request.
    """
    groups: dict[SessionKey, list[Request]] = {}
    for request in requests:
        groups.setdefault(request.key, []).append(request)
    return [
        _session(key, chunk)
        for key, group in groups.items()
        for chunk in _split(
            sorted(group, key=lambda request: request.order),
            site.max_cells_per_session,
            site.session_minutes(key.gpu_type),
        )
    ]


def _split(requests: list[Request], most: int, longest: float | None) -> Iterable[list[Request]]:
    start = max((request.start_minutes or 0 for request in requests), default=0)
    chunk: list[Request] = []
    minutes = start
    for request in requests:
        full = len(chunk) == most or (longest is not None and minutes + request.minutes > longest)
        if chunk and full:
            yield chunk
            chunk, minutes = [], start
        chunk.append(request)
        minutes += request.minutes
    yield chunk


def _session(key: SessionKey, requests: list[Request]) -> Session:
    starts = [r.start_minutes for r in requests if r.start_minutes is not None]
    start = max(starts, default=None)
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", key.session)[:READABLE_LIMIT].strip("._-")
    return Session(
        id=f"{readable or 'jobs'}-{uuid.uuid4().hex[:8]}",
        key=key,
        cells=[request.cell for request in requests],
        start_minutes=start,
        minutes=(start or 0) + sum(request.minutes for request in requests),
    )
