"""What rows say of a load: the capacity of an engine under an SLO, its latency and its power.

Capacity is what a search confirmed (``capacity`` rows), lowest over engine starts; else the highest
rate that ``serve`` rows kept, or a search for stricter limits: a lower bound. Rows are records
by column name; columns that a row does not have count as null.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from tpsweep.analysis.recommend.question import Traffic, key_of
from tpsweep.core import saturation
from tpsweep.core.axes import AXES
from tpsweep.core.cell import Engine, Model
from tpsweep.core.layout import Layout
from tpsweep.core.slo import BRACKET, LIMITS, NOTHING_FAILS, NOTHING_PASSES, Slo
from tpsweep.core.workloads import CAPACITY, SERVE, SERVER
from tpsweep.engine.vllm_api import ALLREDUCE

Record = Mapping[str, Any]
SEARCHED, RATES, STRICTER, EXPECTED = "searched", "rates", "stricter", "expected"
"""What a capacity rests on: a search, rates that were measured, a search for stricter limits, no
measurement."""
ENDLESS = float("inf")
_NOT_CHOSEN = frozenset(
    {axis.vllm_arg for axis in AXES if axis.vllm_arg}
    | {"model", "tokenizer", "revision", "dtype", "seed", "served_model_name", "load_format"}
    | {"enable_prefix_caching", "disable_log_stats", "quantization", "host", "port"}
    | {"nnodes", "node_rank", "master_addr", "master_port", "headless"}
)
"""Engine arguments that follow from the axes, the model, or the rules of measuring."""


@dataclass(frozen=True)
class Capacity:
    """Requests/s of an engine, or a group of replicas, under the SLO.

    ``request_s``: it holds at least that. ``fails_at``: the lowest rate that is known to fail; None
    if none is. ``starts``: engine starts behind it. ``remarks``: what weakens it.
    """

    request_s: float
    basis: str
    fails_at: float | None = None
    starts: int = 0
    remarks: tuple[str, ...] = ()

    @property
    def is_measured(self) -> bool:
        """Whether rows say so."""
        return self.basis != EXPECTED

    @property
    def is_least(self) -> bool:
        """Whether it is a lower bound."""
        return self.basis in (RATES, STRICTER)


@dataclass(frozen=True)
class Measured:
    """A rate that was measured: the worst of its starts. ``percentiles``: ms, by name; ``unknown``:
    those that not every start has enough requests for. ``is_unsure``: a run was too short to
    exclude saturation. ``watts``: mean power of all GPUs, None: not known."""

    rate: float
    starts: int
    is_saturated: bool
    is_unsure: bool
    percentiles: Mapping[str, float]
    unknown: frozenset[str]
    watts: float | None

    @classmethod
    def of(cls, rate: float, rows: Sequence[Record]) -> Measured:
        """Of the ``serve`` rows at a rate."""
        verdicts = {saturation.judge_row(row) for row in rows}
        watts = [known for row in rows if (known := _watts(row)) is not None]
        return cls(
            rate,
            len(_starts(rows)),
            saturation.YES in verdicts,
            verdicts != {saturation.NO},
            _worst(rows),
            frozenset(name for name in LIMITS if any(row.get(name) is None for row in rows)),
            sum(watts) / len(watts) if watts else None,
        )

    def keeps(self, slo: Slo | None) -> bool | None:
        """Whether every start kept the SLO; None: too few requests to know."""
        if self.is_saturated:
            return False
        if slo is None:
            return True
        if slo.failed(self.percentiles):
            return False
        is_known = all(name in LIMITS and name not in self.unknown for name, _ in slo.limits)
        return True if is_known else None


@dataclass
class Evidence:
    """Rows of one engine at the question's lengths: of ``serve`` by offered rate, and searches."""

    engine: Engine
    served: dict[float, list[Record]] = field(default_factory=lambda: defaultdict(list))
    searched: list[Record] = field(default_factory=list)
    rows: int = 0

    @cached_property
    def rates(self) -> list[Measured]:
        """What was served, in rising rates."""
        return [Measured.of(rate, rows) for rate, rows in sorted(self.served.items())]

    @property
    def used(self) -> list[Record]:
        """All rows that say something of a load."""
        return [*(row for rows in self.served.values() for row in rows), *self.searched]

    @property
    def slos(self) -> list[Slo]:
        """Those that were searched for, equal limits once."""
        found: dict[Any, Slo] = {}
        for row in self.searched:
            for name, limits in json.loads(row.get("slos") or "{}").items():
                slo = Slo.of(name, limits)
                found.setdefault(slo.limits, slo)
        return list(found.values())

    def capacity(self, slo: Slo | None) -> Capacity | None:
        """What rows say; ``request_s`` 0: the SLO fails at the lowest rate that was measured. None:
        at no rate is it known to hold, and it may at lower ones."""
        searched, by_rates = self.of_search(slo), self._by_rates(slo)
        if searched is None:
            return self._at_least(slo, by_rates)
        if by_rates is None or by_rates.fails_at is None:
            return searched
        if by_rates.fails_at > searched.request_s:
            return searched
        # Another start failed where the search's start held: the lowest counts.
        said = f"a search confirmed {searched.request_s:g} requests/s"
        return replace(by_rates, remarks=(*by_rates.remarks, said))

    def _at_least(self, slo: Slo | None, by_rates: Capacity | None) -> Capacity | None:
        """``by_rates``, or more if a search for stricter limits confirmed more."""
        found = self._stricter(slo)
        if found is None:
            return by_rates
        strict, bound = found
        fails_at = self.fails_at(slo)
        said = f"under {strict.name}, which is stricter"
        if fails_at is not None and fails_at <= bound.request_s:
            # Another start failed where the search's start held: the lowest counts.
            said = f"a search confirmed {bound.request_s:g} requests/s {said}"
            return by_rates and replace(by_rates, remarks=(*by_rates.remarks, said))
        if by_rates is not None and by_rates.request_s >= bound.request_s:
            return by_rates
        remarks = (*bound.remarks, f"confirmed {said}")
        return replace(bound, basis=STRICTER, fails_at=fails_at, remarks=remarks)

    def _stricter(self, slo: Slo | None) -> tuple[Slo, Capacity] | None:
        """The search for limits at least as strict that confirmed most."""
        strict = ((one, self.of_search(one)) for one in self.slos if one.implies(slo))
        found = [(one, known) for one, known in strict if known is not None and known.request_s]
        return max(found, key=lambda pair: pair[1].request_s, default=None)

    def fails_at(self, slo: Slo | None) -> float | None:
        """The lowest measured rate that fails."""
        return next((one.rate for one in self.rates if one.keeps(slo) is False), None)

    def of_search(self, slo: Slo | None) -> Capacity | None:
        """What searches for these limits say; None without one."""
        pairs = [(row, one) for row in self.searched if slo and (one := _of_search(row, slo))]
        if not pairs:
            return None
        lowest = min((one for _, one in pairs), key=lambda one: one.request_s)
        starts = len(_starts(row for row, _ in pairs))
        remarks = dict.fromkeys(remark for _, one in pairs for remark in one.remarks)
        return Capacity(lowest.request_s, SEARCHED, lowest.fails_at, starts, tuple(remarks))

    def _by_rates(self, slo: Slo | None) -> Capacity | None:
        """The highest rate below the first that fails."""
        failed = next((one for one in self.rates if one.keeps(slo) is False), None)
        first = failed.rate if failed else ENDLESS
        kept = [one for one in self.rates if one.rate < first and one.keeps(slo)]
        if not kept:
            is_lowest = failed is not None and failed is self.rates[0]
            return Capacity(0.0, RATES, first, failed.starts) if failed and is_lowest else None
        best = kept[-1]
        remarks = []
        if best.is_unsure:
            remarks.append(
                f"at {best.rate:g} requests/s the run was too short to exclude saturation"
            )
        if any(one.keeps(slo) for one in self.rates if one.rate > first):
            remarks.append(f"it held at higher rates than {first:g} requests/s, where it failed")
        fails_at = failed.rate if failed else None
        return Capacity(best.rate, RATES, fails_at, best.starts, tuple(remarks))

    def latencies(self, slo: Slo | None = None) -> dict[float, Mapping[str, float]]:
        """The worst start's percentiles by rate, rising: of served rates, and of what the search
        confirmed that ``capacity`` takes. A rate that another start did not hold is left out."""
        found = {one.rate: one.percentiles for one in self.rates}
        searched = slo
        if self.of_search(slo) is None:
            capacity, strict = self.capacity(slo), self._stricter(slo)
            searched = strict[0] if strict and capacity and capacity.basis == STRICTER else None
        confirmed = self.of_search(searched)
        at_capacity: dict[float, list[Record]] = defaultdict(list)
        for row in self.searched:
            if searched is not None and (place := _place(row, searched)) is not None:
                at = _item(row.get("capacity_request_s"), place) or 0.0
                if confirmed is not None and at <= confirmed.request_s:
                    at_capacity[at].append(_at_capacity(row, place))
        for rate, rows in at_capacity.items():
            found[rate] = _worst([*rows, found.get(rate, {})])
        return dict(sorted(found.items()))

    def latency(
        self, rate: float, slo: Slo | None = None
    ) -> tuple[float, Mapping[str, float]] | None:
        """The lowest rate at or above ``rate`` that ``latencies`` has; None: no such rate."""
        return next((found for found in self.latencies(slo).items() if found[0] >= rate), None)

    def lowest_rate(self) -> float | None:
        """The lightest load that was measured."""
        return min(self.served, default=None)

    def watts(self, rate: float) -> float | None:
        """Mean power of the engine's GPUs at ``rate``: between the measured rates on a line, below
        them that of the lowest. Above them it would be higher, and is not known."""
        points = [(one.rate, one.watts) for one in self.rates if one.watts is not None]
        above = [point for point in points if point[0] >= rate]
        if not above:
            return None
        below = [point for point in points if point[0] <= rate] or points[:1]
        (left, low), (right, high) = below[-1], above[0]
        return low if right <= left else low + (high - low) * (rate - left) / (right - left)

    def error(self, at: float, expected_tpot_ms: float) -> list[float]:
        """Expected over measured TPOT of each row at a rate."""
        known = [row.get("tpot_p50_ms") for row in self.served.get(at, [])]
        return [expected_tpot_ms / value for value in known if value]


