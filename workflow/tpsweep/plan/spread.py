"""What each GPU of a layout holds, and what moves between GPUs in a decode step.

Ranks, experts and collectives are where vLLM ``split.VLLM_VERSION`` has them. From a shape alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tpsweep.core.layout import Layout
from tpsweep.perfmodel.layout_problem import layout_problem
from tpsweep.perfmodel.memory import weights_of_rank
from tpsweep.perfmodel.model_shape import DTYPE_BYTES, Shape
from tpsweep.perfmodel.modules import Grouped, Latent


@dataclass(frozen=True)
class Held:
    """What the GPUs ``first`` to ``last`` hold, each. ``layers``: the first and the last, from 0.

    ``experts``: the first and the last of each layer, which are whole; None without expert
    parallelism. ``weight_bytes`` of one GPU, the experts' included; ``kv_bytes`` of a token that
    its engine has, on average.
    """

    first: int
    last: int
    engine: int
    stage: int
    layers: tuple[int, int]
    has_embedding: bool
    has_head: bool
    experts: tuple[int, int] | None
    weight_bytes: float
    kv_bytes: float


@dataclass(frozen=True)
class Move:
    """A collective, or a send. ``bytes`` is what a GPU gives into one of them, and ``per_step`` how
    many there are of it in a decode step of an engine. ``among``: the GPUs that take part;
    ``groups``: their numbers, a tuple for each set that exchanges among itself."""

    stage: int
    kind: str
    of: str
    among: str
    bytes: float
    per_step: int
    groups: tuple[tuple[int, ...], ...]

    def crosses(self, each: int) -> bool:
        """Whether some of it passes between nodes that have ``each`` GPUs of the layout."""
        return any(len({gpu // each for gpu in group}) > 1 for group in self.groups)


@dataclass(frozen=True)
class Spread:
    """A model in a layout, at a decode step of ``batch`` sequences an engine."""

    layout: str
    gpus: int
    batch: int
    experts: int
    expert_split: int
    held: list[Held]
    moves: list[Move]


def spread(shape: Shape, dtype: str, layout: Layout, batch: int = 1) -> Spread:
    """``shape`` in ``layout``. Raises ``ValueError``, one line, if vLLM cannot spread it so."""
    problem = shape.problem or layout_problem(layout, shape)
    problem = problem or shape.tp_problem(layout.tp, expert_split=layout.expert_split)
    if problem:
        raise ValueError(f"{layout.label}: {problem}")
    stages = shape.stages(layout.pp)
    moves: list[Move] = []
    for number, stage in enumerate(stages):
        moves += _in_stage(stage, number, dtype, layout, batch)
        moves += _out(stage, number, dtype, layout, batch)
    return Spread(
        layout=layout.label,
        gpus=layout.gpus,
        batch=batch,
        experts=shape.experts,
        expert_split=layout.expert_split,
        held=list(_held(shape, dtype, layout)),
        moves=moves,
    )


def _held(shape: Shape, dtype: str, layout: Layout) -> Iterator[Held]:
    """By engine, stage and, where they hold other experts, GPU."""
    tp = layout.tp
    for engine in range(layout.engines):
        for number, stage in enumerate(shape.stages(layout.pp)):
            begin = (engine * layout.pp + number) * tp
            cached = stage.kv_bytes_per_token(shape.cache_dtype(dtype), tp) / layout.dcp
            even = weights_of_rank(stage, dtype, layout)
            each = stage.expert_bytes(dtype)
            whole = layout.ep and stage.experts > 0
            for rank in range(tp) if whole else (None,):
                experts, weights = None, even
                if rank is not None:
                    place = engine % layout.dp * tp + rank
                    experts = _experts_of(place, stage.experts, layout.expert_ranks)
                    share = (experts[1] - experts[0] + 1) / stage.experts
                    weights += each * (share - 1 / layout.expert_ranks)
                yield Held(
                    first=begin if rank is None else begin + rank,
                    last=begin + tp - 1 if rank is None else begin + rank,
                    engine=engine,
                    stage=number,
                    layers=(stage.stage.before, stage.stage.before + stage.layers - 1),
                    has_embedding=stage.stage.is_first,
                    has_head=stage.stage.is_last,
                    experts=experts,
                    weight_bytes=weights,
                    kv_bytes=cached,
                )


def _experts_of(place: int, experts: int, ranks: int) -> tuple[int, int]:
    """The first and the last expert of a rank: what is over goes to the first ranks."""
    each, over = divmod(experts, ranks)
    first = place * each + min(place, over)
    return first, first + each + (place < over) - 1


def _in_stage(shape: Shape, stage: int, dtype: str, layout: Layout, batch: int) -> Iterator[Move]:
    """The collectives of one stage."""
    tp, row = layout.tp, DTYPE_BYTES[dtype]
    state = batch * shape.hidden * row
    group, ranks_of_tp = f"{tp} GPUs of TP", (_ranks(stage, tp),)
    chunked = layout.ep and tp > 1 and layout.dp > 1  # each TP rank sends its part of the tokens
    sparse = shape.sparse_layers
    if layout.dcp > 1 and isinstance(shape.attention, Grouped | Latent):
        yield from _context(shape, stage, dtype, layout, batch)
    if tp > 1:
        reduces = [("the embedding", int(shape.stage.is_first)), ("attention", shape.layers)]
        reduces += [("dense MLPs", shape.layers - sparse)]
        reduces += [("experts", 0 if chunked else sparse)]
        for of, count in reduces:
            if count:
                yield Move(stage, "all-reduce", of, group, state, count, ranks_of_tp)
    if layout.dp > 1 and sparse:
        ranks = layout.expert_ranks if chunked else layout.dp
        among = f"{ranks} GPUs of {'DP x TP' if chunked else 'DP'}"
        engines = range(0, layout.dp * layout.pp * tp, layout.pp * tp)
        joined = tuple(tuple(begin + rank for begin in engines) for rank in _ranks(stage, tp))
        joined = (tuple(gpu for group in joined for gpu in group),) if chunked else joined
        given = state / tp if chunked else state
        of = "tokens to experts (dispatch)"
        yield Move(stage, "all-gather", of, among, given, sparse, joined)
        kind, of = "reduce-scatter", "experts to tokens (combine)"
        yield Move(stage, kind, of, among, given * ranks, sparse, joined)
        if chunked:
            of = "tokens after the experts"
            yield Move(stage, "all-gather", of, group, given, sparse, ranks_of_tp)
    if tp > 1 and shape.stage.is_last:
        share = batch * shape.vocabulary * row / tp
        yield Move(stage, "all-gather", "logits", group, share, 1, ranks_of_tp)


def _ranks(stage: int, tp: int) -> tuple[int, ...]:
    """The GPUs of a stage of the first engine."""
    return tuple(range(stage * tp, (stage + 1) * tp))


def _context(shape: Shape, stage: int, dtype: str, layout: Layout, batch: int) -> Iterator[Move]:
    """Ranks that each have a part of a sequence's cache: all attend with the queries of all."""
    attention, among = shape.attention, f"{layout.dcp} GPUs of DCP"
    assert isinstance(attention, Grouped | Latent)
    if isinstance(attention, Latent):  # in the width of the cache, not of the heads
        query, value = attention.kv_rank + attention.rope_dim, attention.kv_rank
    else:
        query = value = attention.head_dim
    heads, layers = batch * attention.heads / layout.tp, shape.layers
    queries = heads * query * DTYPE_BYTES[dtype]
    ranks = _ranks(stage, layout.tp)
    groups = tuple(ranks[k : k + layout.dcp] for k in range(0, layout.tp, layout.dcp))
    yield Move(stage, "all-gather", "queries", among, queries, layers, groups)
    sums = heads * layout.dcp * 4
    yield Move(stage, "all-gather", "sums of weights", among, sums, layers, groups)
    out = heads * layout.dcp * value * DTYPE_BYTES[dtype]
    yield Move(stage, "reduce-scatter", "attention's outputs", among, out, layers, groups)


def _out(shape: Shape, stage: int, dtype: str, layout: Layout, batch: int) -> Iterator[Move]:
    """What a stage hands to the next: hidden state and residual, from each TP rank its part. The
    last hands the chosen tokens to all."""
    if layout.pp == 1:
        return
    tp, ranks = layout.tp, _ranks(stage, layout.tp)
    if shape.stage.is_last:  # as 32-bit numbers
        stages = tuple(tuple(range(rank, layout.pp * tp, tp)) for rank in range(tp))
        among = f"{layout.pp} stages"
        yield Move(stage, "broadcast", "chosen tokens", among, 4 * batch, 1, stages)
        return
    part = batch * shape.hidden * DTYPE_BYTES[dtype] / tp
    of, pairs = "hidden state, residual", tuple((rank, rank + tp) for rank in ranks)
    yield Move(stage, "send", of, f"to stage {stage + 1}", part, 2, pairs)
    if tp > 1:
        there = (_ranks(stage + 1, tp),)
        yield Move(stage, "all-gather", of, f"{tp} GPUs of TP, there", part, 2, there)
