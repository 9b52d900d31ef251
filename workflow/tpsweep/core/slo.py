"""A service-level objective: limits of latency percentiles, and what a search says of one.

Standard library only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

METRICS = ("ttft", "tpot", "itl", "e2e")
PERCENTILES = (50, 90, 95, 99)
LIMITS = tuple(f"{metric}_p{p}_ms" for metric in METRICS for p in PERCENTILES)
"""Names of limits: columns of a ``serve`` row."""
PER_REQUEST = ("ttft_ms", "tpot_ms", "e2e_ms")
"""Limits of one request, for ``GOODPUT``."""
GOODPUT = "goodput_share"
OF_REQUESTS = (*PER_REQUEST, GOODPUT)
"""Limits of single requests and the share that keeps them: only a search counts these."""
BRACKET, NOTHING_PASSES, NOTHING_FAILS = "bracket", "nothing passes", "nothing fails"
NOT_MONOTONIC, UNFINISHED = "not monotonic", "unfinished"
"""Verdicts of a search for the highest rate."""
ALLOWED = f"(ttft|tpot|itl|e2e)_p(50|90|95|99)_ms, or {', '.join(PER_REQUEST)} with {GOODPUT}"
_PAIR = re.compile(r"\s*([\w]+)\s*=\s*(\S+)\s*")


@dataclass(frozen=True)
class Slo:
    """Limits in ms, by name; all must hold. ``name`` is the config's, or the limits themselves."""

    name: str
    limits: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, name: str, limits: Mapping[str, Any]) -> Slo:
        """Of a mapping as the config has it. Raises ``ValueError`` (one line)."""
        if not limits:
            raise ValueError(f"{name}: no limit, allowed: {ALLOWED}: milliseconds")
        for key, value in limits.items():
            if key not in (*LIMITS, *OF_REQUESTS):
                raise ValueError(f"{key}: unknown, allowed: {ALLOWED}")
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value <= 0:
                raise ValueError(f"{key}: {value!r}, allowed: milliseconds above 0")
            if key == GOODPUT and value >= 1:
                raise ValueError(f"{key}: {value!r}, allowed: above 0, below 1")
        if (GOODPUT in limits) != any(key in limits for key in PER_REQUEST):
            each = ", ".join(PER_REQUEST)
            raise ValueError(f"{', '.join(limits)}: allowed: {GOODPUT} together with {each}")
        ordered = (key for key in (*LIMITS, *OF_REQUESTS) if key in limits)
        return cls(name, tuple((key, float(limits[key])) for key in ordered))

    @classmethod
    def parse(cls, text: str) -> Slo:
        """Of ``ttft_p99_ms=500,tpot_p99_ms=50``. Raises ``ValueError`` (one line)."""
        limits: dict[str, Any] = {}
        for part in text.split(","):
            found = _PAIR.fullmatch(part)
            if found is None:
                raise ValueError(
                    f"{part!r}, allowed: limits such as ttft_p99_ms=500,tpot_p99_ms=50"
                )
            if found[1] in limits:
                raise ValueError(f"{found[1]}: given twice, allowed: once")
            try:
                limits[found[1]] = float(found[2])
            except ValueError:
                raise ValueError(f"{found[1]}: {found[2]!r}, allowed: milliseconds") from None
        return cls.of(text, limits)

    @property
    def by_name(self) -> dict[str, float]:
        """The limits by name."""
        return dict(self.limits)

    @property
    def is_of_percentiles(self) -> bool:
        """Whether percentiles alone tell if it is kept."""
        return all(name in LIMITS for name, _ in self.limits)

    @property
    def words(self) -> str:
        """``TTFT p99 <= 500 ms, TPOT p99 <= 50 ms``."""
        if not self.is_of_percentiles:
            return ", ".join(f"{name} {limit:g}" for name, limit in self.limits)
        said = ([*name.removesuffix("_ms").split("_"), f"{limit:g}"] for name, limit in self.limits)
        return ", ".join(f"{metric.upper()} {p} <= {limit} ms" for metric, p, limit in said)

    def implies(self, other: Slo | None) -> bool:
        """Whether what keeps this keeps ``other``, too: each limit of ``other`` is here, as strict
        or stricter. None: no limit."""
        own = self.by_name
        return all(
            name in own and (own[name] >= limit if name == GOODPUT else own[name] <= limit)
            for name, limit in (other.limits if other else ())
        )

    def keeps(self, percentiles: Mapping[str, Any]) -> bool:
        """Whether every limit is known to hold."""
        return not self.failed(percentiles) and not self.unknown(percentiles)

    def failed(self, percentiles: Mapping[str, Any]) -> list[str]:
        """Names of the limits that are known not to hold."""
        limits = ((name, limit) for name, limit in self.limits if name in LIMITS)
        known = ((name, limit, percentiles.get(name)) for name, limit in limits)
        return [name for name, limit, value in known if value is not None and value > limit]

    def unknown(self, percentiles: Mapping[str, Any]) -> list[str]:
        """Names of the limits of which nothing is known: too few requests for the percentile."""
        names = (name for name, _ in self.limits)
        return [name for name in names if name not in LIMITS or percentiles.get(name) is None]
