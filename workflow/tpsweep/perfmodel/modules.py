"""The weights of a decoder, module by module: how large, and how tensor parallelism splits them.

A ``Module`` has the name of the checkpoint, so that a quantization scheme can tell its format. A
layer is made of two blocks: how it attends, and its MLP. Sizes are (outputs, inputs), as PyTorch
stores a linear layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from tpsweep.perfmodel.quantization import Kind, WeightFormat

COLUMN, ROW, HEADS, VOCAB, WHOLE = "column", "row", "heads", "vocab", "whole"
EMBEDDING, ATTENTION, MLP, NORMS, HEAD, VISION = (
    *("embedding", "attention", "mlp", "norms", "head", "vision"),
)
VOCABULARY_MULTIPLE = 64
"""vLLM pads the vocabulary to a multiple of this before it splits it."""


@dataclass(frozen=True)
class Module:
    """One weight, or ``count`` equal ones in a layer (experts), of which a token meets ``read``.

    ``kind``: what a quantization scheme may take it for; None: it never is quantized. ``heads``:
    of a weight that is split in whole heads; fewer than ranks, they are repeated. ``inputs`` is
    None for a vector.
    """

    name: str
    part: str
    split: str
    outputs: int
    inputs: int | None = None
    kind: Kind | None = None
    count: int = 1
    read: int = 1
    heads: int = 0

    @property
    def parameters(self) -> int:
        """Of one of them."""
        return self.outputs * (1 if self.inputs is None else self.inputs)

    @property
    def full(self) -> tuple[int, ...]:
        """Its size, as it is stored."""
        return (self.outputs,) if self.inputs is None else (self.outputs, self.inputs)

    def shard(self, tp: int) -> tuple[int, ...]:
        """The size of the part that one rank has."""
        outputs = self.outputs
        if self.split == HEADS:
            outputs = max(1, self.heads // tp) * (outputs // self.heads)
        elif self.split == COLUMN:
            outputs //= tp
        elif self.split == VOCAB:
            outputs = padded(outputs) // tp
        if self.inputs is None:
            return (outputs,)
        return outputs, self.inputs // tp if self.split == ROW else self.inputs

    def problem(self, tp: int, stored: WeightFormat | None) -> str | None:
        """Why vLLM cannot split it over ``tp`` ranks in this format; None if it can."""
        if self.split == ROW and (self.inputs or 1) % tp:
            return f"it does not divide the {self.inputs} inputs of {self.name}"
        if self.split == COLUMN and self.outputs % tp:
            return f"it does not divide the {self.outputs} outputs of {self.name}"
        if stored is not None and self.inputs is not None:
            return self._format_problem(tp, stored)
        return None

    @property
    def _is_merged(self) -> bool:
        """vLLM joins it with a module that follows: blocks must end with it even on one GPU."""
        return self.name.endswith(("q_proj", "k_proj", "gate_proj"))

    def _format_problem(self, tp: int, stored: WeightFormat) -> str | None:
        outputs, inputs = self.shard(tp)
        every, each = "each rank's", f"of {self.name} are no multiple of the"
        any_shard = self.kind == "experts" and stored.any_experts
        if stored.group is not None and inputs % stored.group and not any_shard:
            return f"{every} {inputs} inputs {each} group of {stored.group}"
        if outputs % stored.pack:
            return f"{every} {outputs} outputs {each} {stored.pack} in a word"
        if stored.block is None or self.split == WHOLE:
            return None
        block_outputs, block_inputs = stored.block
        if self.split == ROW:
            if tp > 1 and inputs % block_inputs:
                return f"{every} {inputs} inputs {each} block of {block_inputs}"
        elif outputs % block_outputs and (tp > 1 or self.kind == "experts" or self._is_merged):
            return f"{every} {outputs} outputs {each} block of {block_outputs}"
        return None


def padded(vocabulary: int) -> int:
    """Rows of embedding and head as vLLM splits them."""
    return -(-vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


class Attention(ABC):
    """How a layer attends: its weights, what it keeps of a token, and of a sequence.

    ``window``: the most tokens that it looks back at; None: all of them.
    """

    window: int | None

    @property
    @abstractmethod
    def score_width(self) -> int:
        """Multiply-adds of a score and a value together, over all heads, by two."""

    @abstractmethod
    def modules(self, prefix: str, hidden: int) -> Iterator[Module]:
        """Its weights, in the layer called ``prefix``."""

    @abstractmethod
    def cached(self, tp: int) -> int:
        """Numbers that ONE rank keeps for a token."""

    def state_bytes(self, tp: int, plain: int) -> int:
        """Bytes that ONE rank keeps for a sequence, whatever its length, at least; ``plain``: of a
        number of the model's dtype."""
        return 0

    @abstractmethod
    def problem(self, tp: int) -> str | None:
        """Why vLLM cannot split its heads over ``tp`` ranks."""


