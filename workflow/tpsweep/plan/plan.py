"""All of a plan: what runs, what cannot and why, what it costs and what to expect of each cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit.site import Site
from tpsweep.core import stats
from tpsweep.core.cell import Cell, Engine
from tpsweep.core.layout import Layout
from tpsweep.core.schema import IDENTITY_NAMES, PERCENTILES
from tpsweep.core.workloads import KINDS, SERVE
from tpsweep.perfmodel import memory
from tpsweep.perfmodel.cell_time import CellExpectation, expected_of, start_seconds
from tpsweep.perfmodel.gpu_specs import card_by_name
from tpsweep.plan.cost import Cost, StartSeconds, make_cost
from tpsweep.plan.evidence import Evidence
from tpsweep.plan.sessions import make_sessions
from tpsweep.sweep import expand
from tpsweep.sweep.expand import Planned
from tpsweep.sweep.sweep import Job, Sweep


@dataclass(frozen=True)
class Hole:
    """Cells that will not run, for one reason. ``layouts``: their labels; ``is_tp_alone``: the TPs
    say it, too."""

    status: str
    reason: str
    cells: int
    models: tuple[str, ...]
    gpus: tuple[str, ...]
    tps: tuple[int, ...]
    layouts: tuple[str, ...]
    is_tp_alone: bool


@dataclass(frozen=True)
class Memory:
    """The memory of a GPU of one engine, as estimated; sizes in GB. ``tight``: by the estimates the
    asked batch does not fit whole into the cache. With pipeline stages: of the one with the least
    room. ``layout``: its label; ``nodes``: how many hold it."""

    gpu: str
    model: str
    precision: str
    tp: int
    layout: str
    weights_gb: float
    activations_gb: float
    room_gb: float
    cache_tokens: int
    needed_tokens: int
    tight: bool
    nodes: int = 1


@dataclass(frozen=True)
class Plan:
    """``cells`` counts the matrix by status; ``measured`` of the planned ones have their row, and
    ``left`` are for other runs (the key ``only``). ``from_rows`` of those to run have no
    expectation and count as long as rows like them took."""

    site: str
    results: str
    cells: dict[str, int]
    measured: int
    left: int
    preflights: int
    holes: list[Hole]
    memory: list[Memory]
    cost: Cost
    from_rows: int
    expected: list[tuple[Planned, CellExpectation]]
    warnings: list[str]
    unchecked: list[str]

    @property
    def to_run(self) -> int:
        """Cells that a run would measure now."""
        return self.cells.get("planned", 0) - self.measured - self.left

    def as_json(self) -> dict[str, Any]:
        """The plan for programs; every planned cell with its expectation."""
        cost = self.cost
        totals = ("sessions", "gpu_hours", "gpu_hours_unpacked", "limit_gpu_hours", "saving")
        return {
            "site": self.site,
            "results": self.results,
            "cells": {**self.cells, "measured": self.measured, "to_run": self.to_run},
            "preflights": self.preflights,
            "not_run": [asdict(hole) for hole in self.holes],
            "memory": [asdict(one) for one in self.memory],
            "warnings": self.warnings,
            "unchecked": self.unchecked,
            "cost": {
                **{name: getattr(cost, name) for name in totals},
                "hours": cost.hours,
                "at_limit": cost.at_limit,
                "from_rows": self.from_rows,
                "classes": [asdict(one) for one in cost.classes],
            },
            "expected": [_as_json(item, expected) for item, expected in self.expected],
        }


def make_plan(sweep: Sweep) -> Plan:
    """The plan of a sweep as its results folder is now: rows that are there are not measured
    again."""
    planned = [item for item in sweep.planned if item.status == "planned"]
    expected = {item.cell.cell_id: _expected_of(item.cell, sweep) for item in planned}
    jobs = jobs_to_run(sweep)
    to_run = [job.cell for job in jobs.values()]
    left = {cell.cell_id for cell in to_run}
    unknown = [cell for cell in to_run if expected[cell.cell_id].seconds is None]
    # Rows are read only if they can tell more.
    evidence = Evidence.of(Path(sweep.results)) if unknown else Evidence()
    taken = {c.cell_id: seconds for c in unknown if (seconds := evidence.seconds(c)) is not None}
    for cell_id, seconds in taken.items():
        before = expected[cell_id]
        note = f"{before.note}; seconds: as rows like it took here"
        expected[cell_id] = replace(before, seconds=seconds, note=note)
    sessions = make_sessions(jobs, sweep.site, sweep.config.engine_start_minutes)
    return Plan(
        site=sweep.site.name,
        results=sweep.results,
        cells=dict(Counter(item.status for item in sweep.planned)),
        measured=len(sweep.wanted) - len(jobs),
        left=len(sweep.jobs) - len(sweep.wanted),
        preflights=len(sweep.preflights_to_run(jobs)),
        holes=_holes(sweep.planned),
        memory=_memory(planned, sweep),
        cost=make_cost(sessions, sweep.site, _start_of(sweep, evidence), expected),
        from_rows=len(taken),
        expected=[(item, expected[item.cell.cell_id]) for item in planned],
        warnings=[
            *_no_gpus(planned, sweep.site),
            *_too_long([item for item in planned if item.cell.cell_id in left], expected),
            *_few_runs(planned),
            *_few_requests(planned),
        ],
        unchecked=_unchecked(planned, sweep),
    )


def _start_of(sweep: Sweep, evidence: Evidence) -> StartSeconds:
    """The expected start of an engine; where its cells are not expected, what starts here took."""

    def seconds(engine: Engine) -> float:
        known = None if card_by_name(engine.gpu_card) else evidence.start_seconds(engine)
        return start_seconds(engine, sweep.config.shapes) if known is None else known

    return seconds


GPU_FLAGS = ("gres", "gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket", "exclusive")
"""Flags of sbatch of which a job with GPUs has one."""


def _no_gpus(planned: list[Planned], site: Site) -> Iterator[str]:
    """Node classes whose jobs ask Slurm for no GPU."""
    if site.cluster != "slurm":
        return
    asked = dict.fromkeys(item.cell.engine.gpu for item in planned)
    for name in asked:
        known = site.gpus[name]
        flags = {flag.replace("_", "-") for flag in (*site.slurm, *known.slurm)}
        if not known.is_cpu and not flags.intersection(GPU_FLAGS):
            yield (
                f"gpus.{name}.slurm of the site file asks for no GPU: a job has none, unless Slurm"
                f' gives whole nodes; allowed: gres: "gpu:{{n}}", and the like'
            )


def _too_long(planned: list[Planned], expected: dict[str, CellExpectation]) -> Iterator[str]:
    """Entries with cells that would be ended by their own limit, the longest named."""
    late: dict[str, list[tuple[float, Planned]]] = {}
    for item in planned:
        seconds = expected[item.cell.cell_id].seconds
        if seconds is not None and seconds > 60 * item.minutes:
            late.setdefault(item.entry, []).append((seconds, item))
    for entry, found in late.items():
        seconds, item = max(found, key=lambda one: one[0])
        cells = "1 cell" if len(found) == 1 else f"{len(found)} cells"
        yield (
            f"workloads.{entry}.minutes: {item.minutes}, but {cells} should take longer, and would"
            f" be ended: up to {seconds / 60:.0f} minutes, {item.cell.engine.label}"
            f" {item.cell.readable}"
        )


def _few_runs(planned: list[Planned]) -> Iterator[str]:
    """Entries in which no difference can become significant, however large, in one line."""
    runs: dict[str, set[int]] = {}
    for item in planned:
        if KINDS[item.cell.workload].is_profiled:
            continue
        runs.setdefault(item.entry, set()).add(item.cell.engine.run)
    few = {entry: len(found) for entry, found in runs.items() if len(found) < stats.MIN_RUNS}
    if few:
        counts = " or ".join(map(str, sorted(set(few.values()))))
        yield (
            f"runs: {counts} ({', '.join(few)}): no difference can be significant; {stats.MIN_RUNS}"
            " runs (engine starts) on each side are needed, of one sweep or of several days"
            " (`tpsweep report DAY1 DAY2 DAY3`)"
        )


def _few_requests(planned: list[Planned]) -> Iterator[str]:
    """Percentiles that cannot appear in the tables: per entry, of the lines with fewest requests.

    A line of the tables pools all runs, as ``analysis.percentiles`` does.
    """
    lines: dict[tuple[object, ...], list[Cell]] = {}
    for item in planned:
        if item.cell.workload == SERVE:
            place = item.cell.columns()
            line = tuple(place[name] for name in IDENTITY_NAMES if name not in ("cell_id", "run"))
            lines.setdefault((item.entry, *line), []).append(item.cell)
    fewest: dict[object, tuple[int, str]] = {}
    for (entry, *_), cells in lines.items():
        prompts, seeds, runs = cells[0].num_prompts or 0, cells[0].repeats, len(cells)
        words = f"{prompts} requests x {seeds} seeds x {runs} run{'s' if runs > 1 else ''}"
        found = prompts * seeds * runs, words
        fewest[entry] = min(found, fewest.get(entry, found))
    for entry, (requests, words) in fewest.items():
        empty = [p for p in PERCENTILES if requests < stats.least_samples(p)]
        if empty:
            names = " and ".join(f"p{p}" for p in empty)
            yield (
                f"{entry}: no {names} of TTFT, TPOT and E2E in the tables: {words} make {requests},"
                f" {stats.least_samples(max(empty))} are needed"
            )


def _expected_of(cell: Cell, sweep: Sweep) -> CellExpectation:
    name, config = cell.engine.model.name, sweep.config
    return expected_of(cell, config.shapes[name], config.unknown.get(name))


def _unchecked(planned: list[Planned], sweep: Sweep) -> list[str]:
    """What is planned without its memory, TP or times being known, a line each."""
    engines = {id(item.cell.engine): item.cell.engine for item in planned}
    said = (expand.unchecked(engine, sweep.config) for engine in engines.values())
    return list(dict.fromkeys(line for line in said if line))


def jobs_to_run(sweep: Sweep) -> dict[str, Job]:
    """Jobs of this run without a row, or with one that cannot be read."""
    again = {f"{sweep.results}/{path}" for path in sweep.damaged}
    return {p: sweep.jobs[p] for p in sweep.wanted if p in again or not Path(p).exists()}


def _holes(planned: list[Planned]) -> list[Hole]:
    """By reason, in the order of the matrix."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for item in planned:
        if item.status != "planned":
            groups.setdefault((item.status, item.reason or ""), []).append(item.cell)
    return [
        Hole(
            status=status,
            reason=reason,
            cells=len(cells),
            models=tuple(dict.fromkeys(cell.engine.model.name for cell in cells)),
            gpus=tuple(dict.fromkeys(cell.engine.gpu for cell in cells)),
            tps=tuple(dict.fromkeys(cell.engine.tp for cell in cells)),
            layouts=tuple(dict.fromkeys(cell.engine.layout.label for cell in cells)),
            is_tp_alone=all(cell.engine.is_tp_alone for cell in cells),
        )
        for (status, reason), cells in groups.items()
    ]


