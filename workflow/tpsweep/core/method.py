"""Which version of the measuring made a row: raised when a number of its workload can change.

Rows of two methods are not compared without a flag: ``method`` belongs to what must agree, beside
the settings. It is not part of a cell's identity: a row keeps its id and its place, and one of an
older method stays valid and is not measured again by itself.
"""

from __future__ import annotations

METHOD = {"latency": 3, "throughput": 3, "serve": 3, "capacity": 1, "capture": 3}
"""By workload. 2: cells of a session in shuffled order. Latency and captures: the scheduler is
held until the whole batch is queued. Latency: ``tpot_ms`` is of undisturbed steps. Latency and
throughput: energy of at least 5 s. Captures: decode figures are of late steps. 3: one engine
(``AsyncLLM``) for all of them, whose process serves HTTP, too; not shown to agree with 2."""
FIRST = 1
"""Of rows that were written before there was such a column."""


def method_of(value: int | None) -> int:
    """A row's method from its column, which older rows do not have."""
    return FIRST if value is None else value


LEAST_ENERGY_S = 5.0
"""NVML's energy counter moves about ten times a second: over less, its steps are in the value.
Repeats go on until they have taken as long."""
