"""Snakemake scheduler: all ready jobs that fit, in order of priority; linear in their number.

Snakemake's own ``greedy`` looks at every ready job once for each job that it selects: with 10,000
ready jobs a minute and more in which nothing is submitted. Where ``--jobs`` is larger than the
workflow, as for an executor that packs all that is ready, there is nothing to weigh up.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from snakemake_interface_scheduler_plugins.base import (  # type: ignore[import-untyped]
    SchedulerBase,
)

__all__ = ["Scheduler"]


class Scheduler(SchedulerBase):  # type: ignore[misc]
    """``--scheduler first-fit``."""

    def select_jobs(
        self,
        selectable_jobs: Sequence[Any],
        remaining_jobs: Sequence[Any],
        available_resources: Mapping[str, int],
        input_sizes: Mapping[Any, int],
    ) -> list[Any]:
        """The jobs that fit into ``available_resources`` together, highest priority first."""
        room = dict(available_resources)
        selected = []
        for job in sorted(selectable_jobs, key=lambda job: job.priority, reverse=True):
            needs = job.scheduler_resources
            if all(needs.get(name, 0) <= free for name, free in room.items()):
                selected.append(job)
                for name in room:
                    room[name] -= needs.get(name, 0)
        return selected
