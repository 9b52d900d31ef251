"""How tensor parallelism splits a model: its matrices, and the collectives of a decode step.

Files and classes are those of vLLM ``VLLM_VERSION``. Pure: from a shape alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from snakemake_executor_plugin_submitit.site import Site
from tpsweep.core.layout import Layout
from tpsweep.perfmodel.model_shape import DTYPE_BYTES, Shape
from tpsweep.plan.split import (
    LINEAR,
    VOCABULARY,
    Matrix,
    matrices,
    model_file,
    padded_vocabulary,
)

COMMUNICATION = "distributed/communication_op.py"
STATE = "distributed/parallel_state.py"


@dataclass(frozen=True)
class Collective:
    """A collective of a decode step. ``bytes`` is what each GPU gives into it (an all-reduce's
    tensor, an all-gather's share), ``per_step`` how many there are."""

    after: str
    kind: str
    shape: tuple[int, int]
    bytes: int
    per_step: int
    file: str
    cls: str

    @property
    def bytes_per_step(self) -> int:
        """All of its kind together."""
        return self.bytes * self.per_step


@dataclass(frozen=True)
class OnNodes:
    """The GPUs on a node class of a site: ``each`` on each of ``nodes``, and how many nodes its
    site file allows. ``problem``: why they cannot be spread so, "" if they can."""

    gpu: str
    per_node: int
    nodes: int
    each: int
    allowed: int
    problem: str = ""


@dataclass(frozen=True)
class Explanation:
    """A model at a TP."""

    tp: int
    batch: int
    dtype: str
    layers: int
    hidden: int
    heads_per_gpu: int
    kv_heads_per_gpu: int
    kv_heads_repeat: int  # GPUs that hold the same KV head
    matrices: list[Matrix]
    collectives: list[Collective]
    cache_dtype: str
    kv_bytes_per_token: int
    model_file: str

    @property
    def weight_bytes_per_gpu(self) -> float:
        """All weights of one GPU."""
        return sum(matrix.count * matrix.bytes_per_gpu for matrix in self.matrices)

    @property
    def all_reduces(self) -> int:
        """Per decode step."""
        return sum(one.per_step for one in self.collectives if one.kind == "all-reduce")

    def link_bytes(self, *, one_shot: bool) -> float:
        """Bytes that one GPU receives over its links in a decode step's all-reduces.

        By a ring 2(n-1)/n of each tensor; one-shot, each GPU reads the tensors of all others.
        """
        n = self.tp
        times = (n - 1) if one_shot else 2 * (n - 1) / n
        kinds = (one for one in self.collectives if one.kind == "all-reduce")
        return times * sum(one.bytes_per_step for one in kinds)


def explain(shape: Shape, dtype: str, tp: int, batch: int = 1) -> Explanation:
    """Every weight and collective of ``shape`` at ``tp``.

    Raises ``ValueError``, one line, for a TP that the model cannot be split over, and for a model
    that cannot be loaded at all.
    """
    if shape.problem:
        raise ValueError(f"--explain: {shape.problem}")
    if problem := shape.tp_problem(tp):
        raise ValueError(f"--tp: {tp}: {problem}; allowed: {_allowed(shape)}")
    cache_dtype = shape.cache_dtype(dtype)
    return Explanation(
        tp=tp,
        batch=batch,
        dtype=dtype,
        layers=shape.layers,
        hidden=shape.hidden,
        heads_per_gpu=shape.heads // tp,
        kv_heads_per_gpu=max(1, shape.kv_heads // tp),
        kv_heads_repeat=max(1, tp // shape.kv_heads),
        matrices=matrices(shape, dtype, tp),
        collectives=_collectives(shape, dtype, tp, batch),
        cache_dtype=cache_dtype,
        kv_bytes_per_token=shape.kv_bytes_per_token(cache_dtype, tp),
        model_file=f"model_executor/models/{model_file(shape)}",
    )


def on_nodes(layout: Layout, site: Site) -> list[OnNodes]:
    """How many nodes of each class a layout takes."""
    found = []
    for name, gpu in site.gpus.items():
        nodes = layout.nodes_on(gpu.per_node)
        each, rest = divmod(layout.gpus, nodes)
        problem = f"no equal parts on {nodes} nodes" if rest else ""
        if not problem and nodes > gpu.nodes:
            problem = f"its site file allows {gpu.nodes} (nodes)"
        if not problem and nodes > 1 and layout.engines > 1:
            problem = "their server starts all engines on one node"
        found.append(OnNodes(name, gpu.per_node, nodes, each, gpu.nodes, problem))
    return found


def _allowed(shape: Shape) -> str:
    return ", ".join(map(str, shape.tps)) or "none"


def _collectives(shape: Shape, dtype: str, tp: int, batch: int) -> list[Collective]:
    """Those of one decode step of ``batch`` sequences; none at TP=1."""
    if tp == 1:
        return []
    row, hidden = DTYPE_BYTES[dtype], (batch, shape.hidden)
    size, each = batch * shape.hidden * row, "all-reduce"
    share = padded_vocabulary(shape) // tp
    dense = shape.layers - shape.sparse_layers
    found = [
        Collective("embed_tokens", each, hidden, size, 1, VOCABULARY, "VocabParallelEmbedding"),
        Collective("o_proj", each, hidden, size, shape.layers, LINEAR, "RowParallelLinear"),
    ]
    if dense:
        found.append(
            Collective("down_proj", each, hidden, size, dense, LINEAR, "RowParallelLinear")
        )
    if shape.sparse_layers:
        runner = "model_executor/layers/fused_moe/runner/moe_runner.py"
        found.append(
            Collective("the experts", each, hidden, size, shape.sparse_layers, runner, "MoERunner")
        )
    gather = "model_executor/layers/logits_processor.py"
    found.append(
        Collective(
            *("lm_head", "all-gather", (batch, share), batch * share * row, 1, gather),
            "LogitsProcessor",
        )
    )
    return found
