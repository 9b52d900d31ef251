"""What a sweep costs: GPU hours and hours, packed into sessions and with an engine start per cell.

GPU hours are GPUs held x time, from an engine's start to its session's end. What a cell takes is
expected where there is an expectation, else what rows like it took here (``plan.evidence``), else
its own time limit, and that is counted.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from snakemake_executor_plugin_submitit.site import Site
from tpsweep.core.cell import Engine
from tpsweep.perfmodel.cell_time import CellExpectation, cost
from tpsweep.plan.sessions import Array, PlannedSession, make_arrays


@dataclass(frozen=True)
class ClassCost:
    """The sessions of a node class and a number of GPUs; ``limit_gpu_hours`` is what they ask for.

    ``at_limit`` cells have no known time and count with their limit. ``longest_hours`` is the
    longest expected session. Each takes ``nodes``.
    """

    gpu: str
    gpus: int
    nodes: int
    cells: int
    sessions: int
    arrays: tuple[int, ...]
    longest_limit_minutes: float
    allowed_minutes: int | None
    longest_hours: float
    gpu_hours: float
    gpu_hours_unpacked: float
    limit_gpu_hours: float
    at_limit: int

    @property
    def saving(self) -> float | None:
        """How many times more GPU hours it would take unpacked; None where no cell's time is known:
        limits would hide the starts."""
        known = self.at_limit < self.cells
        return self.gpu_hours_unpacked / self.gpu_hours if known else None


@dataclass(frozen=True)
class Cost:
    """All classes, and ``hours``: how long it takes if nothing waits in a queue."""

    classes: list[ClassCost]
    hours: float

    @property
    def sessions(self) -> int:
        """Engine starts."""
        return sum(one.sessions for one in self.classes)

    @property
    def gpu_hours(self) -> float:
        """Expected, packed."""
        return sum(one.gpu_hours for one in self.classes)

    @property
    def gpu_hours_unpacked(self) -> float:
        """Expected, with an engine start for every cell."""
        return sum(one.gpu_hours_unpacked for one in self.classes)

    @property
    def limit_gpu_hours(self) -> float:
        """If every session took all that it asks for."""
        return sum(one.limit_gpu_hours for one in self.classes)

    @property
    def saving(self) -> float | None:
        """How many times more GPU hours it would take unpacked; None without a cell whose time is
        known."""
        known = self.at_limit < sum(one.cells for one in self.classes)
        return self.gpu_hours_unpacked / self.gpu_hours if known else None

    @property
    def at_limit(self) -> int:
        """Cells that count with their limit."""
        return sum(one.at_limit for one in self.classes)


Seconds = Mapping[str, CellExpectation]
"""What is expected of each cell, by its id."""
StartSeconds = Callable[[Engine], float]
"""What an engine's start should take."""


def make_cost(
    sessions: list[PlannedSession],
    site: Site,
    start_of: StartSeconds,
    expected: Seconds,
) -> Cost:
    """The cost of ``sessions``; ``expected`` has every cell of them."""
    arrays = make_arrays(sessions, site)
    groups: dict[tuple[str, int], list[PlannedSession]] = defaultdict(list)
    for session in sessions:
        groups[session.gpu, session.gpus].append(session)
    seconds = {id(one): session_seconds(one, start_of, expected) for one in sessions}
    classes = [
        _class(gpu, gpus, group, arrays, site, start_of, expected, seconds)
        for (gpu, gpus), group in sorted(groups.items())
    ]
    return Cost(classes, _hours(sessions, arrays, site, seconds))


def _class(
    gpu: str,
    gpus: int,
    group: list[PlannedSession],
    arrays: list[Array],
    site: Site,
    start_of: StartSeconds,
    expected: Seconds,
    seconds: Mapping[int, float],
) -> ClassCost:
    jobs = [job for session in group for job in session.jobs]
    alone = sum(
        start_of(job.cell.engine)
        + _cell_seconds(expected[job.cell.cell_id], job.minutes)
        + cost("session_end_s")
        for job in jobs
    )
    packed = [seconds[id(one)] for one in group]
    return ClassCost(
        gpu=gpu,
        gpus=gpus,
        nodes=group[0].nodes,
        cells=len(jobs),
        sessions=len(group),
        arrays=tuple(len(a.sessions) for a in arrays if (a.gpu, a.gpus) == (gpu, gpus)),
        longest_limit_minutes=max(one.limit_minutes for one in group),
        allowed_minutes=site.session_minutes(gpu),
        longest_hours=max(packed) / 3600,
        gpu_hours=gpus * sum(packed) / 3600,
        gpu_hours_unpacked=gpus * alone / 3600,
        limit_gpu_hours=gpus * sum(one.limit_minutes for one in group) / 60,
        at_limit=sum(expected[job.cell.cell_id].seconds is None for job in jobs),
    )


def session_seconds(session: PlannedSession, start_of: StartSeconds, expected: Seconds) -> float:
    """One engine start, its cells, and the end."""
    cells = (_cell_seconds(expected[job.cell.cell_id], job.minutes) for job in session.jobs)
    engine = session.jobs[0].cell.engine
    return start_of(engine) + sum(cells) + cost("session_end_s")


def _cell_seconds(expected: CellExpectation, minutes: int) -> float:
    return minutes * 60 if expected.seconds is None else expected.seconds


def _hours(
    sessions: list[PlannedSession], arrays: list[Array], site: Site, seconds: Mapping[int, float]
) -> float:
    """Until the last session ends, nothing waiting for anybody else.

    On Slurm ``parallel`` sessions of an array at a time, arrays side by side; on a host
    ``parallel`` sessions in all, as far as its GPUs go.
    """
    if site.cluster == "slurm":
        ends = [
            _last_end(((seconds[id(one)], 1) for one in array.sessions), site.parallel)
            for array in arrays
        ]
        return max(ends, default=0.0) / 3600
    most = max((site.gpus[one.gpu].per_node for one in sessions), default=0)
    each = max(1, -(-most // site.parallel))  # places are GPUs; a session takes at least its share
    asked = ((seconds[id(one)], max(one.gpus, each)) for one in sessions)
    return _last_end(asked, max(most, 1)) / 3600


def _last_end(asked: Iterable[tuple[float, int]], places: int) -> float:
    """When the last of (seconds, places) ends, each started as soon as there is room, in order."""
    running: list[tuple[float, int]] = []
    now, free = 0.0, places
    for seconds, wanted in asked:
        wanted = min(wanted, places)
        while free < wanted:
            now, freed = heapq.heappop(running)
            free += freed
        free -= wanted
        heapq.heappush(running, (now + seconds, wanted))
    return max((end for end, _ in running), default=0.0)
