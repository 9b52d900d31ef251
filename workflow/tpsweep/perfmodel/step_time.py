"""What a static batch should take, before it is measured: prefill and decode, by their terms.

A decode step reads its share of the weights and of the KV cache, pays per layer and per step what
TP does not divide, and 2L+1 all-reduces and one all-gather of the logits. With pipeline stages it
passes one after the other. docs/expectation.md says how good that is. Pure functions; times in ms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from tpsweep.perfmodel.allreduce import all_reduce_us, curve
from tpsweep.perfmodel.constants import Constants, NoExpectationError, constants
from tpsweep.perfmodel.gpu_specs import Card
from tpsweep.perfmodel.mixture import around_ms, fullest, launch_ms, routed_ms
from tpsweep.perfmodel.model_shape import CACHE_BYTES, DTYPE_BYTES, Shape
from tpsweep.perfmodel.pipeline import last_end

GRAPH_TOKENS = 512
"""vLLM captures no longer step as CUDA graphs, unless asked (1024 on Blackwell)."""


@dataclass(frozen=True)
class Batch:
    """A static batch and how it is run; lengths in tokens. ``backend`` is the all-reduce that runs
    (of no meaning at TP=1), ``cache_dtype`` the KV cache's (None: the weights'). ``pp``: pipeline
    stages; ``ep``: whole experts a rank. ``prompts``: how many each step of the prefill computes,
    a part of a prompt counting in part (none: all at once); ``group``: sequences of a decode step
    of a pipeline (None: all). ``prompt_tokens``: of other requests' prompts, in the same decode
    step (continuous batching). ``graph_tokens``: of the largest step that runs as CUDA graphs;
    ``eager``: none does."""

    tp: int
    batch: float
    input_len: int
    output_len: int
    backend: str = "custom"
    eager: bool = False
    cache_dtype: str | None = None
    pp: int = 1
    ep: bool = False
    prompts: tuple[float, ...] = ()
    group: int | None = None
    prompt_tokens: float = 0
    graph_tokens: float = GRAPH_TOKENS

    @property
    def context(self) -> float:
        """Tokens of a sequence at the middle of the decode."""
        return self.input_len + self.output_len / 2


@dataclass(frozen=True)
class Expected:
    """The terms of a decode step or of a prefill, in ms.

    ``body`` is the weights' reads or the arithmetic, whichever is longer; ``host`` is what the host
    needs to launch it all (of a decode under CUDA graphs: 0): it bounds the sum from below.
    """

    body: float
    kv: float
    layers: float
    step: float
    communication: float
    host: float

    @property
    def ms(self) -> float:
        """The whole time."""
        return max(self.gpu, self.host)

    @property
    def gpu(self) -> float:
        """What the GPU needs, if it need not wait for the host."""
        return self.body + self.kv + self.layers + self.step + self.communication

    def times(self, factor: float) -> Expected:
        """Every term by ``factor``."""
        if factor == 1:
            return self
        return Expected(*(factor * getattr(self, term.name) for term in fields(self)))


def decode(
    shape: Shape, dtype: str, card: Card, run: Batch, known: Constants | None = None
) -> Expected:
    """One decode step of the batch, at the middle of the output.

    ``dtype`` is that of what is not quantized. Raises ``NoExpectationError`` where no all-reduce
    curve is known, or the constants are not of such weights or such attention.
    """
    known = known or constants()
    _refuse(shape, dtype, card)
    group = replace(run, batch=run.group or run.batch)
    stages = [_decode(stage, dtype, card, group, known) for stage in shape.stages(run.pp)]
    return _passed(stages, _sends(shape, dtype, card, run, known, tokens=group.batch))


def _decode(shape: Shape, dtype: str, card: Card, run: Batch, known: Constants) -> Expected:
    """Of one stage."""
    bandwidth = card.bandwidth_tb_s * 1e12
    tokens = run.batch + run.prompt_tokens
    reads = rank_reads(shape, dtype, run, tokens) / bandwidth
    head = _head(shape) * (run.batch + run.prompt_tokens / run.input_len)
    # A prompt's attention: scores and values, half of them masked.
    attention = shape.score_width * run.input_len * run.prompt_tokens
    flops = (2 * (shape.fast_parameters_per_token * tokens + head) + attention) / run.tp
    return Expected(
        body=1e3 * max(reads / known.weight_bandwidth_share, flops / _flop_s(card, known)),
        kv=1e3 * kv_reads(shape, dtype, run) / bandwidth / _cache_share(dtype, run, known),
        layers=_layers(shape, known),
        step=known.step_us / 1e3,
        communication=communication(shape, dtype, card, run, tokens=tokens),
        host=_host(shape, run, known, tokens),
    )


def prefill(
    shape: Shape, dtype: str, card: Card, run: Batch, known: Constants | None = None
) -> Expected:
    """The prefill of the whole batch, step after step. Raises as ``decode`` does."""
    known = known or constants()
    _refuse(shape, dtype, card)
    passes, sends = [], []
    for prompts in run.prompts or (run.batch,):
        step = replace(run, batch=prompts)
        passes.append([_prefill(stage, dtype, card, step, known) for stage in shape.stages(run.pp)])
        sent = _sends(shape, dtype, card, run, known, tokens=prompts * run.input_len)
        sends.append(sent)
    whole = _added([_passed(stages, sent) for stages, sent in zip(passes, sends, strict=True)])
    if run.pp == 1:
        return whole
    # Stages work at a time, each on another step; what a step costs the engine is paid once.
    times = [[first.ms, *(one.ms - one.step for one in others)] for first, *others in passes]
    end = last_end(times, [sent / (run.pp - 1) for sent in sends])
    return whole.times(end / whole.ms)


def _prefill(shape: Shape, dtype: str, card: Card, run: Batch, known: Constants) -> Expected:
    """Of one step on one stage."""
    tokens = run.batch * run.input_len
    head = _head(shape) * run.batch
    # Attention: scores and values, half of them masked.
    attention = shape.score_width * run.input_len * tokens
    products = shape.fast_parameters_per_token - shape.routed_parameters_per_token
    flops = (2 * (products * tokens + head) + attention) / run.tp
    reads = shape.bytes_read_beside_experts(dtype) / run.tp / (card.bandwidth_tb_s * 1e12)
    body = 1e3 * max(flops / _flop_s(card, known), reads / known.weight_bandwidth_share)
    if shape.experts:
        body += routed_ms(shape, dtype, tokens, run.tp, run.ep, card, known)
        body += around_ms(shape, dtype, tokens, run.tp, card, known)
    return Expected(
        body=body,
        kv=0.0,
        layers=_layers(shape, known),
        step=known.step_us / 1e3,
        communication=communication(shape, dtype, card, run, tokens=tokens),
        # From an idle GPU the host is never ahead, and attention is outside the graphs.
        host=_host(shape, run, known, tokens) or shape.layers * known.graph_layer_us / 1e3,
    )


def communication(shape: Shape, dtype: str, card: Card, run: Batch, *, tokens: float) -> float:
    """2L+1 all-reduces of ``tokens`` rows and the all-gather of the logits, in ms; 0 at TP=1.

    In a pipeline the first stage has the one of the embedding, the last the logits.
    """
    if run.tp == 1:
        return 0.0
    row = DTYPE_BYTES[dtype]
    one = all_reduce_us(run.backend, card, run.tp, tokens * shape.hidden * row)
    # vLLM gathers the logits by NCCL whatever the all-reduce is; a rank lacks (n-1)/n of them. Its
    # latency and bandwidth are taken to be those of NCCL's all-reduce.
    logits = run.batch * shape.vocabulary * row * (run.tp - 1) / run.tp
    gather = curve("nccl", card, run.tp).us(logits) if shape.stage.is_last else 0.0
    return ((2 * shape.layers + shape.stage.is_first) * one + gather) / 1e3


def _sends(
    shape: Shape, dtype: str, card: Card, run: Batch, known: Constants, *, tokens: float
) -> float:
    """Handing hidden state and residual of ``tokens`` tokens from stage to stage, in ms. Latency
    and bandwidth are taken to be those of NCCL's all-reduce of two ranks."""
    if run.pp == 1:
        return 0.0
    moved = 2 * tokens * shape.hidden * DTYPE_BYTES[dtype] / run.tp
    return (run.pp - 1) * (curve("nccl", card, 2).us(moved) + known.stage_us) / 1e3


