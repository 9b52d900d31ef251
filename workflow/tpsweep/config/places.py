"""Where in config.yaml a key stands, for one that was written in another place."""

from __future__ import annotations

from typing import get_args

from tpsweep.config.settings import (
    LayoutEntry,
    ModelEntry,
    Pins,
    Settings,
    Slo,
    SloLimits,
    Workload,
    WorkloadEntry,
)
from tpsweep.config.types import Closed
from tpsweep.core.workloads import SERVE

KINDS: dict[str, type[Workload]] = {
    get_args(model.model_fields["kind"].annotation)[0]: model
    for model in get_args(get_args(WorkloadEntry)[0])
}
"""The keys of each kind of workload."""


def places_of(key: str) -> list[str]:
    """Every place that has ``key``, such as ``slos.<name>``."""
    found = ["the top level"] if key in Settings.model_fields else []
    kinds = [kind for kind, model in KINDS.items() if key in model.model_fields]
    if kinds:
        some = "" if len(kinds) == len(KINDS) else f" ({', '.join(kinds)})"
        found.append(f"workloads.<name>{some}")
    inner: dict[str, type[Closed]] = {
        "workloads.<name>.engine": Pins,
        f"workloads.<name>.slo ({SERVE})": Slo,
        "slos.<name>": SloLimits,
        "layouts": LayoutEntry,
        "models.<name>": ModelEntry,
    }
    return found + [place for place, model in inner.items() if key in model.model_fields]
