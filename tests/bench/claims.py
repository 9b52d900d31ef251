"""Simulation: how often the tables' claims are wrong. Significance, intervals, `saturated`.

Everything is judged by the code that makes the tables: `stats.speedup`, `stats.median_interval`,
`saturation.judge`. Only the samples are made up, with a seed: every run prints the same.
Run: python -m tests.bench.claims [--tries N] [--write FILE]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from tpsweep.core import saturation, stats
from tpsweep.core.saturation import NO, NOT_SHOWN, YES, Seed

Array = NDArray[np.float64]
Loaded = tuple[Array, Array, Array]
Run = Callable[[np.random.Generator, int, int, float], Loaded]
"""Of ``runs``, ``requests`` and a load: arrival, TTFT and latency, each (runs, requests)."""
SEED = 15
TRIES, LOAD_TRIES = 6000, 1000
STARTS, REPEATS = (3, 5, 8), (5, 10, 20)
RATIO = 1.25
"""What the intervals are to cover."""
MOST_FALSE, LEAST_COVERED = 0.06, 0.92
SCATTER, NOISE, NODE = 0.005, 0.003, 0.01
"""Standard deviations of logarithms: of starts, of repeats within one, of nodes."""
LOADS = (0.5, 0.8, 0.95, 1.05, 1.3)
MOST_WRONG = 0.01
SEEDS = 3

TEXT = """\
# How often claims are wrong

Written by `make bench-claims` (`python -m tests.bench.claims`), seeded: it comes out the same every
time. Samples are simulated; what judges them is the code that makes the tables.

## Significance and intervals between engine starts

*False*: called significant, of {tries} pairs of sides that do not differ (at most {most_false}
allowed). *Covered*: the 95 % interval holds the true ratio, {ratio}, of a third as many pairs, of
those that have an interval (at least {least_covered}). Starts scatter by {scatter}, nodes
by {node}, repeats within a start by {noise}. Bimodal: half of all starts are 1 % slower.
Lognormal: the scatter is skewed, with a long tail of slow starts. Unequal: one side scatters four
times as much as the other.

{between}

*A node a side*: each side ran on a node of its own. No number of starts can tell the nodes from
what is compared: nothing is called significant, and there is no interval between starts.

## The interval of a median within one engine start

For the repeats of one start only. Fewer than {min_repeats} repeats have none.

{within}

## Saturated

{load_tries} tries each, of {seeds} seeds. A server of 32 slots with continuous batching (a step
takes longer the more it holds, a prefill delays it), and one of 16 slots that do not disturb each
other; answers of one length, or of lengths that scatter. *No* must not come at 1.05 of capacity and
more, *yes* not at 0.95 and less (at most {most_wrong}). The rest is *not shown*.

