"""Which jobs share a session: pure functions from jobs to sessions."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from .site import Site
from .spec import Cell, SessionSpec

READABLE_LIMIT = 48


class PackingError(ValueError):
    """Resources that no session can have; one line naming the resource, value and allowed."""


@dataclass(frozen=True)
class SessionKey:
    """What cells must have in common to share a session ("" for none, 0 GPUs for none).

    ``gpus`` are all of them, in equal parts on ``nodes``.
    ``threads`` and ``mem_mb`` are what a session without GPUs asks for; 0: the site's own way.
    ``mem_mb_per_cpu``, ``partition`` and ``constraint`` override the site's flags.
    """

    session: str
    command: str
    gpu_type: str
    gpus: int
    threads: int = 0
    mem_mb: int = 0
    mem_mb_per_cpu: int = 0
    partition: str = ""
    constraint: str = ""
    nodes: int = 1

    @property
    def gpus_per_node(self) -> int:
        """GPUs on each of its nodes."""
        return self.gpus // self.nodes


@dataclass(frozen=True)
class Request:
    """A job that wants to run: times in minutes, None for no limit; a low ``order`` runs early."""

    key: SessionKey
    cell: Cell
    order: int = 0
    start_minutes: float | None = None
    outputs: list[Path] = field(default_factory=list)
    inputs: list[Path] = field(default_factory=list)
    """Files that no output may be older than."""
    is_alone: bool = False
    """It must not share its job with any other."""
    is_asked_anew: bool = False
    """No earlier result will do."""

    @property
    def minutes(self) -> float:
        """The job's share of a session's time; 0 if it has no limit."""
        return (self.cell.limit_s or 0) / 60

    @property
    def alone_minutes(self) -> float | None:
        """What a session with this job alone may take; None if there is no limit."""
        if self.cell.limit_s is None or (self.key.command and self.start_minutes is None):
            return None
        return (self.start_minutes or 0) + self.minutes


@dataclass(frozen=True)
class Session:
    """Cells in the order in which they run.

    ``minutes`` is the longest that they may take, together with the start of the command; None if
    one of them has no limit.
    """

    id: str
    key: SessionKey
    cells: list[Cell]
    start_minutes: float | None
    minutes: float | None
    requests: dict[str, Request] = field(default_factory=dict, compare=False)
    """Of jobs that share it without asking for it: they are not to pay for each other's end."""

    def __str__(self) -> str:
        plural = "" if len(self.cells) == 1 else "s"
        where = f", {self.key.gpus} x {self.key.gpu_type}" if self.key.gpus else ""
        where += f" on {self.key.nodes} nodes" if self.key.nodes > 1 else ""
        return f"session {self.id}: {len(self.cells)} job{plural}{where}"


def check(request: Request, site: Site) -> None:
    """Raise ``PackingError`` if ``site`` has no node, or no time, for what is requested."""
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
    _check_nodes(key, site)
    longest = site.work_minutes(key.gpu_type)
    asked = (request.start_minutes or 0) + request.minutes
    if longest is not None and asked > longest:
        raise PackingError(
            f"runtime + session_runtime: {asked:g}, allowed: up to {longest} minutes"
        )


def _check_nodes(key: SessionKey, site: Site) -> None:
    """Raise ``PackingError`` if the nodes are not to be had, or hold too few GPUs."""
    if key.nodes < 1:
        raise PackingError(f"nodes: {key.nodes}, allowed: 1 and more")
    if key.nodes > 1:
        if site.cluster != "slurm":
            raise PackingError(f"nodes: {key.nodes}, allowed: 1 on this host")
        if not key.command:
            raise PackingError(
                f"nodes: {key.nodes}, allowed: 1 without session_command (a job runs on one node)"
            )
        if key.gpu_type and key.nodes > site.gpus[key.gpu_type].nodes:
            most = site.gpus[key.gpu_type].nodes
            raise PackingError(f"nodes: {key.nodes} of {key.gpu_type}, allowed: up to {most}")
        if not key.gpus:
            raise PackingError(f"nodes: {key.nodes}, allowed: 1 without gpus")
        if key.gpus % key.nodes:
            raise PackingError(
                f"nodes: {key.nodes} for {key.gpus} gpus, allowed: a divisor of them"
            )
    if key.gpus and key.gpus_per_node > site.gpus[key.gpu_type].per_node:
        most = site.gpus[key.gpu_type].per_node * key.nodes
        where = "one node" if key.nodes == 1 else f"{key.nodes} nodes"
        raise PackingError(f"gpus: {key.gpus} of {key.gpu_type}, allowed: up to {most} ({where})")


def pack(requests: Iterable[Request], site: Site) -> list[Session]:
    """Sessions of jobs with equal keys, in order of ``order``, split at the site's limits.

    Every request is in exactly one session. Keys keep the order of their first request. On Slurm
    jobs without ``session`` share one of ``pack_minutes`` if all of it is known to be enough.
    """
    groups: dict[SessionKey, list[Request]] = {}
    for request in requests:
        groups.setdefault(request.key, []).append(request)
    sessions = []
    for key, group in groups.items():
        ordered = sorted(group, key=lambda request: request.order)
        longest = site.work_minutes(key.gpu_type)
        if key.session or site.cluster == "local":
            chunks = _split(ordered, site.max_cells_per_session, longest)
            sessions += [_session(key, chunk) for chunk in chunks]
            continue
        short = [request for request in ordered if _is_short(request, site)]
        alone = [request for request in ordered if not _is_short(request, site)]
        sessions += [_session(key, [request]) for request in alone]
        for chunk in _split(short, site.max_cells_per_session, site.shared_minutes(key.gpu_type)):
            session = _session(key, chunk)
            sessions.append(replace(session, requests={r.cell.id: r for r in chunk}))
    return sessions


def _is_short(request: Request, site: Site) -> bool:
    """Whether a job may share its session with others that never asked for one."""
    limit_s = request.cell.limit_s
    is_known = limit_s is not None and not request.key.command
    most = site.shared_minutes(request.key.gpu_type)
    return is_known and not request.is_alone and 2 * request.minutes <= most


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
    if chunk:
        yield chunk


def _session(key: SessionKey, requests: list[Request]) -> Session:
    starts = [r.start_minutes for r in requests if r.start_minutes is not None]
    start = max(starts, default=None)
    unlimited = any(request.alone_minutes is None for request in requests)
    return Session(
        id=_new_id(key),
        key=key,
        cells=[request.cell for request in requests],
        start_minutes=start,
        minutes=None if unlimited else (start or 0) + sum(request.minutes for request in requests),
    )


def renamed(session: Session) -> Session:
    """The same session under another id."""
    return replace(session, id=_new_id(session.key))


def spec_of(
    session: Session,
    logdir: Path,
    environment: Mapping[str, str | None],
    *,
    limit_s: float | None = None,
    watched: tuple[int, int] | None = None,
) -> SessionSpec:
    """What the session's runner is told; its spool is below ``logdir``."""
    start = session.start_minutes
    return SessionSpec(
        id=session.id,
        key=session.key.session,
        command=session.key.command or None,
        cells=list(session.cells),
        gpus=session.key.gpus,
        workdir=Path.cwd(),
        folder=logdir / session.id,
        start_limit_s=None if start is None else start * 60,
        limit_s=limit_s,
        environment=dict(environment),
        watched=watched,
        nodes=session.key.nodes,
    )


def _new_id(key: SessionKey) -> str:
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", key.session)[:READABLE_LIMIT].strip("._-")
    return f"{readable or 'jobs'}-{uuid.uuid4().hex[:8]}"
