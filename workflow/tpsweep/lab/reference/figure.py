"""One published figure: what it is of, its value as printed, and the words for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

METRICS = {
    "batch_latency": "ms",
    "per_token_latency": "ms",
    "ttft_p50": "ms",
    "itl_p50": "ms",
    "throughput": "tok/s",
    "offline_throughput": "req/s",
}
"""Every metric with its unit. ``throughput`` counts output tokens."""
WORKLOADS = ("latency", "throughput", "serve")
"""As in this project: a static batch, offline requests, online requests."""
Place = tuple[object, ...]


@dataclass(frozen=True)
class Figure:
    """A line of a reference data set; None: not stated.

    ``gpu``: node class as published, ``node``: what else tells the machine apart. ``batch`` is of
    a static batch only, ``request_rate`` (requests/s, infinite if all are sent at once) of a served
    load. ``half_unit`` is half of the last digit that ``value`` was printed with.
    """

    table: str
    model: str
    gpu: str
    node: str | None
    gpus: int
    tp: int
    batch: int | None
    workload: str
    output_len: int | None
    request_rate: float | None
    metric: str
    value: float
    half_unit: float
    unit: str
    note: str | None

    @property
    def engine(self) -> Place:
        """Model, node class and machine: what is compared over TPs."""
        return (self.model, self.gpu, self.node)

    @property
    def setting(self) -> Place:
        """All but table, metric and output length: figures of an equal setting in one table are of
        the same runs."""
        load = (self.workload, self.batch, self.request_rate)
        return (*self.engine, self.gpus, self.tp, *load)

    @property
    def load(self) -> str:
        """The kind of load, for people."""
        if self.request_rate is None:
            return self.workload
        at = "all at once" if math.isinf(self.request_rate) else f"{self.request_rate:g}/s"
        return f"{self.workload}, {at}"

    @property
    def words(self) -> str:
        """What it is of and its value, for people."""
        machine = f"{self.gpu} ({self.node} node)" if self.node else self.gpu
        batch = f", batch {self.batch}" if self.batch else ""
        what = f"{self.model}, {machine}, TP={self.tp}{batch}"
        return f"{what}: {self.metric} {self.value:g} {self.unit} [{self.table}]"
