"""What vLLM refuses of a model's layout beyond TP, with what would do. A shape alone is needed."""

from __future__ import annotations

import math

from tpsweep.core.layout import Layout
from tpsweep.perfmodel.model_shape import Shape
from tpsweep.perfmodel.modules import Grouped


def layout_problem(layout: Layout, shape: Shape) -> str | None:
    """Why vLLM cannot spread the model so, or the layout's name would be wrong; None if it can."""
    return (
        _pipeline_problem(layout, shape)
        or _experts_problem(layout, shape)
        or data_problem(layout, shape)
        or dcp_problem(layout, shape)
    )


def _pipeline_problem(layout: Layout, shape: Shape) -> str | None:
    if layout.pp > shape.layers:
        return f"pp {layout.pp}: the model has {shape.layers} layers; allowed: up to {shape.layers}"
    return None


def _experts_problem(layout: Layout, shape: Shape) -> str | None:
    """Why there is nothing to spread by whole experts."""
    if not layout.ep:
        return None
    if not shape.experts:
        return "ep true: the model has no experts; allowed: false"
    if layout.expert_ranks == 1:
        return "ep true: one GPU has all experts; allowed: with tp or dp above 1"
    if layout.expert_ranks > shape.experts:
        said = f"{shape.experts} experts a layer on {layout.expert_ranks} GPUs"
        return f"ep true: {said}; allowed: up to {shape.experts}"
    return None


def data_problem(layout: Layout, shape: Shape) -> str | None:
    """Why data-parallel engines are not what the layout calls them: vLLM joins the experts of
    these engines, and leaves those of dense models alone."""
    dp, replicas = layout.dp, layout.replicas
    if dp > 1 and replicas > 1:
        only = "dp" if shape.experts else "replicas"
        said = "dp is for models with experts, replicas for others"
        return f"dp {dp} and replicas {replicas}: {said}; allowed: {only} {dp * replicas} alone"
    if replicas > 1 and shape.experts:
        said = "vLLM joins the experts of data-parallel engines"
        return f"replicas {replicas}: {said}; allowed: dp {replicas}"
    if dp > 1 and not shape.experts:
        return f"dp {dp}: the model has no experts to join; allowed: replicas {dp}"
    if dp > 1 and not layout.ep:
        found = shape.tp_problem(layout.tp, expert_split=layout.expert_split)
        return found and f"tp {layout.tp} x dp {dp} = {layout.expert_ranks}: {found}"
    return None


def dcp_problem(layout: Layout, shape: Shape) -> str | None:
    """Why the TP ranks cannot share a sequence's cache: those can that would hold the same KV
    heads."""
    attention, tp, dcp = shape.attention, layout.tp, layout.dcp
    if dcp == 1:
        return None
    if tp % dcp:
        return f"dcp {dcp}: it does not divide tp {tp}; allowed: {_divisors(tp)}"
    if not isinstance(attention, Grouped):
        return None
    heads = attention.kv_heads
    if dcp > tp // heads:
        same = f"{dcp} ranks with the same of the model's {heads} KV heads"
        return f"dcp {dcp}: it needs {same}; allowed: from tp {heads * dcp}"
    group = attention.heads // heads
    if group % dcp:
        said = f"it does not divide the {group} query heads of a KV head"
        return f"dcp {dcp}: {said}; allowed: {_divisors(math.gcd(group, tp // heads))}"
    return None


def _divisors(number: int) -> str:
    return ", ".join(str(one) for one in range(1, number + 1) if not number % one)