def gather(rows: Iterable[Record], model: str, traffic: Traffic) -> dict[Any, Evidence]:
    """The engines that have rows of ``model``, of whatever workload, by ``key_of``; rows of other
    lengths, of files, of a closed loop and of elsewhere are no evidence."""
    found: dict[Any, Evidence] = {}
    seen = set()
    for row in rows:
        if row["model"] != model or row.get("imported"):
            continue
        # The same file, in two folders, is one measurement.
        same = tuple(row.get(name) for name in ("cell_id", "workload", "engine_id", "ended_at"))
        if same in seen:
            continue
        seen.add(same)
        engine = engine_of(row)
        evidence = found.setdefault(key_of(engine), Evidence(engine))
        evidence.rows += 1
        if traffic_of(row) != traffic:
            continue
        if row["workload"] == CAPACITY:
            evidence.searched.append(row)
        elif row["workload"] == SERVE and _is_open(row):
            evidence.served[row["request_rate"]].append(row)
    return found


def _is_open(row: Record) -> bool:
    """Whether requests came at a rate, whatever the server did."""
    rate = row["request_rate"]
    return bool(rate) and rate < ENDLESS and row.get("max_concurrency") is None


def traffic_of(row: Record) -> Traffic | None:
    """The lengths of a row's requests; None of a file's, or with a shared prefix."""
    lengths = row["input_len"], row["output_len"]
    if row["dataset"] != "random" or row.get("prefix_len") is not None or None in lengths:
        return None
    return Traffic(*lengths)