def _passed(stages: Sequence[Expected], sends: float) -> Expected:
    """One after the other; the step's own cost is that of the engine, and is paid once."""
    if len(stages) == 1:
        return stages[0]
    return Expected(
        body=math.fsum(stage.body for stage in stages),
        kv=math.fsum(stage.kv for stage in stages),
        layers=math.fsum(stage.layers for stage in stages),
        step=stages[0].step,
        communication=math.fsum(stage.communication for stage in stages) + sends,
        host=math.fsum(stage.host for stage in stages),
    )


def _added(steps: Sequence[Expected]) -> Expected:
    """Steps that follow each other."""
    if len(steps) == 1:
        return steps[0]
    return Expected(*(math.fsum(getattr(s, term.name) for s in steps) for term in fields(Expected)))


def _layers(shape: Shape, known: Constants) -> float:
    """What TP does not divide of the layers' kernels, in ms."""
    return (shape.layers * known.layer_us + shape.sparse_layers * known.experts_us) / 1e3


def _head(shape: Shape) -> float:
    """Multiply-adds of the output head for a token, less by how much its format is faster."""
    return shape.vocabulary * shape.hidden / shape.head_peak_factor if shape.stage.is_last else 0.0


def weight_reads(shape: Shape, dtype: str, tokens: float) -> float:
    """Bytes of weights that a step of ``tokens`` tokens reads, over all ranks.

    Of a mixture of experts: those that ``tokens`` random choices are expected to hit.
    """
    return shape.bytes_read_per_step(dtype, tokens)


