"""What in a reference data set contradicts itself or the hardware: one pure function per check.

Every rule is general: it knows metrics, cards and arithmetic, and no data set. A rule says what
cannot hold together; which of the figures is the wrong one, it cannot say.
"""

from __future__ import annotations

from collections.abc import Callable

from tpsweep.lab.reference.checks import definitions, limits, scaling, values
from tpsweep.lab.reference.checks.finding import Finding
from tpsweep.lab.reference.reading import Reference

Check = Callable[[Reference], list[Finding]]
CHECKS: dict[str, tuple[str, Check]] = {
    "two-values": ("Does the same quantity have two values?", values.two_values),
    "token-time-scaling": (
        "Does more TP help in one table and not in another?",
        scaling.token_time_scaling,
    ),
    "offline-scaling": (
        "Does a served load gain from TP where offline throughput gains nothing?",
        scaling.offline_scaling,
    ),
    "prefill-in-token-time": (
        "Is the time per token just latency / tokens?",
        definitions.prefill_in_token_time,
    ),
    "rate-identity": (
        "Do latency and throughput of a batch agree?",
        definitions.rate_identity,
    ),
    "derived-ttft": (
        "Are TTFT and ITL independent measurements?",
        definitions.derived_ttft,
    ),
    "unexplained-ttft": ("Does the load explain the TTFT?", limits.unexplained_ttft),
    "below-floor": ("Is a decode step faster than the memory?", limits.below_floor),
}
"""By the id that findings carry: the question and its check. A new check is an entry here."""


def examine(reference: Reference) -> list[Finding]:
    """Every finding, in the order of ``CHECKS``."""
    return [found for _, check in CHECKS.values() for found in check(reference)]


__all__ = ["CHECKS", "Finding", "examine"]
