"""A plan as people read it."""

from __future__ import annotations

from collections.abc import Iterable

from tabulate import tabulate

from tpsweep.core.cell import BF16, Cell
from tpsweep.core.preflight_record import MINUTES
from tpsweep.perfmodel.cell_time import CellExpectation
from tpsweep.plan.cost import ClassCost, Cost
from tpsweep.plan.plan import Hole, Memory, Plan
from tpsweep.sweep.expand import Planned

NA = "n/a"
TITLE = (
    "Expected (never measured, docs/expectation.md; load: batch, or requests@rate; prefill of"
    " requests: of one alone):"
)


def text(plan: Plan) -> str:
    """The whole plan."""
    parts = [
        _head(plan),
        "\n".join(f"Warning: {warning}" for warning in plan.warnings),
        _not_run(plan.holes),
        _unchecked(plan.unchecked),
        _cost(plan),
        _fit(plan.memory),
        _expected(plan),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(plan: Plan) -> str:
    counts = plan.cells
    lines = [
        f"Site {plan.site}, results in {plan.results}",
        f"Cells: {sum(counts.values())} in the matrix, {counts.get('planned', 0)} planned, "
        f"{counts.get('infeasible', 0)} infeasible, {counts.get('excluded', 0)} excluded",
        f"To run: {plan.to_run} cells ({plan.measured} are measured) in {plan.cost.sessions} "
        f"sessions, after {plan.preflights} preflights of at most {MINUTES} minutes",
    ]
    return "\n".join(lines)


def _not_run(holes: list[Hole]) -> str:
    if not holes:
        return ""
    lines = [
        f"  {hole.cells} {_plural('cell', hole.cells)} of {', '.join(hole.models)}"
        f" at {_layouts(hole)} on {', '.join(hole.gpus)}: {hole.status}: {hole.reason}"
        for hole in holes
    ]
    return "\n".join(["Not run:", *lines])


def _layouts(hole: Hole) -> str:
    return f"TP {_list(hole.tps)}" if hole.is_tp_alone else ", ".join(hole.layouts)


def _unchecked(lines: list[str]) -> str:
    return "\n".join(["Planned unchecked:", *(f"  {line}" for line in lines)]) if lines else ""


def _cost(plan: Plan) -> str:
    cost = plan.cost
    if not cost.classes:
        return "Nothing to run."
    rows = [_cost_line(one) for one in cost.classes]
    rows.append(
        ["all", "", plan.to_run, cost.sessions, "", "", "", *_hours(cost), _known(cost.saving)]
    )
    heads = ["class", "GPUs", "cells", "sessions", "arrays", "limit min", "longest"]
    heads += ["GPU h", "start per cell", "asked for", "saving"]
    lines = [
        "Cost (GPU h: GPUs held x time, expected; start per cell: without packing; asked for: the"
        " limits' sum):",
        tabulate(rows, headers=heads, tablefmt="plain", disable_numparse=True),
        _packing(plan),
        f"If nothing waits in a queue it takes {'at most ' * bool(cost.at_limit)}"
        f"{_time(cost.hours)}.",
    ]
    if plan.from_rows:
        lines.append(
            f"{plan.from_rows} {_plural('cell', plan.from_rows)} without an expected time count as"
            f" long as rows like them in {plan.results} took."
        )
    if cost.at_limit:
        makes = "that makes the hours too many and the saving too small"
        if cost.saving is None:
            makes = "the hours are the most that it may take"
        have = "cell has" if cost.at_limit == 1 else "cells have"
        lines.append(
            f"{cost.at_limit} {have} no expected time and count with their own limit: {makes}."
        )
    return "\n".join(lines)


def _packing(plan: Plan) -> str:
    cost = plan.cost
    if cost.sessions == plan.to_run:
        sessions = f"each of {cost.sessions} sessions" if cost.sessions > 1 else "the session"
        return f"Packing: {sessions} has one cell."
    return f"Packing: {cost.sessions} engine starts instead of {plan.to_run}{_saved(cost)}."


def _saved(cost: Cost) -> str:
    if cost.saving is None:
        return "; how many GPU hours that saves is not known"
    return (
        f", and {_number(cost.gpu_hours)} GPU hours instead of {_number(cost.gpu_hours_unpacked)}:"
        f" {_number(cost.saving)} times less than with an engine start per cell"
    )


def _cost_line(one: ClassCost) -> list[object]:
    longest = f"{one.longest_limit_minutes:g}"
    if one.allowed_minutes is not None:
        longest += f" of {one.allowed_minutes}"
    return [
        one.gpu,
        _on_nodes(str(one.gpus), one.nodes),
        one.cells,
        one.sessions,
        "+".join(map(str, one.arrays)) or "-",
        longest,
        _time(one.longest_hours),
        _number(one.gpu_hours),
        _number(one.gpu_hours_unpacked),
        _number(one.limit_gpu_hours),
        _known(one.saving),
    ]


def _hours(cost: Cost) -> list[str]:
    hours = (cost.gpu_hours, cost.gpu_hours_unpacked, cost.limit_gpu_hours)
    return [_number(value) for value in hours]


def _fit(memory: list[Memory]) -> str:
    if not memory:
        return ""
    rows = [
        [
            one.gpu,
            _named(one.model, one.precision),
            _on_nodes(one.layout, one.nodes),
            f"{one.weights_gb:.1f}",
            f"{one.activations_gb:.1f}",
            f"{one.room_gb:.1f}",
            f"{one.cache_tokens:,}",
            f"{one.needed_tokens:,}" + (" (tight)" if one.tight else ""),
        ]
        for one in memory
    ]
    heads = ["class", "model", "layout", "weights", "activations", "room", "KV tokens", "needed"]
    table = tabulate(rows, headers=heads, tablefmt="plain", disable_numparse=True)
    title = "Memory of a GPU (GB; room: its share for vLLM; KV tokens: estimate of what is left):"
    return f"{title}\n{table}"


def _expected(plan: Plan) -> str:
    """A line per setting, its loads side by side; engine starts of the same (``run``) are one."""
    lines: dict[tuple[object, ...], dict[str, CellExpectation]] = {}
    notes: dict[str, int] = {}
    for item, expected in plan.expected:
        if expected.note:
            notes[expected.note] = notes.get(expected.note, 0) + 1
        else:
            lines.setdefault(_setting(item), {}).setdefault(_load(item.cell), expected)
    said = [f"{count} cells: {note}" for note, count in notes.items()]
    if said:
        said = ["Nothing is expected of", *(f"  {line}" for line in said)]
    if not lines:
        return "\n".join(said)
    rows = [[*setting, "/".join(loads), *_figures(loads)] for setting, loads in lines.items()]
    heads = ["workload", "class", "model", "layout", "variant", "all-reduce", "in", "out", "load"]
    heads += ["prefill ms", "decode ms", "cell s"]
    table = tabulate(rows, headers=heads, tablefmt="plain", disable_numparse=True)
    return "\n".join([TITLE, table, *said])


def _setting(item: Planned) -> tuple[object, ...]:
    cell, engine = item.cell, item.cell.engine
    return (
        *(item.entry, engine.gpu, _named(engine.model.name, engine.precision)),
        *(engine.label, engine.variant),
        *(engine.allreduce_backend, cell.input_len, cell.output_len),
    )


def _named(model: str, precision: str) -> str:
    """A model, with its precision where that is not its own."""
    return model if precision == BF16 else f"{model} {precision}"


def _load(cell: Cell) -> str:
    """``32`` sequences of a static batch; ``200@4`` requests at 4/s; ``200@inf<8``: 8 at once."""
    if cell.batch is not None:
        return str(cell.batch)
    rate = "" if cell.request_rate is None else f"@{cell.request_rate:g}"
    most = "" if cell.max_concurrency is None else f"<{cell.max_concurrency}"
    return f"{cell.num_prompts}{rate}{most}"


def _figures(loads: dict[str, CellExpectation]) -> list[str]:
    columns = ("prefill_ms", "tpot_ms", "seconds")
    return ["/".join(_known(getattr(one, c)) for one in loads.values()) for c in columns]


def _on_nodes(what: str, nodes: int) -> str:
    """``4 on 2 nodes``; of one node nothing is said."""
    return what if nodes == 1 else f"{what} on {nodes} nodes"


def _known(value: float | None) -> str:
    return NA if value is None else _number(value)


def _time(hours: float) -> str:
    return f"{_number(hours)} h" if hours >= 1 else f"{_number(60 * hours)} min"


def _number(value: float) -> str:
    """Three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _list(values: Iterable[int]) -> str:
    return ", ".join(str(value) for value in values)
