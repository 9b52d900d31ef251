"""A layout's spread as Markdown, which reads well in a terminal, too."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from tpsweep.plan.explain import OnNodes
from tpsweep.plan.explain_text import node_line, size
from tpsweep.plan.split import VLLM_VERSION
from tpsweep.plan.spread import Held, Spread


def text(name: str, found: Spread, nodes: Sequence[OnNodes] = ()) -> str:
    """What is held, what moves, and on how many ``nodes`` of the classes of a site."""
    gpus = "1 GPU" if found.gpus == 1 else f"{found.gpus} GPUs"
    parts = [f"{name} at {found.layout}: {gpus}", _held(found), _moves(found)]
    if nodes:
        lines = [f"- {node_line(one)}{_between(found, one)}" for one in nodes]
        parts.append("\n".join(["Nodes:", "", *lines]))
    return "\n\n".join(parts) + "\n"


def _held(found: Spread) -> str:
    rows = [
        [
            str(one.first) if one.first == one.last else f"{one.first}-{one.last}",
            one.engine,
            one.stage,
            _layers(one),
            _experts(found, one),
            size(one.weight_bytes),
            f"{one.kv_bytes:,.0f}",
        ]
        for one in found.held
    ]
    heads = ["GPU", "engine", "stage", "layers", "experts of a layer", "weights of a GPU"]
    return _table(rows, [*heads, "KV bytes a token"])


def _layers(one: Held) -> str:
    ends = [*["embedding"] * one.has_embedding, f"{one.layers[0]}-{one.layers[1]}"]
    return " + ".join([*ends, *["head"] * one.has_head])


def _experts(found: Spread, one: Held) -> str:
    if not found.experts:
        return "none"
    if one.experts is not None:
        return f"{one.experts[0]}-{one.experts[1]} of {found.experts}, whole"
    if found.expert_split == 1:
        return f"all {found.experts}"
    return f"1/{found.expert_split} of each of {found.experts}"


def _moves(found: Spread) -> str:
    of = "1 sequence" if found.batch == 1 else f"{found.batch} sequences"
    if not found.moves:
        return "Nothing moves between GPUs in a step."
    rows = [
        [one.stage, one.kind, one.of, one.among, f"{one.bytes:,.0f}", one.per_step]
        for one in found.moves
    ]
    heads = ["stage", "what", "of", "between", "bytes a GPU gives", "per step"]
    title = f"What moves in a decode step of {of} an engine (vLLM {VLLM_VERSION}, its defaults):"
    notes = [] if _dispatches(found) else ["No tokens are sent to experts: every GPU has them all."]
    return "\n\n".join([title, _table(rows, heads), *(notes if found.experts else [])])


def _between(found: Spread, one: OnNodes) -> str:
    """What passes between the nodes of a class, by kind."""
    if one.nodes == 1 or one.problem:
        return ""
    crossing = [move for move in found.moves if move.crosses(one.each)]
    if not crossing:
        return " Nothing passes between them in a step."
    stages: dict[str, list[int]] = {}
    for move in crossing:
        stages.setdefault(f"{move.kind} of {move.of}", []).append(move.stage)
    kinds = ", ".join(f"{kind} ({_stages(of)})" for kind, of in stages.items())
    rest = "" if len(crossing) == len(found.moves) else "; the rest stays in a node"
    return f" Between them pass: {kinds}{rest}."


def _stages(stages: Sequence[int]) -> str:
    return f"stage{'' if len(stages) == 1 else 's'} {', '.join(map(str, stages))}"


def _dispatches(found: Spread) -> bool:
    return any("dispatch" in one.of for one in found.moves)


def _table(rows: list[list[object]], heads: list[str]) -> str:
    return tabulate(rows, headers=heads, tablefmt="pipe", disable_numparse=True)
