"""The search for the highest rate at which SLOs hold: what to probe next, or the answer. Pure.

The probes so far are all its state, so that a search that was killed goes on where it was. One
probe is judged for every SLO. For each of them: double from the start until a rate fails (or halve
until one passes), bisect, look once at a clearly lower rate, and confirm the answer on other seeds,
stepping down where it does not hold again (docs/measuring.md, Capacity).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tpsweep.core.slo import (
    BRACKET,
    NOT_MONOTONIC,
    NOTHING_FAILS,
    NOTHING_PASSES,
    UNFINISHED,
)
from tpsweep.core.slo_counts import Counts, JudgedSlo, Limit

SEARCH, CHECK, CONFIRM = "search", "check", "confirm"
RESOLUTION = 0.05
ROUNDING = 1e-3
"""Rates have four digits: what this adds to a step of the resolution is none."""
FIRST_STEP = math.sqrt(2)
LOWER = 0.7
"""Of the candidate: a rate below this must have passed, or a fall in capacity would go unseen."""
CLOSE = 2.0
"""So many times what a limit allows beyond it: a rate that fails by less is tried once more."""
AGAIN = 2
"""Further seeds of a rate that fails clearly below one that passes, and of that one, before it is
told."""
HALVINGS = 5
CLIFF = 3.0
"""A metric that grows by this factor over a step of the search is told as a cliff."""


@dataclass(frozen=True)
class Spec:
    """What is searched: ``start`` is the first rate, ``most`` the highest; ``seeds`` confirm."""

    slos: tuple[JudgedSlo, ...]
    start: float
    most: float
    seeds: int
    max_probes: int

    @property
    def least(self) -> float:
        """The lowest rate that is tried."""
        return rounded(self.start / 2**HALVINGS)


@dataclass(frozen=True)
class Probe:
    """One run at a rate. ``counts``: by SLO and limit. ``lost``: SLOs that failed before its end or
    by saturation, and by which limit. ``stopped``: others are not known."""

    request_s: float
    seed: int
    purpose: str
    counts: Mapping[str, Mapping[str, Counts]] = field(repr=False)
    lost: Mapping[str, str]
    stopped: bool


@dataclass(frozen=True)
class Ask:
    """The next probe; ``wanted``: SLOs of which something is to be learnt."""

    request_s: float
    seed: int
    purpose: str
    wanted: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """Of one SLO. ``request_s``: highest confirmed rate. ``upper_request_s``: lowest failing one;
    ``limit``: which failed there."""

    slo: str
    request_s: float | None
    upper_request_s: float | None
    verdict: str
    limit: str | None = None
    note: str | None = None


def next_step(spec: Spec, probes: Sequence[Probe]) -> Ask | list[Answer]:
    """The next probe of the search, or the answer for each SLO, in their order."""
    steps = [_One(spec, slo, probes).step() for slo in spec.slos]
    asked = [step for step in steps if isinstance(step, _Want)]
    if not asked:
        return [step for step in steps if isinstance(step, Answer)]
    if len(probes) >= spec.max_probes:
        return [
            _One(spec, slo, probes).unfinished() if isinstance(step, _Want) else step
            for slo, step in zip(spec.slos, steps, strict=True)
        ]
    # What brackets one SLO may bracket another: confirm when all have their candidate.
    chosen = next((one for one in asked if one.purpose != CONFIRM), asked[0])
    seed = len(probes)
    open_slos = zip(spec.slos, steps, strict=True)
    wanted = tuple(
        slo.name
        for slo, step in open_slos
        if isinstance(step, _Want) and (step is chosen or step.low < chosen.request_s < step.high)
    )
    return Ask(chosen.request_s, seed, chosen.purpose, wanted)


def rounded(rate: float) -> float:
    """To four digits: a rate is the same number in a file and out of it."""
    return float(f"{rate:.4g}")


def all_kept(slo: JudgedSlo, probes: Sequence[Probe]) -> bool:
    """Whether probes of a rate keep an SLO, counted together; none may have lost it."""
    if any(slo.name in probe.lost for probe in probes):
        return False
    return all(limit.is_kept(*_pooled(slo, limit, probes)) for limit in slo.limits)


def _pooled(slo: JudgedSlo, limit: Limit, probes: Sequence[Probe]) -> tuple[int, int]:
    found = [probe.counts[slo.name][limit.name] for probe in probes]
    return sum(one.kept for one in found), sum(one.of for one in found)


@dataclass(frozen=True)
class _Want:
    """A rate that an SLO wants probed; what is between ``low`` and ``high`` would help it, too."""

    request_s: float
    purpose: str
    low: float
    high: float


class _One:
    """The search of one SLO among the probes of all."""

    def __init__(self, spec: Spec, slo: JudgedSlo, probes: Sequence[Probe]) -> None:
        self.spec, self.slo = spec, slo
        self.at: defaultdict[float, list[Probe]] = defaultdict(list)
        for probe in probes:
            if probe.request_s > 0 and not (probe.stopped and slo.name not in probe.lost):
                self.at[probe.request_s].append(probe)
        verdicts = {rate: self._holds(rate) for rate in self.at}
        self.passing = sorted(rate for rate, holds in verdicts.items() if holds)
        self.failing = sorted(rate for rate, holds in verdicts.items() if holds is False)

    def step(self) -> _Want | Answer:
        """What it wants next, or its answer."""
        spec, high = self.spec, self.high
        if not self.at:
            return self._want(min(spec.start, spec.most))
        if high is not None and self._is_odd and (doubted := self._doubted(high)) is not None:
            return self._want(doubted, CHECK)
        lower = self._stepped_down()
        if high is not None and lower is not None and lower > (self.held or 0.0):
            if lower < spec.least:
                return self._nothing_passes(high)
            return self._want(lower, CONFIRM)
        # Large steps down may have left a gap: from here on it is bisected like any other.
        low = self.low
        if low is None:
            assert high is not None
            if high <= spec.least:
                return self._nothing_passes(high)
            return self._want(max(rounded(high / self._factor), spec.least))
        if high is None and low < spec.most:
            return self._want(min(rounded(low * self._factor), spec.most))
        if high is not None and high / low > 1 + RESOLUTION + ROUNDING:
            return self._want(rounded(math.sqrt(low * high)))
        if high is not None and self._is_close(high):
            return self._want(high, CHECK)
        if not any(rate <= LOWER * low for rate in self.at):
            return self._want(rounded(low / 2), CHECK)
        if not self._was_confirmed(low):
            return self._want(low, CONFIRM)
        return self._answer(low)

    @property
    def _factor(self) -> float:
        """From rate to rate until the first bracket: the start is an expectation, and not far off
        if it is a good one."""
        return FIRST_STEP if len(self.at) == 1 else 2.0

    def unfinished(self) -> Answer:
        """Its answer when there may be no further probe: what was confirmed until then."""
        return Answer(self.slo.name, self.held, self.high, UNFINISHED, self._limit(), self._odd())

    @property
    def high(self) -> float | None:
        """The lowest rate that fails."""
        return self.failing[0] if self.failing else None

    @property
    def low(self) -> float | None:
        """The highest rate that passes below it."""
        return self._below[-1] if self._below else None

    @property
    def held(self) -> float | None:
        """The highest rate below it that was confirmed."""
        return next((rate for rate in reversed(self._below) if self._was_confirmed(rate)), None)

    @property
    def _below(self) -> list[float]:
        """Rates that pass, below the lowest one that fails."""
        return [rate for rate in self.passing if self.high is None or rate < self.high]

    @property
    def _is_odd(self) -> bool:
        """Whether a rate fails clearly below one that passes: by more than the search resolves."""
        if self.high is None or not self.passing:
            return False
        return self.passing[-1] > self.high * (1 + RESOLUTION) ** 2

    def _want(self, rate: float, purpose: str = SEARCH) -> _Want:
        return _Want(rate, purpose, self.low or 0.0, self.high or math.inf)

    def _answer(self, low: float) -> Answer:
        high = self.high
        verdict = NOTHING_FAILS if high is None else BRACKET
        if self._is_odd:
            verdict = NOT_MONOTONIC
        notes = [self._odd(), self._cliff(low)]
        note = "; ".join(one for one in notes if one) or None
        return Answer(self.slo.name, low, high, verdict, self._limit(), note)

    def _nothing_passes(self, high: float) -> Answer:
        verdict = NOT_MONOTONIC if self._is_odd else NOTHING_PASSES
        return Answer(self.slo.name, None, high, verdict, self._limit(), self._odd())

    def _confirming(self, rate: float) -> list[Probe]:
        return [probe for probe in self.at[rate] if probe.purpose == CONFIRM]

    def _is_close(self, high: float) -> bool:
        """Whether a rate failed on so few seeds, and by so little, that it may be bad luck: a host
        that stalls once fails any probe."""
        searching = self._searching(high)
        if self._was_confirmed(high):
            return False
        if any(self.slo.name in probe.lost for probe in searching):
            held = sum(all_kept(self.slo, [probe]) for probe in searching)
            return len(searching) == 1 or (len(searching) == AGAIN and held == 1)
        strain = [one.strain(*_pooled(self.slo, one, searching)) for one in self.slo.limits]
        return len(searching) == 1 and max(strain) < CLOSE

    def _searching(self, rate: float) -> list[Probe]:
        return [probe for probe in self.at[rate] if probe.purpose != CONFIRM]

    def _was_confirmed(self, rate: float) -> bool:
        """Whether it was tried again on enough seeds, however that went."""
        if rate not in self.at:
            return False
        found = self._confirming(rate)
        lost = any(self.slo.name in probe.lost for probe in found)
        return lost or len(found) >= self.spec.seeds

    def _stepped_down(self) -> float | None:
        """What to confirm in place of a candidate that did not hold again; None without one."""
        dropped = [rate for rate in self.failing if self._was_dropped(rate)]
        if not dropped:
            return None
        rate, steps = dropped[0], 1
        lower = rounded(rate / (1 + RESOLUTION))
        while lower in self.failing:
            rate, steps = lower, steps + 1
            lower = rounded(rate / (1 + RESOLUTION) ** steps)
        return lower if rate == self.high else None

    def _was_dropped(self, rate: float) -> bool:
        """Whether a rate passed when it was searched, and not when it was to be confirmed."""
        searching = self._searching(rate)
        return bool(searching) and self._was_confirmed(rate) and all_kept(self.slo, searching[:1])

    def _holds(self, rate: float) -> bool | None:
        """Whether the SLO held at a rate: by the seeds that confirm it if there are enough of them,
        else by those that searched."""
        confirming = self._confirming(rate)
        if self._was_confirmed(rate):
            return all_kept(self.slo, confirming)
        searching = self._searching(rate)
        if any(self.slo.name in probe.lost for probe in searching):  # no counts to put together
            return 2 * sum(all_kept(self.slo, [probe]) for probe in searching) > len(searching)
        # Of a rate that was tried again, its first probe is why: it says nothing more.
        return all_kept(self.slo, searching[1:] or searching) if searching else None

    def _doubted(self, high: float) -> float | None:
        """Of a rate that fails below one that passes, and that one: the one to try again."""
        for rate in (high, self.passing[-1]):
            if not self._was_confirmed(rate) and len(self._searching(rate)) <= AGAIN:
                return rate
        return None

    def _limit(self) -> str | None:
        """The limit that failed at the lowest failing rate: the one that was lost first, else the
        one furthest from being kept."""
        if self.high is None:
            return None
        probes = [p for p in self._confirming(self.high) or self.at[self.high]]
        for probe in probes:
            if self.slo.name in probe.lost:
                return probe.lost[self.slo.name]
        strain = {one.name: one.strain(*_pooled(self.slo, one, probes)) for one in self.slo.limits}
        return max(strain, key=lambda name: strain[name])

    def _odd(self) -> str | None:
        """Which rates fail below ones that pass."""
        if not self._is_odd:
            return None
        return f"fails at {self.high:g}/s and passes at {self.passing[-1]:g}/s"

    def _cliff(self, low: float) -> str | None:
        """The failing limit's metric at the answer and above it, if it jumps."""
        limit, high = self._limit(), self.high
        if limit is None or high is None or high / low > (1 + RESOLUTION) ** 2:
            return None
        before, after = self._value(low, limit), self._value(high, limit)
        if before is None or after is None or after < CLIFF * before:
            return None
        return f"cliff: {limit} {before:.3g} at {low:g}/s, {after:.3g} at {high:g}/s"

    def _value(self, rate: float, limit: str) -> float | None:
        found = [p.counts.get(self.slo.name, {}).get(limit) for p in self.at[rate]]
        values = sorted(c.value_ms for c in found if c is not None and c.value_ms is not None)
        return values[len(values) // 2] if values else None
