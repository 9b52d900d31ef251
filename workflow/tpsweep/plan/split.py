"""Every weight of a model and the shard of it that one GPU has under tensor parallelism.

Shapes are (outputs, inputs), as PyTorch stores a linear layer. Files and classes are those of vLLM
``VLLM_VERSION``. Pure: from a shape alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from tpsweep.perfmodel.model_shape import DTYPE_BYTES, Shape

VLLM_VERSION = "0.32.0"
"""The version whose files and classes are named; a test looks into it."""
VOCABULARY_MULTIPLE = 64
"""vLLM pads the vocabulary to a multiple of this before it splits it."""
LINEAR = "model_executor/layers/linear.py"
VOCABULARY = "model_executor/layers/vocab_parallel_embedding.py"
NORM = "model_executor/layers/layernorm.py"
EXPERTS = "model_executor/layers/fused_moe/routed_experts.py"

COLUMN, ROW, HEADS, VOCAB, WHOLE = "column", "row", "heads", "vocab", "whole"
MEANING = {
    COLUMN: "each GPU has some of the outputs (PyTorch's rows of the stored weight) and all inputs",
    ROW: "each GPU has some of the inputs; its output is a part of a sum that an all-reduce makes",
    HEADS: "column, in whole attention heads: a head's query, key and value stay on one GPU",
    VOCAB: "each GPU has some of the vocabulary's rows",
    WHOLE: "every GPU has all of it",
}


@dataclass(frozen=True)
class Matrix:
    """One weight. ``count``: how many of it a model has; ``bytes_per_gpu`` of one of them."""

    name: str
    part: str  # embedding, attention, mlp, norms, head
    split: str
    full: tuple[int, ...]
    shard: tuple[int, ...]
    count: int
    bytes_per_gpu: float
    file: str
    cls: str


@dataclass(frozen=True)
class Split:
    """A model at a TP."""

    shape: Shape
    dtype: str
    tp: int

    @property
    def kv_heads(self) -> int:
        return max(1, self.shape.kv_heads // self.tp)

    def linear(
        self, name: str, part: str, split: str, full: tuple[int, int], cls: str, count: int
    ) -> Matrix:
        """A linear layer that is split evenly."""
        outputs, inputs = full
        shard = (outputs, inputs // self.tp) if split == ROW else (outputs // self.tp, inputs)
        return self.matrix(name, part, split, full, shard, count, LINEAR, cls)

    def matrix(
        self,
        name: str,
        part: str,
        split: str,
        full: tuple[int, ...],
        shard: tuple[int, ...],
        count: int,
        file: str,
        cls: str,
    ) -> Matrix:
        each: float = DTYPE_BYTES[self.dtype]
        if self.shape.quantization and file in (LINEAR, EXPERTS) and split != WHOLE:
            each = self.shape.quantization.bytes_per_weight
        size = each
        for length in shard:
            size *= length
        return Matrix(name, part, split, full, shard, count, size, file, cls)

    def vocabulary(self) -> list[Matrix]:
        shape, padded = self.shape, padded_vocabulary(self.shape)
        full, shard = (shape.vocabulary, shape.hidden), (padded // self.tp, shape.hidden)
        parts = [("embed_tokens", "embedding", "VocabParallelEmbedding")]
        if not shape.tied_embeddings:
            parts.append(("lm_head", "head", "ParallelLMHead"))
        return [self.matrix(n, p, VOCAB, full, shard, 1, VOCABULARY, c) for n, p, c in parts]

    def attention(self) -> list[Matrix]:
        shape, count, size = self.shape, self.shape.layers, self.shape.head_dim
        queries, cls = shape.heads * size, "QKVParallelLinear"
        keys, shard = shape.kv_heads * size, (self.kv_heads * size, shape.hidden)
        found = [self.linear("q_proj", "attention", HEADS, (queries, shape.hidden), cls, count)]
        found += [
            self.matrix(n, "attention", HEADS, (keys, shape.hidden), shard, count, LINEAR, cls)
            for n in ("k_proj", "v_proj")
        ]
        row = (shape.hidden, queries)
        row_cls = "RowParallelLinear"
        found.append(self.linear("o_proj", "attention", ROW, row, row_cls, count))
        if shape.qkv_bias:
            full, part = (queries + 2 * keys,), (queries // self.tp + 2 * self.kv_heads * size,)
            found.append(self.bias("qkv bias", "attention", HEADS, full, part, count, cls))
        if shape.output_bias:
            whole = (shape.hidden,)
            found.append(self.bias("o_proj bias", "attention", WHOLE, whole, whole, count, row_cls))
        return found

    def bias(
        self,
        name: str,
        part: str,
        split: str,
        full: tuple[int],
        shard: tuple[int],
        count: int,
        cls: str,
    ) -> Matrix:
        size = shard[0] * DTYPE_BYTES[self.dtype]
        return Matrix(name, part, split, full, shard, count, size, LINEAR, cls)

    def mlp(self) -> list[Matrix]:
        shape, found = self.shape, []
        dense = shape.layers - shape.sparse_layers
        if dense:
            found += self._gated("", shape.intermediate, dense)
        if dense and shape.mlp_bias:
            full, hidden = (2 * shape.intermediate,), (shape.hidden,)
            part, cls = (full[0] // self.tp,), "MergedColumnParallelLinear"
            found.append(self.bias("gate_up bias", "mlp", COLUMN, full, part, dense, cls))
            row = "RowParallelLinear"
            found.append(self.bias("down_proj bias", "mlp", WHOLE, hidden, hidden, dense, row))
        if shape.sparse_layers:
            found += self._experts()
        return found

    def _gated(self, prefix: str, inner: int, count: int) -> list[Matrix]:
        up, merged = (inner, self.shape.hidden), "MergedColumnParallelLinear"
        down = (self.shape.hidden, inner)
        return [
            self.linear(f"{prefix}gate_proj", "mlp", COLUMN, up, merged, count),
            self.linear(f"{prefix}up_proj", "mlp", COLUMN, up, merged, count),
            self.linear(f"{prefix}down_proj", "mlp", ROW, down, "RowParallelLinear", count),
        ]

    def _experts(self) -> list[Matrix]:
        shape, tp, count = self.shape, self.tp, self.shape.sparse_layers
        inner, hidden, cls = shape.expert_intermediate, shape.hidden, "RoutedExperts"
        router, many = (shape.experts, hidden), count * shape.experts
        up, down = (inner, hidden), (hidden, inner)
        whole = "ReplicatedLinear"
        found = [self.matrix("router", "mlp", WHOLE, router, router, count, LINEAR, whole)]
        for name in ("expert gate", "expert up"):
            shard = (inner // tp, hidden)
            found.append(self.matrix(name, "mlp", COLUMN, up, shard, many, EXPERTS, cls))
        shard = (hidden, inner // tp)
        found.append(self.matrix("expert down", "mlp", ROW, down, shard, many, EXPERTS, cls))
        if shape.shared_intermediate:
            found += self._gated("shared ", shape.shared_intermediate, count)
            one = (1, hidden)
            found.append(
                self.matrix(
                    "shared gate", "mlp", WHOLE, one, one, count, LINEAR, "ReplicatedLinear"
                )
            )
        return found

    def norms(self) -> list[Matrix]:
        shape, cls = self.shape, "RMSNorm"
        hidden, head = (shape.hidden,), (shape.head_dim,)
        parts = [("input_layernorm", hidden, shape.layers)]
        parts.append(("post_attention_layernorm", hidden, shape.layers))
        if shape.qk_norm:
            parts += [("q_norm", head, shape.layers), ("k_norm", head, shape.layers)]
        parts.append(("norm", hidden, 1))
        return [
            self.matrix(name, "norms", WHOLE, full, full, count, NORM, cls)
            for name, full, count in parts
        ]


def padded_vocabulary(shape: Shape) -> int:
    """Rows of embedding and head as vLLM splits them."""
    return -(-shape.vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