def rank_reads(shape: Shape, dtype: str, run: Batch, tokens: float) -> float:
    """Bytes of weights that a rank reads; with whole experts, the rank that most tokens chose.

    All ranks wait for it at each layer's all-reduce.
    """
    each = weight_reads(shape, dtype, tokens) / run.tp
    if not run.ep or not shape.experts:
        return each
    hit = shape.experts_hit(tokens)
    one = shape.expert_bytes(dtype) / shape.experts
    return each + one * (_most_hit(hit, shape.experts, run.tp) - hit / run.tp)


def _most_hit(hit: float, experts: int, ranks: int) -> float:
    """Of ``hit`` experts out of ``experts``, how many the fullest of ``ranks`` is expected to have;
    choices are taken as independent."""
    most = fullest(hit / ranks, 1 - hit / experts, ranks)
    return min(most, hit, math.ceil(experts / ranks))


def kv_reads(shape: Shape, dtype: str, run: Batch) -> float:
    """Bytes of keys and values that one rank reads in a step at the middle of the output."""
    return run.batch * shape.kv_bytes_read(run.cache_dtype or dtype, run.tp, run.context)


def _cache_share(dtype: str, run: Batch, known: Constants) -> float:
    """Share of the bandwidth at which attention reads a cache of this dtype."""
    is_fp8 = CACHE_BYTES[run.cache_dtype or dtype] == 1
    return known.fp8_kv_bandwidth_share if is_fp8 else known.kv_bandwidth_share


def _host(shape: Shape, run: Batch, known: Constants, tokens: float) -> float:
    """What the host needs to launch all layers' kernels one by one; 0 under CUDA graphs."""
    if not run.eager and tokens <= run.graph_tokens:
        return 0.0
    each = known.eager_layer_tp1_us if run.tp == 1 else known.eager_layer_us
    dense = (shape.layers - shape.sparse_layers) * each / 1e3
    return dense + launch_ms(shape, run.ep, known)


def _refuse(shape: Shape, dtype: str, card: Card) -> None:
    """What unpacking weights takes, 32-bit arithmetic, and other kinds of attention, no row here
    says. FP8 weights are taken to be read, and multiplied, as well as BF16 ones are."""
    if DTYPE_BYTES[dtype] > DTYPE_BYTES["bfloat16"]:
        raise NoExpectationError(f"no constants for {dtype}")
    if not shape.attends_by_groups:
        raise NoExpectationError("no constants for latent or linear attention")
    if shape.quantization and not shape.is_read_as_stored:
        raise NoExpectationError(f"no constants for {shape.quantization.method} weights")
    if shape.quantization and not card.fp8:
        said = f"no constants for {shape.quantization.method} weights on {card.name}"
        raise NoExpectationError(f"{said}: its tensor cores do not multiply FP8")


def _flop_s(card: Card, known: Constants) -> float:
    return card.bf16_tflops * 1e12 * known.prefill_flops_share
