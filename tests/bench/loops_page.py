"""The page of ``tests.bench.loops``: GPU-seconds both ways, and that both ways measure the same."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tpsweep.core.cell import Cell, Engine
from tpsweep.core.row_file import read_row
from tpsweep.core.workloads import CAPTURE, LATENCY, SERVE
from tpsweep.sweep.sweep import Sweep
from tpsweep.tables import cost

WARMUPS = 10
"""What vLLM's benchmark does unless told otherwise (`--num-iters-warmup`)."""
LOOPED = (LATENCY, CAPTURE, SERVE)
"""Kinds of workload that the lab's loops have."""
LAB_LOOPS = {1: 9, 2: 11}
"""Loops of the lab's five experiments, by TP: the cells of docs/seed-experiments.yaml."""
SERVED_S = 50.0
"""In which its served requests come: 200 at 4/s, one seed."""
LOOPS, SESSIONS = "loops.jsonl", "sessions.jsonl"
"""Below the results root: the loops that were run, and the executor's word on its sessions."""

TEXT = """\
# What sharing engine starts saves

Written by `{command}` on {date}: {machine}, vLLM {vllm}.
The lab's experiments ({workloads}) on {model}, {cells} of {planned} cells, run both
ways on the same machine with warm vLLM caches. GPU-seconds are the wall-clock seconds of the
processes that hold the GPUs, times the number of GPUs{note}.
Engine starts: {starts_loops} by loops, {starts_ours} by tpsweep, {starts_ratio:.1f} times fewer.

| TP | cells | loops run | loops (GPU-s) | tpsweep (GPU-s) | ratio | floor (GPU-s) |
|---|---|---|---|---|---|---|
{lines}

*Loops*: vLLM's own benchmarks, one engine start per cell, as many warm-ups per cell as tpsweep.
*tpsweep*: all that held the GPUs, the preflight included. *Floor*: one engine start per session
plus the kept repeats.

| TP | loops / floor | tpsweep / floor | preflight (GPU-s) | cross-check (GPU-s) |
|---|---|---|---|---|
{parts}

Loops / floor is the most that sharing could save with these iterations. The preflight runs once per
day and node class. The cross-check (each repeat again with one output token) is not part of loops.

Other ways to count, without the preflight and with {warmups} warm-ups in the loops, the default of
vLLM's benchmark:

| TP | ratio, no preflight | loops, {warmups} warm-ups (GPU-s) | ratio | ratio, no preflight |
|---|---|---|---|---|
{others}
{reckoned}{lab}
## Agreement with vLLM's benchmark

Median wall time of one call: tpsweep's row and vLLM's benchmark, each on its own engine start.

| TP | batch | in / out (tokens) | tpsweep (ms) | vLLM's benchmark (ms) | difference |
|---|---|---|---|---|---|
{agreement}
"""

LAB = """
## All five experiments, at most

With the lab's experiments 2, 4 and 5 (served load, a capture, NVLink's traffic) the {cells} loops
become {loops}. These were not run both ways. Reckoned with the loops' mean start, and with no more
work on either side than the {served:g} s in which the served requests come, at TP={tps}:

    loops {by_loops:.0f} GPU-s / floor {floor:.0f} GPU-s = {most:.1f}

More than that sharing cannot save here, whatever tpsweep adds to the floor.
"""


@dataclass(frozen=True)
class Loop:
    """One cell by vLLM's own command: wall seconds of its process, seconds of each iteration."""

    cell_id: str
    seconds: float
    latencies_s: list[float]

    @property
    def median_s(self) -> float:
        """Seconds of one iteration."""
        return statistics.median(self.latencies_s)


