"""What rows say of a load: the capacity of an engine under an SLO, its latency and its power.

Capacity is what a search confirmed (``capacity`` rows), lowest over engine starts; else the highest
rate that ``serve`` rows kept, which is a lower bound. Rows are records by column name; columns that
a row does not have count as null.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
SEARCHED, RATES, EXPECTED = "searched", "rates", "expected"
"""What a capacity rests on: a search, rates that were measured, no measurement."""
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


@dataclass
class Evidence:
    """Rows of one engine at the question's lengths: of ``serve`` by offered rate, and searches."""

    engine: Engine
    served: dict[float, list[Record]] = field(default_factory=lambda: defaultdict(list))
    searched: list[Record] = field(default_factory=list)
    rows: int = 0

    def capacity(self, slo: Slo | None) -> Capacity | None:
        """What rows say; ``request_s`` 0: the SLO fails at the lowest rate that was measured. None:
        at no rate is it known to hold, and it may at lower ones."""
        searched, by_rates = self._searched(slo), self._by_rates(slo)
        if searched is None or by_rates is None or by_rates.fails_at is None:
            return searched or by_rates
        if by_rates.fails_at > searched.request_s:
            return searched
        # Another start failed where the search's start held: the lowest counts.
        said = f"a search confirmed {searched.request_s:g} requests/s"
        return replace(by_rates, remarks=(*by_rates.remarks, said))

    def fails_at(self, slo: Slo | None) -> float | None:
        """The lowest measured rate that fails."""
        failed = (rate for rate, rows in self.served.items() if _judge(rows, slo) is False)
        return min(failed, default=None)

    def _searched(self, slo: Slo | None) -> Capacity | None:
        pairs = [(row, one) for row in self.searched if slo and (one := _of_search(row, slo))]
        if not pairs:
            return None
        lowest = min((one for _, one in pairs), key=lambda one: one.request_s)
        starts = len(_starts(row for row, _ in pairs))
        remarks = dict.fromkeys(remark for _, one in pairs for remark in one.remarks)
        return Capacity(lowest.request_s, SEARCHED, lowest.fails_at, starts, tuple(remarks))

    def _by_rates(self, slo: Slo | None) -> Capacity | None:
        """The highest rate below the first that fails."""
        judged = {rate: _judge(rows, slo) for rate, rows in sorted(self.served.items())}
        failed = [rate for rate, kept in judged.items() if kept is False]
        first = min(failed, default=ENDLESS)
        kept = [rate for rate, kept in judged.items() if kept and rate < first]
        if not kept:
            is_lowest = bool(failed) and first == min(judged)
            starts = len(_starts(self.served[first])) if failed else 0
            return Capacity(0.0, RATES, first, starts) if is_lowest else None
        rate = max(kept)
        rows = self.served[rate]
        remarks = []
        if any(saturation.judge_row(row) != saturation.NO for row in rows):
            remarks.append(f"at {rate:g} requests/s the run was too short to exclude saturation")
        if any(kept for rate, kept in judged.items() if rate > first):
            remarks.append(f"it held at higher rates than {first:g} requests/s, where it failed")
        return Capacity(
            rate,
            RATES,
            first if failed else None,
            len(_starts(rows)),
            tuple(remarks),
        )

    def latency(self, rate: float, slo: Slo | None = None) -> tuple[float, dict[str, float]] | None:
        """The lowest measured rate at or above ``rate``, and the percentiles there: the worst of
        its starts. Measured are the rates of rows, and what a search of ``slo`` confirmed. None:
        no such rate."""
        known: dict[float, list[Record]] = {at: list(rows) for at, rows in self.served.items()}
        for row in self.searched:
            if slo is not None and (place := _place(row, slo)) is not None:
                at = _item(row.get("capacity_request_s"), place)
                known.setdefault(at or 0.0, []).append(_at_capacity(row, place))
        above = [at for at in known if at >= rate]
        if not above:
            return None
        at = min(above)
        found = {
            name: max(values)
            for name in LIMITS
            if (values := [row[name] for row in known[at] if row.get(name) is not None])
        }
        return at, found

    def lowest_rate(self) -> float | None:
        """The lightest load that was measured."""
        return min(self.served, default=None)

    def watts(self, rate: float) -> float | None:
        """Mean power of the engine's GPUs at ``rate``: between the measured rates on a line, below
        them that of the lowest. Above them it would be higher, and is not known."""
        points = sorted(
            (at, sum(known) / len(known))
            for at, rows in self.served.items()
            if (known := [w for row in rows if (w := _watts(row)) is not None])
        )
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


def _judge(rows: Sequence[Record], slo: Slo | None) -> bool | None:
    """Whether every start kept the SLO at a rate; None: too few requests to know."""
    if any(saturation.judge_row(row) == saturation.YES for row in rows):
        return False
    if slo is None:
        return True
    if any(slo.failed(row) for row in rows):
        return False
    return None if any(slo.unknown(row) for row in rows) else True


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