@dataclass(frozen=True)
class Grouped(Attention):
    """Attention of query heads in groups that share a key and value head.

    ``gated``: the query projection makes a gate of the same width, too. ``norm``: of queries and
    keys, "head" (a weight per number of a head) or "" for none. ``sinks``: a number per head.
    ``chunked``: the window begins anew at its multiples, it does not slide.
    """

    heads: int
    kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    output_bias: bool = False
    norm: str = ""
    gated: bool = False
    sinks: bool = False
    window: int | None = None
    chunked: bool = False

    @property
    def score_width(self) -> int:
        return 2 * self.heads * self.head_dim

    def modules(self, prefix: str, hidden: int) -> Iterator[Module]:
        at, size = f"{prefix}.self_attn", self.head_dim
        queries, keys = self.heads * size, self.kv_heads * size
        sides = (
            ("q_proj", queries * (2 if self.gated else 1), self.heads),
            ("k_proj", keys, self.kv_heads),
            ("v_proj", keys, self.kv_heads),
        )
        for name, outputs, heads in sides:
            yield Module(
                f"{at}.{name}", ATTENTION, HEADS, outputs, hidden, kind="linear", heads=heads
            )
        yield Module(f"{at}.o_proj", ATTENTION, ROW, hidden, queries, kind="linear")
        if self.qkv_bias:
            for name, outputs, heads in sides:
                yield Module(f"{at}.{name} bias", ATTENTION, HEADS, outputs, heads=heads)
        if self.output_bias:
            yield Module(f"{at}.o_proj bias", ATTENTION, WHOLE, hidden)
        if self.sinks:
            yield Module(f"{at}.sinks", ATTENTION, HEADS, self.heads, heads=self.heads)
        if self.norm:
            for name in ("q_norm", "k_norm"):
                yield Module(f"{at}.{name}", NORMS, WHOLE, size)

    def cached(self, tp: int) -> int:
        return 2 * max(1, self.kv_heads // tp) * self.head_dim

    def problem(self, tp: int) -> str | None:
        if self.heads % tp:
            return f"it does not divide the model's {self.heads} attention heads"
        if self.kv_heads % tp and tp % self.kv_heads:
            return f"it neither divides nor is a multiple of the model's {self.kv_heads} KV heads"
        return None


@dataclass(frozen=True)
class Latent(Attention):
    """Multi-head latent attention (DeepSeek): one compressed key and value for all heads, which
    every rank keeps whole."""

    heads: int
    query_rank: int | None
    kv_rank: int
    plain_dim: int
    rope_dim: int
    value_dim: int
    window: int | None = None

    @property
    def score_width(self) -> int:
        return self.heads * (self.plain_dim + self.rope_dim + self.value_dim)

    def modules(self, prefix: str, hidden: int) -> Iterator[Module]:
        at, queries = f"{prefix}.self_attn", self.heads * (self.plain_dim + self.rope_dim)

        def linear(name: str, split: str, outputs: int, inputs: int, heads: int = 0) -> Module:
            return Module(
                f"{at}.{name}", ATTENTION, split, outputs, inputs, kind="linear", heads=heads
            )

        if self.query_rank is None:
            yield linear("q_proj", HEADS, queries, hidden, self.heads)
        else:
            yield linear("q_a_proj", WHOLE, self.query_rank, hidden)
            yield Module(f"{at}.q_a_layernorm", NORMS, WHOLE, self.query_rank)
            yield linear("q_b_proj", HEADS, queries, self.query_rank, self.heads)
        yield linear("kv_a_proj_with_mqa", WHOLE, self.kv_rank + self.rope_dim, hidden)
        yield Module(f"{at}.kv_a_layernorm", NORMS, WHOLE, self.kv_rank)
        both = self.heads * (self.plain_dim + self.value_dim)
        yield linear("kv_b_proj", HEADS, both, self.kv_rank, self.heads)
        yield linear("o_proj", ROW, hidden, self.heads * self.value_dim)

    def cached(self, tp: int) -> int:
        return self.kv_rank + self.rope_dim

    def problem(self, tp: int) -> str | None:
        if self.heads % tp:
            return f"it does not divide the model's {self.heads} attention heads"
        return None


@dataclass(frozen=True)
class Recurrent(Attention):
    """Linear attention by a gated delta rule (Qwen3-Next): a state of fixed size per sequence.

    ``packed``: projections as Qwen3-Next has them (qkvz, ba), else one by one.
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    packed: bool = True
    window: int | None = None

    @property
    def score_width(self) -> int:
        return 0

    @property
    def _widths(self) -> tuple[int, int]:
        return self.key_heads * self.key_dim, self.value_heads * self.value_dim

    def modules(self, prefix: str, hidden: int) -> Iterator[Module]:
        at, (keys, values), heads = f"{prefix}.linear_attn", self._widths, self.value_heads
        inputs = (
            {"in_proj_qkvz": 2 * keys + 2 * values, "in_proj_ba": 2 * heads}
            if self.packed
            else {
                "in_proj_qkv": 2 * keys + values,
                "in_proj_z": values,
                "in_proj_b": heads,
                "in_proj_a": heads,
            }
        )
        for name, outputs in inputs.items():
            yield Module(f"{at}.{name}", ATTENTION, COLUMN, outputs, hidden, kind="linear")
        yield Module(f"{at}.conv1d", ATTENTION, COLUMN, 2 * keys + values, self.kernel)
        for name in ("dt_bias", "A_log"):
            yield Module(f"{at}.{name}", ATTENTION, COLUMN, heads)
        yield Module(f"{at}.norm", NORMS, WHOLE, self.value_dim)
        yield Module(f"{at}.out_proj", ATTENTION, ROW, hidden, values, kind="linear")

    def cached(self, tp: int) -> int:
        return 0

    def state_bytes(self, tp: int, plain: int) -> int:
        # At least: vLLM keeps some of them in 32 bits.
        keys, values = self._widths
        convolution = (2 * keys + values) // tp * (self.kernel - 1)
        return plain * (convolution + values // tp * self.key_dim)

    def problem(self, tp: int) -> str | None:
        for name, heads in (("key", self.key_heads), ("value", self.value_heads)):
            if heads % tp:
                return f"it does not divide the {heads} {name} heads of its linear attention"
        return None


class Mlp(ABC):
    """What follows attention in a layer."""

    @abstractmethod
    def modules(self, prefix: str, hidden: int) -> Iterator[Module]:
        """Its weights, in the layer called ``prefix``."""


@dataclass(frozen=True)
class Dense(Mlp):
    """A gated MLP. ``place``: its name in the layer; ``label``: before the matrices' names."""

    inner: int
    bias: bool = False
    place: str = "mlp"

    def modules(self, prefix: str, hidden: int) -> Iterator[Module]:
        at = f"{prefix}.{self.place}"
        for name in ("gate_proj", "up_proj"):
            yield Module(f"{at}.{name}", MLP, COLUMN, self.inner, hidden, kind="linear")
        yield Module(f"{at}.down_proj", MLP, ROW, hidden, self.inner, kind="linear")
        if self.bias:
            for name in ("gate_proj", "up_proj"):
                yield Module(f"{at}.{name} bias", MLP, COLUMN, self.inner)
            yield Module(f"{at}.down_proj bias", MLP, WHOLE, hidden)


@dataclass(frozen=True)
class Experts(Mlp):
    """A mixture of experts: a router picks ``active`` of ``count`` for a token.

    ``shared``: the width of an expert that every token meets (0: none), ``shared_name`` its name;
    ``shared_gate``: it has a gate of one output. ``bias`` of experts and router;
    ``correction``: the router has a number per expert to balance them.
    """

    count: int
    active: int
    inner: int
    shared: int = 0
    shared_name: str = "shared_expert"
    shared_gate: bool = False
    bias: bool = False
    correction: bool = False
    place: str = "mlp"
    router: str = "gate"

    def modules(self, prefix: str, hidden: int) -> Iterator[Module]:
        at = f"{prefix}.{self.place}"

        def each(name: str, split: str, outputs: int, inputs: int | None = None) -> Module:
            kind: Kind | None = None if inputs is None else "experts"
            sizes = outputs, inputs, kind, self.count, self.active
            return Module(f"{at}.experts.0.{name}", MLP, split, *sizes)

        yield Module(f"{at}.{self.router}", MLP, WHOLE, self.count, hidden)
        if self.bias or self.correction:
            yield Module(f"{at}.{self.router} bias", MLP, WHOLE, self.count)
        for name in ("gate_proj", "up_proj"):
            yield each(name, COLUMN, self.inner, hidden)
        yield each("down_proj", ROW, hidden, self.inner)
        if self.bias:
            for name in ("gate_proj", "up_proj"):
                yield each(f"{name} bias", COLUMN, self.inner)
            yield each("down_proj bias", WHOLE, hidden)
        if self.shared:
            shared = Dense(self.shared, place=f"{self.place}.{self.shared_name}")
            yield from shared.modules(prefix, hidden)
        if self.shared_gate:
            yield Module(f"{at}.{self.shared_name}_gate", MLP, WHOLE, 1, hidden)


@dataclass(frozen=True)
class Layer:
    """A layer of the decoder. ``norms``: the names of those of the hidden state."""

    attention: Attention
    mlp: Mlp
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")

    def modules(self, prefix: str, hidden: int) -> Iterator[Module]:
        """All weights of the layer called ``prefix``."""
        yield from self.attention.modules(prefix, hidden)
        yield from self.mlp.modules(prefix, hidden)
        for name in self.norms:
            yield Module(f"{prefix}.{name}", NORMS, WHOLE, hidden)