@dataclass(frozen=True)
class Spent:
    """GPU-seconds of one number of GPUs, both ways; ``looped`` of ``cells`` loops were run.

    ``loops`` is with as many warm-ups as tpsweep, ``loops_default`` with those of vLLM's benchmark.
    ``session`` is tpsweep's without the preflight, ``start`` the mean start of a loop.
    """

    tp: int
    cells: int
    looped: int
    loops: float
    loops_default: float
    session: float
    preflight: float
    cross_check: float
    floor: float
    start: float

    @property
    def ours(self) -> float:
        """All that tpsweep's way took."""
        return self.session + self.preflight

    @property
    def line(self) -> str:
        """The first table's."""
        return _line(
            *(self.tp, self.cells, self.looped, f"{self.loops:.0f}", f"{self.ours:.0f}"),
            *(f"{self.loops / self.ours:.1f}", f"{self.floor:.0f}"),
        )

    @property
    def parts(self) -> str:
        """The second table's."""
        return _line(
            *(self.tp, f"{self.loops / self.floor:.1f}", f"{self.ours / self.floor:.2f}"),
            *(f"{self.preflight:.0f}", f"{self.cross_check:.0f}"),
        )

    @property
    def others(self) -> str:
        """The third table's."""
        return _line(
            *(self.tp, f"{self.loops / self.session:.1f}", f"{self.loops_default:.0f}"),
            *(f"{self.loops_default / at:.1f}" for at in (self.ours, self.session)),
        )


def _line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def by_engine(sweep: Sweep) -> Iterator[list[Cell]]:
    """The wanted cells of every engine that is started, in the order of the sweep."""
    cells: dict[str, list[Cell]] = {}
    for path in sweep.wanted:
        cell = sweep.jobs[path].cell
        if cell.workload not in LOOPED:
            raise ValueError(f"workload: {cell.workload}, allowed: {', '.join(LOOPED)}")
        cells.setdefault(cell.engine.shared.session, []).append(cell)
    yield from cells.values()


def read_loops(kept: Path) -> dict[str, Loop]:
    """The loops that were run, by cell id. Raises ``ValueError`` for a line that is none."""
    lines = kept.read_text("utf-8").splitlines() if kept.exists() else []
    try:
        return {one.cell_id: one for one in (Loop(**json.loads(line)) for line in lines)}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{kept}: a line is no loop: {error}") from error


def run_both_ways(sweep: Sweep, loops: dict[str, Loop]) -> Iterator[list[Cell]]:
    """Of every engine of which a loop was run the cells that have a row."""
    for cells in by_engine(sweep):
        there = [cell for cell in cells if (Path(sweep.results) / cell.path).exists()]
        if any(cell.cell_id in loops for cell in there):
            yield there


def spent(cells: Sequence[Cell], loops: Sequence[Loop], results: Path) -> Spent:
    """Both ways' GPU-seconds of the cells of one engine."""
    by_id = {one.cell_id: one for one in loops}
    gpus = cells[0].engine.gpus
    rows = {cell.cell_id: read_row(results / cell.path) for cell in cells}
    run = [cell for cell in cells if cell.cell_id in by_id]
    start = statistics.mean(
        by_id[cell.cell_id].seconds - (WARMUPS + cell.repeats) * by_id[cell.cell_id].median_s
        for cell in run
        if cell.workload == LATENCY
    )
    equal = default = 0.0
    for cell in cells:
        done = by_id.get(cell.cell_id)
        if cell.workload != LATENCY:
            default += by_id[cell.cell_id].seconds
            equal += by_id[cell.cell_id].seconds
            continue
        each = done.median_s if done else rows[cell.cell_id]["e2e_ms"] / 1e3
        seconds = done.seconds if done else start + (WARMUPS + cell.repeats) * each
        default += seconds
        equal += seconds - (WARMUPS - cell.warmups) * each
    took = session_seconds(results / SESSIONS, cells[0].engine)
    preflight = sum(
        _seconds(entry)
        for entry in _entries(results / SESSIONS)
        if entry["gpus"] == gpus and not entry["session"]
    )
    check = sum(sum(row["e2e_out1_ms_samples"] or ()) for row in rows.values()) / 1e3
    found = cost.spent_by(list(rows.values()))
    if found is None:
        raise ValueError(f"{results}: its rows do not say when they were measured")
    seconds = (equal, default, took, preflight, check, found.floor, start)
    return Spent(cells[0].engine.tp, len(cells), len(run), *(gpus * one for one in seconds))