def _memory(planned: list[Planned], sweep: Sweep) -> list[Memory]:
    """Of each class, model, precision and layout the engine with the largest need; replicas are
    alike."""
    largest: dict[tuple[str, str, str, Layout], tuple[memory.Fit, Cell]] = {}
    for item in planned:
        engine = item.cell.engine
        asked = expand.memory_of(item.cell, sweep.config, sweep.site)
        if asked is None or expand.unchecked(engine, sweep.config):
            continue
        found = memory.fit(*asked, engine.layout)
        one = replace(engine.layout, replicas=1)
        key = engine.gpu, engine.model.name, engine.precision, one
        known = largest.get(key)
        if known is None or _spare(found) < _spare(known[0]):
            largest[key] = found, item.cell
    return [
        Memory(
            gpu=gpu,
            model=model,
            precision=precision,
            tp=layout.tp,
            layout=layout.label,
            weights_gb=found.weights / 1e9,
            activations_gb=found.activations / 1e9,
            room_gb=found.room / 1e9,
            cache_tokens=found.expected_cache_tokens,
            needed_tokens=found.cache_tokens,
            tight=found.is_tight,
            nodes=cell.engine.nodes,
        )
        for (gpu, model, precision, layout), (found, cell) in largest.items()
    ]


def _spare(found: memory.Fit) -> int:
    return found.expected_cache_tokens - found.cache_tokens


def _as_json(item: Planned, expected: CellExpectation) -> dict[str, Any]:
    cell = item.cell
    return {"cell_id": cell.cell_id, "entry": item.entry, **_plain(cell), **asdict(expected)}


def _plain(cell: Cell) -> dict[str, Any]:
    """Identity columns; an unlimited rate as text, which JSON can hold."""
    rate = cell.request_rate
    return {**cell.columns(), "request_rate": "inf" if rate == float("inf") else rate}