def engine_of(row: Record) -> Engine:
    """The engine that made a row, as far as another one would be started like it."""
    given, nodes = json.loads(row.get("engine_args") or "{}"), row.get("nodes") or 1
    if nodes > 1:  # which is how an engine over several nodes is started
        given.pop("distributed_executor_backend", None)
    known = ALLREDUCE.get(row["allreduce_backend"])
    by_backend = known.args if known else {}
    model = Model(
        name=row["model"],
        path=row.get("model_path") or row["model"],
        revision=row["model_revision"],
        dtype=row["dtype"],
        weights=row["weights"],
        is_hub=row["model_revision"] is not None,
        digest=None,
    )
    return Engine(
        **Layout.of(row).sizes,
        site=row["site"],
        gpu=row["gpu"],
        gpu_card=row["gpu_card"],
        model=model,
        variant=row["variant"],
        allreduce_backend=row["allreduce_backend"],
        vllm_version=row["vllm_version"],
        args={
            name: value
            for name, value in given.items()
            if name not in _NOT_CHOSEN and by_backend.get(name) != value
        },
        mode=SERVER,
        run=0,
        precision=row.get("precision") or "bf16",
        nodes=nodes,
    )


def _of_search(row: Record, slo: Slo) -> Capacity | None:
    """What a search says of an SLO; None if it did not ask for it, or did not end."""
    place = _place(row, slo)
    if place is None:
        return None
    low, fails, verdict = (
        _item(row.get(name), place)
        for name in ("capacity_request_s", "capacity_upper_request_s", "capacity_verdicts")
    )
    if low is None and verdict != NOTHING_PASSES:
        return None
    is_plain = verdict in (None, BRACKET, NOTHING_PASSES)
    remarks = () if is_plain else (f"the search: {verdict}",)
    fails = None if verdict == NOTHING_FAILS else fails
    return Capacity(float(low or 0.0), SEARCHED, fails, 1, remarks)