def session_seconds(kept: Path, engine: Engine) -> float:
    """What the sessions of an engine took, whether they had it to themselves or shared it."""
    keys = (engine.session, engine.shared.session)
    return sum(_seconds(entry) for entry in _entries(kept) if entry["session"] in keys)


def _entries(kept: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in kept.read_text("utf-8").splitlines()]


def _seconds(session: dict[str, Any]) -> float:
    ended, began = (datetime.fromisoformat(session[key]) for key in ("ended_at", "started_at"))
    return (ended - began).total_seconds()


def page(sweep: Sweep, loops: dict[str, Loop], command: str) -> str:
    """The page as Markdown. Raises ``ValueError`` if nothing was run both ways."""
    results = Path(sweep.results)
    groups = list(run_both_ways(sweep, loops))
    if not groups:
        raise ValueError(f"{results}: no cell was run both ways; allowed: without --kept")
    cells = [cell for group in groups for cell in group]
    rows = {cell.cell_id: read_row(results / cell.path) for cell in cells}
    cards = {f"{cell.engine.gpus}x {cell.engine.gpu_card}" for cell in cells}
    found = [
        spent(group, [loops[c.cell_id] for c in group if c.cell_id in loops], results)
        for group in groups
    ]
    reckoned = sum(one.cells - one.looped for one in found)
    estimated = (
        f"\n{reckoned} loops were not run: estimated from the mean start of those that were and the"
        " rows' iteration times.\n"
    )
    both = [
        _agreement(cell, rows[cell.cell_id]["e2e_ms"], 1e3 * loops[cell.cell_id].median_s)
        for cell in cells
        if cell.cell_id in loops and cell.workload == LATENCY
    ]
    starts = len({row["engine_id"] for row in rows.values()})
    return TEXT.format(
        command=command,
        date=_all(row["ended_at"][:10] for row in rows.values()),
        machine=_all(cards),
        vllm=_all(row["vllm_version_ran"] for row in rows.values()),
        model=_all(cell.engine.model.name for cell in cells),
        cells=len(cells),
        workloads=", ".join(dict.fromkeys(cell.workload for cell in cells)),
        starts_loops=len(cells),
        starts_ours=starts,
        starts_ratio=len(cells) / starts,
        planned=len(sweep.jobs),
        note=" (here processors that stand for them)" if "CPU" in _all(cards) else "",
        lines="\n".join(one.line for one in found),
        parts="\n".join(one.parts for one in found),
        others="\n".join(one.others for one in found),
        warmups=WARMUPS,
        reckoned=estimated if reckoned else "",
        lab=lab_at_most(found),
        agreement="\n".join(both),
    )


def lab_at_most(found: Sequence[Spent]) -> str:
    """The most that sharing could save over the lab's five experiments; "" where a TP is missing
    or has more than these."""
    by_tp = {one.tp: one for one in found}
    if by_tp.keys() != LAB_LOOPS.keys() or any(by_tp[tp].cells > n for tp, n in LAB_LOOPS.items()):
        return ""
    served = SERVED_S * sum(LAB_LOOPS)  # GPU-seconds: a TP has as many GPUs
    more = sum((n - by_tp[tp].cells) * by_tp[tp].start for tp, n in LAB_LOOPS.items())
    loops = sum(one.loops for one in found) + more + served
    floor = sum(one.floor for one in found) + served
    return LAB.format(
        loops=sum(LAB_LOOPS.values()),
        cells=sum(one.cells for one in found),
        served=SERVED_S,
        tps=" and ".join(map(str, LAB_LOOPS)),
        by_loops=loops,
        floor=floor,
        most=loops / floor,
    )


def _all(words: Iterable[str]) -> str:
    return " and ".join(sorted(set(words)))


def _agreement(cell: Cell, ours_ms: float, theirs_ms: float) -> str:
    return (
        f"| {cell.engine.tp} | {cell.batch} | {cell.input_len} / {cell.output_len}"
        f" | {ours_ms:.2f} | {theirs_ms:.2f} | {ours_ms / theirs_ms - 1:+.2%} |"
    )