{loads}
"""


# Starts


@dataclass(frozen=True)
class Case:
    """``effects``: of the starts of one side, shape (tries, 2 sides, starts). ``nodes``: of the
    starts, for each side; None: not known, each start is alone."""

    name: str
    effects: Callable[[np.random.Generator, tuple[int, int, int]], Array]
    nodes: Callable[[int], tuple[list[str], list[str]]] | None = None


def _gaussian(rng: np.random.Generator, shape: tuple[int, int, int]) -> Array:
    return rng.normal(0, SCATTER, shape)


def _bimodal(rng: np.random.Generator, shape: tuple[int, int, int]) -> Array:
    return 0.01 * rng.integers(0, 2, shape) + rng.normal(0, SCATTER / 20, shape)


def _lognormal(rng: np.random.Generator, shape: tuple[int, int, int]) -> Array:
    return SCATTER * rng.lognormal(0, 1, shape)


def _unequal(rng: np.random.Generator, shape: tuple[int, int, int]) -> Array:
    return rng.normal(0, SCATTER, shape) * np.array([[0.5], [2.0]])


def _on_nodes(
    nodes: Callable[[int], tuple[list[str], list[str]]],
) -> Callable[[np.random.Generator, tuple[int, int, int]], Array]:
    def effects(rng: np.random.Generator, shape: tuple[int, int, int]) -> Array:
        tries, _, starts = shape
        places = nodes(starts)
        names = sorted({*places[0], *places[1]})
        luck = rng.normal(0, NODE, (tries, len(names)))
        at = np.array([[names.index(place) for place in side] for side in places])
        return luck[:, at] + rng.normal(0, SCATTER / 5, shape)

    return effects


def _own(starts: int) -> tuple[list[str], list[str]]:
    return ["a"] * starts, ["b"] * starts


def _shared(starts: int) -> tuple[list[str], list[str]]:
    return ["a"] * starts, ["a"] * starts


def _three(starts: int) -> tuple[list[str], list[str]]:
    return ["abc"[k % 3] for k in range(starts)], ["def"[k % 3] for k in range(starts)]


def _same_two(starts: int) -> tuple[list[str], list[str]]:
    return ["ab"[k % 2] for k in range(starts)], ["ab"[k % 2] for k in range(starts)]


def _same_three(starts: int) -> tuple[list[str], list[str]]:
    return ["abc"[k % 3] for k in range(starts)], ["abc"[k % 3] for k in range(starts)]


CASES = (
    Case("Gaussian", _gaussian),
    Case("bimodal", _bimodal),
    Case("lognormal", _lognormal),
    Case("unequal", _unequal),
    Case("per node: a node a side", _on_nodes(_own), _own),
    Case("per node: one node for both", _on_nodes(_shared), _shared),
    Case("per node: three nodes a side", _on_nodes(_three), _three),
    Case("per node: the same three for both", _on_nodes(_same_three), _same_three),
    Case("per node: the same two for both", _on_nodes(_same_two), _same_two),
)


@dataclass(frozen=True)
class Between:
    """Rates of a case; ``covered`` is None if nothing had an interval between starts."""

    case: str
    starts: int
    repeats: int
    false: float
    covered: float | None

    @property
    def holds(self) -> bool:
        """Whether it is within what is allowed."""
        return self.false <= MOST_FALSE and (self.covered or 1.0) >= LEAST_COVERED


def between(tries: int) -> Iterator[Between]:
    """Every case at every number of starts and repeats."""
    for at, case in enumerate(CASES):
        for starts in STARTS:
            for repeats in REPEATS:
                rng = np.random.default_rng((SEED, at, starts, repeats))
                yield _between(case, tries, starts, repeats, rng)


def _between(
    case: Case, tries: int, starts: int, repeats: int, rng: np.random.Generator
) -> Between:
    nodes = case.nodes(starts) if case.nodes else (None, None)
    false = covered = known = 0
    # Both say the same thing twice (an interval that misses 1 is a false claim): fewer will do.
    for claimed, count in ((1.0, tries), (RATIO, -(-tries // 3))):
        effects = case.effects(rng, (count, 2, starts))
        noise = rng.normal(0, NOISE, (count, 2, starts, repeats))
        times = np.exp(effects[..., None] + noise)
        times[:, 0] *= claimed
        for one in times:
            sides = (stats.Side.of(list(s), n) for s, n in zip(one, nodes, strict=True))
            found = stats.speedup(*sides)
            if claimed == 1.0:
                false += found.verdict == stats.SIGNIFICANT
            elif found.kind == stats.BETWEEN and found.lo is not None and found.hi is not None:
                known += 1
                covered += found.lo <= claimed <= found.hi
    return Between(case.name, starts, repeats, false / tries, covered / known if known else None)


@dataclass(frozen=True)
class Within:
    """Coverage of the median of so many repeats; None: they get no interval."""

    case: str
    repeats: int
    covered: float | None


def within(tries: int) -> Iterator[Within]:
    """The interval of a median within one start."""
    draws: dict[str, Callable[[np.random.Generator, tuple[int, int]], Array]] = {
        "Gaussian": lambda rng, shape: rng.normal(10, 0.1, shape),
        "lognormal": lambda rng, shape: 10 * rng.lognormal(0, 0.3, shape),
    }
    for name, draw in draws.items():
        for repeats in (3, *REPEATS):
            rng = np.random.default_rng((SEED, len(name), repeats))
            found = [stats.median_interval(one) for one in draw(rng, (tries, repeats))]
            ends = [(i.lo, i.hi) for i in found if i.lo is not None and i.hi is not None]
            covered = sum(lo <= 10 <= hi for lo, hi in ends) / len(ends) if ends else None
            yield Within(name, repeats, covered)


# Load


@dataclass(frozen=True)
class Server:
    """A queue that is simulated."""

    name: str
    run: Run


def _arrivals(rng: np.random.Generator, runs: int, requests: int, rate: float) -> Array:
    """Poisson, scaled as vLLM does: the last request comes at requests / rate."""
    found: Array = np.cumsum(rng.exponential(1, (runs, requests)), axis=1)
    return found * (requests / rate / found[:, -1:])


def _slots(
    scatter: float,
) -> Run:
    """16 slots, first come, first served; an answer takes 1 s, or a lognormal time around it."""
    slots = 16

    def run(rng: np.random.Generator, runs: int, requests: int, load: float) -> Loaded:
        arrival = _arrivals(rng, runs, requests, load * slots)
        service = rng.lognormal(-(scatter**2) / 2, scatter, (runs, requests))
        free = np.zeros((runs, slots))
        row = np.arange(runs)
        wait = np.empty((runs, requests))
        for at in range(requests):
            slot = free.argmin(axis=1)
            begin = np.maximum(arrival[:, at], free[row, slot])
            wait[:, at] = begin - arrival[:, at]
            free[row, slot] = begin + service[:, at]
        return arrival, wait + 0.02, wait + 1.0  # of an answer of the usual length

    return run


def _batching(
    scatter: float,
) -> Run:
    """32 slots, filled before each step; all of them make a token a step, 40 an answer."""
    slots, tokens = 32, 40
    step, per_request, prefill = 0.010, 0.0003, 0.002
    full = slots / (tokens * (step + per_request * slots) + slots * prefill)

    def run(rng: np.random.Generator, runs: int, requests: int, load: float) -> Loaded:
        arrival = _arrivals(rng, runs, requests, load * full)
        scattered = tokens * rng.lognormal(-(scatter**2) / 2, scatter, (runs, requests))
        lengths = np.maximum(2, scattered.round().astype(np.int64))
        padded = np.concatenate([arrival, np.full((runs, slots + 1), np.inf)], axis=1)
        rows = np.arange(runs)
        now, begun = np.zeros(runs), np.zeros(runs, np.int64)
        left = np.zeros((runs, slots), np.int64)
        held = np.zeros((runs, slots), np.int64)
        first, last = np.zeros((runs, requests)), np.zeros((runs, requests))
        while True:
            busy = (left > 0).sum(axis=1)
            going = (busy > 0) | (begun < requests)
            if not going.any():
                break
            # An idle server waits for the next request.
            idle = going & (busy == 0)
            now[idle] = np.maximum(now[idle], padded[rows[idle], begun[idle]])
            coming = padded[rows[:, None], begun[:, None] + np.arange(slots)]
            taken = np.minimum((coming <= now[:, None]).sum(axis=1), slots - busy)
            empty = left == 0
            rank = np.cumsum(empty, axis=1)
            row, slot = np.nonzero(empty & (rank <= taken[:, None]))
            request = begun[row] + rank[row, slot] - 1
            held[row, slot] = request
            left[row, slot] = lengths[row, request]
            begun += taken
            now[going] += (step + per_request * (busy + taken) + prefill * taken)[going]
            first[row, request] = now[row]
            running = left > 0
            left -= running
            row, slot = np.nonzero(running & (left == 0))
            last[row, held[row, slot]] = now[row]
        per_token = (last - first) / (lengths - 1)
        ttft = first - arrival
        return arrival, ttft, ttft + per_token * (lengths.mean(axis=1, keepdims=True) - 1)

    return run


SERVERS = (
    Server("batching, one length", _batching(0)),
    Server("batching, lengths scatter", _batching(0.6)),
    Server("slots, one length", _slots(0)),
    Server("slots, lengths scatter", _slots(0.6)),
)
REQUESTS = (200, 600)


@dataclass(frozen=True)
class Verdicts:
    """Shares of the verdicts at a load (of capacity)."""

    server: str
    requests: int
    load: float
    shares: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether it is wrong seldom enough."""
        wrong = self.shares[NO] if self.load > 1 else self.shares[YES]
        return wrong <= MOST_WRONG


