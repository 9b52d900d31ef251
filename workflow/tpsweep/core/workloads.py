"""The kinds of workload, and what the rest of the program asks of them. Standard library only.

A new kind is an entry here, its lists in ``core.axes``, its keys in ``config.settings``, a function
in ``measure.workloads`` that measures it, and a table.
"""

from __future__ import annotations

from dataclasses import dataclass

LATENCY, THROUGHPUT, SERVE, CAPACITY = "latency", "throughput", "serve", "capacity"
CAPTURE = "capture"
OFFLINE, SERVER = "offline", "server"
"""Modes of an engine: requests by function call, or over HTTP on loopback."""
ENGINE = "engine"
"""Mode of an engine that takes both: one start for cells of either mode."""


@dataclass(frozen=True)
class Kind:
    """``is_static``: one batch that begins and ends together; else a set of requests.

    ``mode``: how its requests reach the engine. ``has_prefill``, ``has_decode``: the row gives the
    time of that phase unprofiled, to compare with an expectation. ``is_profiled``: what
    runs is not timed, and nothing is timed after it in the same session.
    """

    name: str
    is_static: bool
    mode: str
    has_prefill: bool = False
    has_decode: bool = False
    is_profiled: bool = False


KINDS = {
    kind.name: kind
    for kind in (
        Kind(LATENCY, is_static=True, mode=OFFLINE, has_prefill=True, has_decode=True),
        Kind(THROUGHPUT, is_static=False, mode=OFFLINE),
        Kind(SERVE, is_static=False, mode=SERVER, has_decode=True),
        Kind(CAPACITY, is_static=False, mode=SERVER),
        Kind(CAPTURE, is_static=True, mode=OFFLINE, is_profiled=True),
    )
}
WORKLOADS = tuple(KINDS)
"""Names of the kinds: each has a rule of its name."""
