"""SLOs as counts: how many requests kept each limit of served load. Standard library only.

Every limit is a share of requests (of ITL: of the gaps between tokens) within some milliseconds:
``ttft_p99_ms: 500`` says that 99 % of the requests have their first token within 500 ms. So the
requests of several runs can be counted together, and a run that has lost is known before it ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tpsweep.core.slo import GOODPUT, PER_REQUEST

TAIL = 20
"""Requests that must lie beyond a limit's share, for the share to be known at all."""
SATURATED = "saturated"
"""In place of a limit: more came than was served, so that no percentile of it holds."""
FLYING = 0.5
"""Of all requests that were sent: with more under way, half of the load is more than is served."""
PATIENCE = 6.0
"""So many times what a request takes must have passed before many under way are called a queue: of
a rate that is served, a sixth of all are then under way."""
MOST_SHARE = 0.999
"""Of a limit: ``TAIL`` requests beyond a larger one are more than a run can send."""
PER_TOKEN = ("tpot", "itl")
"""Metrics of the tokens after the first: an answer of one token has none."""
_ROUND = 1e-9
"""Of shares: 0.99 of 1,000 requests allows 10 beyond, whatever 1 - 0.99 is in binary."""


@dataclass(frozen=True)
class Times:
    """What one request took, in ms; ``itl``: each gap between its tokens."""

    ttft: float
    tpot: float
    e2e: float
    itl: Sequence[float]


@dataclass(frozen=True)
class Counts:
    """``kept`` of ``of`` requests (or gaps) were within a limit; ``value_ms``: its percentile, None
    of a goodput share."""

    kept: int
    of: int
    value_ms: float | None = None


@dataclass(frozen=True)
class Limit:
    """``share`` of the requests have every metric of ``most_ms`` within its milliseconds."""

    name: str
    share: float
    most_ms: Mapping[str, float]

    @property
    def is_per_token(self) -> bool:
        """Whether gaps between tokens are counted, not requests."""
        return "itl" in self.most_ms

    def count(self, times: Times) -> tuple[int, int]:
        """Of one request: how many were within the limit, of how many."""
        if self.is_per_token:
            most = self.most_ms["itl"]
            return sum(gap <= most for gap in times.itl), len(times.itl)
        kept = all(getattr(times, metric) <= most for metric, most in self.most_ms.items())
        return int(kept), 1

    def is_kept(self, kept: int, of: int) -> bool:
        """Whether so many are enough."""
        return of > 0 and of - kept <= self.allowed(of)

    def allowed(self, of: int) -> int:
        """How many may lie beyond it."""
        return math.floor((1 - self.share) * of + _ROUND)

    def strain(self, kept: int, of: int) -> float:
        """Beyond it over what may lie beyond it: above 1 it is not kept."""
        return (of - kept) / max((1 - self.share) * of, _ROUND) if of else 0.0

    @property
    def least_requests(self) -> int:
        """Requests that a run needs for the share to be known: ``TAIL`` beyond it."""
        return math.ceil(TAIL / max(1 - self.share, 1 - MOST_SHARE) - _ROUND)


@dataclass(frozen=True)
class JudgedSlo:
    """A name and its limits, all of which must be kept."""

    name: str
    limits: tuple[Limit, ...]

    @classmethod
    def of(cls, name: str, limits: Mapping[str, float]) -> JudgedSlo:
        """From the config's mapping, checked there."""
        found = []
        for key, value in limits.items():
            if key in PER_REQUEST:
                continue
            if key == GOODPUT:
                each = {n.removesuffix("_ms"): limits[n] for n in PER_REQUEST if n in limits}
                found.append(Limit(GOODPUT, value, each))
            else:
                metric, p, _ = key.split("_")
                found.append(Limit(key, int(p[1:]) / 100, {metric: value}))
        return cls(name, tuple(found))

    @property
    def least_requests(self) -> int:
        """Requests that a run needs for each of its limits."""
        return max(limit.least_requests for limit in self.limits)


def slos_of(mapping: Mapping[str, Mapping[str, float]]) -> tuple[JudgedSlo, ...]:
    """The config's SLOs, in its order."""
    return tuple(JudgedSlo.of(name, limits) for name, limits in mapping.items())


@dataclass(frozen=True)
class Stop:
    """When a run is hopeless: every one of ``slos`` has lost a limit, or after ``patience_s``, and
    ``PATIENCE`` times the longest decode seen, more than ``FLYING`` of all requests are under way.

    Judged are the requests ``first`` to ``last`` (not included); ``tokens``: their gaps between
    tokens, at most. ``runs``: how many runs like this one are counted together; a limit is
    lost once this one alone has more beyond it than all of them may have.
    """

    slos: tuple[JudgedSlo, ...]
    first: int
    last: int
    tokens: int
    patience_s: float
    runs: int = 1


class Watch:
    """Counts requests as they end, and says when the run is hopeless."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._ended = 0
        self._decode_s = 0.0
        self._beyond = {(slo.name, limit.name): 0 for slo in stop.slos for limit in slo.limits}
        self.lost: dict[str, str] = {}
        """The limit that a lost SLO has lost first, by the SLO's name."""

    def add(self, place: int, times: Times, sent: int, elapsed_s: float) -> None:
        """A request has ended, ``elapsed_s`` after the run began; ``place``: in the order of
        sending; ``sent``: so far."""
        self._ended += 1
        # A wait for the first token says nothing here: in a queue it grows as long as the run.
        self._decode_s = max(self._decode_s, (times.e2e - times.ttft) / 1e3)
        patience_s = max(self._stop.patience_s, PATIENCE * self._decode_s)
        if elapsed_s > patience_s and sent - self._ended > FLYING * sent:
            for slo in self._stop.slos:
                self.lost.setdefault(slo.name, SATURATED)
        if not self._stop.first <= place < self._stop.last:
            return
        for slo in self._stop.slos:
            for limit in slo.limits:
                kept, of = limit.count(times)
                self._beyond[slo.name, limit.name] += of - kept
                judged = self._stop.last - self._stop.first
                total = self._stop.tokens if limit.is_per_token else judged
                if self._beyond[slo.name, limit.name] > limit.allowed(self._stop.runs * total):
                    self.lost.setdefault(slo.name, limit.name)

    @property
    def is_hopeless(self) -> bool:
        """Every SLO has lost a limit, whatever the requests that are still to come take."""
        return len(self.lost) == len(self._stop.slos)