def loads(tries: int, sizes: tuple[int, ...] = REQUESTS) -> Iterator[Verdicts]:
    """Every server, length of run and load."""
    for at, server in enumerate(SERVERS):
        for requests in sizes:
            for load in LOADS:
                rng = np.random.default_rng((SEED, at, requests, round(100 * load)))
                arrays = server.run(rng, tries * SEEDS, requests, load)
                rows = [Seed(*one) for one in zip(*arrays, strict=True)]
                told = Counter(
                    saturation.judge(rows[k : k + SEEDS]).verdict
                    for k in range(0, len(rows), SEEDS)
                )
                shares = {name: told[name] / tries for name in (YES, NO, NOT_SHOWN)}
                yield Verdicts(server.name, requests, load, shares)


# Page


def page(
    tries: int,
    load_tries: int,
    starts: list[Between],
    repeats: list[Within],
    verdicts: list[Verdicts],
) -> str:
    """The page, in Markdown."""
    by_case = {(b.case, b.starts, b.repeats): b for b in starts}
    heads = [f"{k} repeats: {what}" for k in REPEATS for what in ("false", "covered")]
    lines = [
        [case.name, n]
        + [
            word
            for k in REPEATS
            for b in [by_case[case.name, n, k]]
            for word in (_share(b.false), _share(b.covered))
        ]
        for case in CASES
        for n in STARTS
    ]
    counts = sorted({w.repeats for w in repeats})
    by_repeats = {(w.case, w.repeats): w.covered for w in repeats}
    names = dict.fromkeys(w.case for w in repeats)
    by_load = {(v.server, v.requests, v.load): v.shares for v in verdicts}
    places = dict.fromkeys((v.server, v.requests) for v in verdicts)
    allowed = {
        "most_false": MOST_FALSE,
        "least_covered": LEAST_COVERED,
        "most_wrong": MOST_WRONG,
        "scatter": SCATTER,
        "node": NODE,
        "noise": NOISE,
    }
    return TEXT.format(
        tries=tries,
        load_tries=load_tries,
        ratio=RATIO,
        seeds=SEEDS,
        **{name: f"{100 * value:g} %" for name, value in allowed.items()},
        min_repeats=stats.MIN_REPEATS,
        between=_table(["starts scatter", "starts a side", *heads], lines),
        within=_table(
            ["repeats scatter", *(f"{n} repeats" for n in counts)],
            [[name, *(_share(by_repeats[name, n]) for n in counts)] for name in names],
        ),
        loads=_table(
            ["server", "requests", *(f"{load}: yes / no" for load in LOADS)],
            [[*place, *(_pair(by_load[*place, load]) for load in LOADS)] for place in places],
        ),
    )


def _share(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f} %"


def _pair(shares: dict[str, float]) -> str:
    return f"{_share(shares[YES])} / {_share(shares[NO])}"


def _table(heads: list[str], lines: list[list[object]]) -> str:
    return tabulate(lines, headers=heads, tablefmt="pipe", disable_numparse=True)


def main() -> int:
    """Command line: see the module's text. Exit status 1 if a rate is above what is allowed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tries", type=int, default=TRIES)
    parser.add_argument("--load-tries", type=int, default=LOAD_TRIES)
    parser.add_argument("--write", type=Path, help="write the page here")
    options = parser.parse_args()
    starts = list(between(options.tries))
    repeats = list(within(options.tries))
    verdicts = list(loads(options.load_tries))
    text = page(options.tries, options.load_tries, starts, repeats, verdicts)
    print(text)
    if options.write:
        options.write.write_text(text, "utf-8")
    failed = [one for one in (*starts, *verdicts) if not one.holds]
    failed += [w for w in repeats if w.covered is not None and w.covered < LEAST_COVERED]
    for one in failed:
        print(f"not within what is allowed: {one}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
