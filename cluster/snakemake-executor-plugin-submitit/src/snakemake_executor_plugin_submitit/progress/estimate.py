"""How long the jobs that are left will take, from what was observed: pure.

What is left of a session is its jobs times the mean of those that have ended: in the same session,
else in sessions of the same kind, else in all; and the start of its command, likewise. Sessions
that wait are then laid one behind another on as many places, and as many GPUs, as were in use
during the last two minutes. Cheap jobs often run first, and then the estimate grows.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

from .model import Kind, Model, SessionProgress, State
from .observed import Observed


@dataclass(frozen=True)
class Estimate:
    """Seconds left, None if nothing can be said; ``is_least``: it takes so long at least."""

    seconds: float | None
    is_least: bool = False


UNKNOWN = Estimate(None)


def session_time_left(model: Model, session: SessionProgress, now: float) -> Estimate:
    """What is left of one session, from its start if it waits."""
    own = model.of_kind.get(session.kind, Observed())
    job_s = _first(session.took.value_s, own.job.value_s, model.all.job.value_s)
    if job_s is None:
        return UNKNOWN
    is_running = session.state is State.RUNNING
    work_s = job_s * session.left
    if not session.is_starting:
        # The job at hand has run for a while already, but one that is late is not over.
        since = _first(session.last_at, session.started_at) if is_running else None
        elapsed_s = 0.0 if since is None else now - since
        return Estimate(work_s - min(elapsed_s, job_s if session.left else 0.0))
    start_s = _first(own.start.value_s, model.all.start.value_s)
    if start_s is None:
        return Estimate(work_s, is_least=True)
    if is_running and session.started_at is not None:
        start_s = max(0.0, start_s - (now - session.started_at))
    return Estimate(start_s + work_s)


def time_left(model: Model, now: float) -> Estimate:
    """Until all jobs that were handed over have ended.

    Unknown until a job has ended, and while sessions wait and none has run for a while: how
    long a queue takes cannot be known.
    """
    if not model.left:
        return Estimate(0.0)
    places = model.recent.most(now)
    if model.waiting and not places:
        return UNKNOWN
    in_sessions = sum(session.left for session in model.sessions.values())
    is_least = model.left > in_sessions  # some are not packed yet
    ends: list[tuple[float, str, int]] = []
    waiting: dict[Kind, deque[float]] = {}
    for session in model.sessions.values():
        left = session_time_left(model, session, now)
        if left.seconds is None:
            return UNKNOWN
        is_least = is_least or left.is_least
        if session.state is State.RUNNING:
            ends.append((left.seconds, session.key.gpu_type, session.key.gpus))
        else:
            waiting.setdefault(session.kind, deque()).append(left.seconds)
    if not ends and not waiting:
        return UNKNOWN
    free, is_new = _free_gpus(model, waiting, now)
    return Estimate(_last_end(ends, waiting, places - len(ends), free), is_least or is_new)


def _free_gpus(
    model: Model, waiting: dict[Kind, deque[float]], now: float
) -> tuple[dict[str, int], bool]:
    """GPUs by type that sessions can have now; whether a type is asked for of which none ran."""
    most = {name: recent.most(now) for name, recent in model.recent_gpus.items()}
    is_new = any(kind.gpus and not most.get(kind.gpu_type) for kind in waiting)
    for kind in waiting:  # one alone fits, or it would not be there
        most[kind.gpu_type] = max(most.get(kind.gpu_type, 0), kind.gpus)
    return {name: gpus - model.gpus.get(name, 0) for name, gpus in most.items()}, is_new


def _last_end(
    ends: list[tuple[float, str, int]],
    waiting: dict[Kind, deque[float]],
    places: int,
    free: dict[str, int],
) -> float:
    """When the last session ends, if each starts as soon as there is a place and GPUs for it."""
    heapq.heapify(ends)
    now_s = last_s = 0.0
    while True:
        for kind, sessions in waiting.items():
            while sessions and places > 0 and kind.gpus <= free.get(kind.gpu_type, 0):
                heapq.heappush(ends, (now_s + sessions.popleft(), kind.gpu_type, kind.gpus))
                places -= 1
                free[kind.gpu_type] = free.get(kind.gpu_type, 0) - kind.gpus
        if not ends:
            return last_s
        now_s, gpu_type, gpus = heapq.heappop(ends)
        last_s = max(last_s, now_s)
        places += 1
        free[gpu_type] = free.get(gpu_type, 0) + gpus


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
