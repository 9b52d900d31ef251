"""Whether an engine and its work fit into a GPU's memory, with the arithmetic.

Weights, the buffers of the profile run and the KV cache are counted: lower bounds, which alone make
a cell infeasible. The runtime and the driver are estimated: they only say what vLLM should have
left for its cache, and which cells are tight. Sizes are bytes of one GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from tpsweep.core.layout import Layout
from tpsweep.perfmodel.constants import document
from tpsweep.perfmodel.layout_problem import dcp_problem
from tpsweep.perfmodel.model_shape import DTYPE_BYTES, Shape

GIB = 2**30
FITS_FROM = "it fits from tp"
REPEATED_FROM = 5e7
"""Bytes from which on a refusal names what every rank has again; a dense model's norms are less."""
BLOCK_TOKENS = 16
"""Tokens of a block of vLLM's KV cache: a sequence takes whole blocks."""


def in_blocks(tokens: int) -> int:
    """``tokens`` in whole blocks."""
    return BLOCK_TOKENS * -(-tokens // BLOCK_TOKENS)


@dataclass(frozen=True)
class Limits:
    """An engine's pinned limits and the card's nominal memory (GiB)."""

    memory_gib: float
    share: float  # gpu_memory_utilization
    model_len: int
    batched_tokens: int
    sequences: int

    @classmethod
    def of(cls, args: Mapping[str, Any], memory_gib: float) -> Limits:
        """Those of an engine with these arguments on a card of ``memory_gib``."""
        return cls(
            memory_gib=memory_gib,
            share=float(args["gpu_memory_utilization"]),
            model_len=int(args["max_model_len"]),
            batched_tokens=int(args["max_num_batched_tokens"]),
            sequences=int(args["max_num_seqs"]),
        )

    @property
    def room(self) -> float:
        """What vLLM may take of a GPU."""
        return self.memory_gib * GIB * self.share


@dataclass(frozen=True)
class Load:
    """What an engine must hold. ``dtype`` is the model's, ``cache_dtype`` the KV cache's;
    ``batch`` sequences of ``length`` tokens at once (0: as many as find room). ``offloaded``: bytes
    of weights that each GPU leaves on the host."""

    shape: Shape
    dtype: str
    cache_dtype: str
    batch: int = 0
    length: int = 0
    offloaded: float = 0.0

    def tokens(self, limits: Limits) -> int:
        """Tokens that the cache must hold: the batch in whole blocks, and at least one sequence of
        ``max_model_len``, without which vLLM refuses to start."""
        longest = in_blocks(limits.model_len) if self.shape.has_full_attention else 0
        return max(self.batch * in_blocks(self.length), longest)

    def cache(self, limits: Limits, tp: int, dcp: int) -> int:
        """Bytes of them on one GPU; ``dcp`` ranks share a sequence's cache. Layers that look back
        a window need not hold more; linear attention keeps a state for each sequence."""
        shape, count, length = self.shape, self.batch, in_blocks(self.length)
        if count * length < self.tokens(limits):
            count, length = 1, in_blocks(limits.model_len)
        state = max(1, self.batch) * shape.state_bytes(self.dtype, tp)
        held = shape.kv_bytes_held(self.cache_dtype, tp, length)
        return -(-count * held // dcp) + state


@dataclass(frozen=True)
class Fit:
    """The memory of one GPU at a TP. ``all_weights``: of its pipeline stage, over all ranks;
    ``repeated``: of ``weights``, what every rank has beside its even share."""

    tp: int
    all_weights: float
    repeated: float
    weights: float
    activations: float
    cache: float
    cache_tokens: int
    bytes_per_token: int
    room: float
    estimated_room: float  # for weights, activations and cache, by the estimates
    beside: float  # what the share leaves for the driver and CUDA graphs, less their estimates

    @property
    def fits(self) -> bool:
        """Nothing that is counted says otherwise."""
        return self.weights + self.activations + self.cache <= self.room

    @property
    def is_tight(self) -> bool:
        """What is counted fits, but with the estimates it does not."""
        is_short = self._left < self.cache or self.beside < 0
        return self.fits and is_short

    @property
    def _left(self) -> float:
        return max(self.estimated_room - self.weights - self.activations, 0)

    @property
    def expected_cache_tokens(self) -> int:
        """What vLLM should say as its KV cache size; 0 if nothing is left."""
        if not self.bytes_per_token:  # linear attention alone
            return self.cache_tokens
        return int(self._left // (self.bytes_per_token * BLOCK_TOKENS)) * BLOCK_TOKENS


def fit(load: Load, limits: Limits, layout: Layout) -> Fit:
    """The memory of one GPU if ``load`` is spread as ``layout`` says; of the pipeline stage with
    the least room for its cache."""
    stages = (replace(load, shape=stage) for stage in load.shape.stages(layout.pp))
    found = (_fit(stage, limits, layout) for stage in stages)
    return min(found, key=lambda one: (one.fits, one.expected_cache_tokens, -one.weights))


def _fit(load: Load, limits: Limits, layout: Layout) -> Fit:
    """Of one stage, whose shape ``load`` has."""
    shape, tp = load.shape, layout.tp
    each = -(-shape.kv_bytes_per_token(load.cache_dtype, tp) // layout.dcp)
    constants = memory_constants()
    runtime = constants["runtime_gib"] + (constants["runtime_tp_gib"] if layout.shards > 1 else 0)
    usable = (limits.memory_gib - constants["driver_gib"]) * limits.share
    weights, experts, fullest = shape.weight_bytes(load.dtype), shape.expert_bytes(load.dtype), 0.0
    held = weights_of_rank(shape, load.dtype, layout)
    if layout.ep and shape.experts:  # whole experts: the fullest rank has one more if some are over
        over = -(-shape.experts // layout.expert_ranks) / shape.experts - 1 / layout.expert_ranks
        fullest = over * experts
    return Fit(
        tp=tp,
        all_weights=weights,
        repeated=held - (weights - experts) / layout.tp - experts / layout.expert_ranks,
        weights=max(held + fullest - load.offloaded, 0),
        activations=activations(shape, load.dtype, limits, tp),
        cache=load.cache(limits, tp, layout.dcp),
        cache_tokens=load.tokens(limits),
        bytes_per_token=each,
        room=limits.room,
        estimated_room=(usable - runtime) * GIB,
        beside=(limits.memory_gib - usable - constants["driver_gib"] - constants["graphs_gib"])
        * GIB,
    )


def weights_of_rank(shape: Shape, dtype: str, layout: Layout) -> float:
    """Bytes of weights of one rank of a stage, all ranks alike: the experts over all that join
    theirs, everything else by TP, the same in each data-parallel engine."""
    split, ranks = layout.expert_split, layout.expert_ranks
    experts = shape.rank_bytes(dtype, split, of_experts=True) * split / ranks
    return shape.rank_bytes(dtype, layout.tp, of_experts=False) + experts


def activations(shape: Shape, dtype: str, limits: Limits, tp: int) -> float:
    """Bytes that vLLM's profile run surely has at once, before it sizes the cache.

    A step of ``max_num_batched_tokens``: hidden state and residual, and of a dense MLP the two
    halves of gate and up with their product; or the logits of ``max_num_seqs``, as they come and as
    the sampler's 32-bit copy. Of a mixture of experts the hidden states alone are counted.
    """
    row, mlp = DTYPE_BYTES[dtype], 0.0
    if shape.sparse_layers < shape.layers:
        mlp = 3 * shape.intermediate / tp
    step = limits.batched_tokens * (2 * shape.hidden + mlp) * row
    logits = limits.sequences * shape.vocabulary * (row + 4) if shape.stage.is_last else 0
    return max(step, logits)


def smallest_tp(load: Load, limits: Limits, layout: Layout, most: int) -> int | None:
    """The smallest TP up to ``most`` at which the load fits, all else of ``layout`` as it is; None
    if none does."""
    for tp in range(1, most + 1):
        wider = replace(layout, tp=tp)
        if _split_problem(load.shape, wider) is None and fit(load, limits, wider).fits:
            return tp
    return None


def _split_problem(shape: Shape, layout: Layout) -> str | None:
    if problem := shape.tp_problem(layout.tp, expert_split=layout.expert_split):
        return problem
    return dcp_problem(layout, shape)


def problem(
    load: Load, limits: Limits, layout: Layout, *, gpu: str, per_node: int, nodes: int = 1
) -> str | None:
    """Why the load does not fit, with the arithmetic and the smallest TP that would; else None.

    ``per_node``: GPUs of a node of class ``gpu``; ``nodes``: how many may hold it.
    """
    found, tp = fit(load, limits, layout), layout.tp
    if found.fits:
        return None
    most = per_node * nodes // (layout.gpus // tp)
    room = f"{_gb(found.room)} ({limits.memory_gib:g} GiB x {limits.share:g} of {gpu})"
    stage = f" of a stage of pp {layout.pp}" if layout.pp > 1 else ""
    split = f"{_gb(found.all_weights)}{stage} / tp {tp}"
    if layout.dp > 1:
        part = load.shape.expert_bytes(load.dtype) / load.shape.weight_bytes(load.dtype)
        experts = part * found.all_weights
        split = f"{_gb(found.all_weights - experts)}{stage} / tp {tp}"
        split += f" + experts {_gb(experts)} / (tp {tp} x dp {layout.dp})"
    if found.repeated >= REPEATED_FROM:
        split += f" + {_gb(found.repeated)} that every rank has"
    if load.offloaded:
        split += f" - {_gb(load.offloaded)} on the host"
    weights = f"weights {split} = {_gb(found.weights)}"
    least = smallest_tp(load, limits, layout, most)
    where = f"a node of {per_node}" if nodes == 1 else f"{nodes} nodes of {per_node}"
    up_to = "" if most == per_node * nodes else f" up to {most}"
    more = f"{FITS_FROM} {least}" if least else f"no tp{up_to} fits on {where} {gpu}"
    if found.weights > found.room:
        return f"{weights} a GPU > {room}; {more}"
    parts = f"{weights} + activations {_gb(found.activations)}"
    parts += f" + KV cache of {found.cache_tokens} tokens {_gb(found.cache)} a GPU"
    return f"{parts} > {room}; {more}"


@cache
def memory_constants() -> dict[str, float]:
    """GiB of a GPU that are estimated, from data/expectation.yaml, where each has its origin."""
    return {name: float(entry["value"]) for name, entry in document()["memory"].items()}


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e9:.3g} GB"