def _place(row: Record, slo: Slo) -> int | None:
    """Where a search's answers for an SLO stand in its lists; None if it did not ask for it."""
    names = _list(row.get("slo_names"))
    alike = [i for i, name in enumerate(names) if _asks(row, name, slo)]
    return min(alike, key=lambda i: names[i] != slo.name, default=None)


def _at_capacity(row: Record, place: int) -> Record:
    """The percentiles that a search saw at what it confirmed."""
    return {name: _item(row.get(f"capacity_{name}"), place) for name in LIMITS}


def _asks(row: Record, name: str, slo: Slo) -> bool:
    """Whether a search's SLO has the same limits, whatever it is called."""
    limits = json.loads(row.get("slos") or "{}").get(name)
    return bool(limits) and dict(limits) == slo.by_name


def _worst(rows: Sequence[Record]) -> dict[str, float]:
    """The largest of each percentile that any of the rows has."""
    return {
        name: max(values)
        for name in LIMITS
        if (values := [row[name] for row in rows if row.get(name) is not None])
    }


def _starts(rows: Iterable[Record]) -> set[Any]:
    return {row.get("engine_id") or row.get("run") for row in rows}


def _watts(row: Record) -> float | None:
    """Of all GPUs of the engine; None unless each is known (of several nodes one node's are)."""
    known = _list(row.get("gpu_power_w"))
    return float(sum(known)) if len(known) == row["gpus"] and None not in known else None


def _list(values: Any) -> list[Any]:
    """A list column; as an array of floats it has NaN for null."""
    return [] if values is None else [None if one != one else one for one in values]


def _item(values: Any, place: int) -> Any:
    found = _list(values)
    return found[place] if place < len(found) else None
