"""Every weight of a model and the shard of it that one GPU has under tensor parallelism.

Shapes are (outputs, inputs), as PyTorch stores a linear layer. Files and classes are those of vLLM
``VLLM_VERSION``. Pure: from a shape alone.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from tpsweep.perfmodel.model_shape import DTYPE_BYTES, Shape
from tpsweep.perfmodel.modules import (
    ATTENTION,
    COLUMN,
    EMBEDDING,
    HEAD,
    HEADS,
    MLP,
    NORMS,
    ROW,
    VISION,
    VOCAB,
    WHOLE,
    Grouped,
    Module,
    padded,
)
from tpsweep.perfmodel.quantization import WeightFormat

VLLM_VERSION = "0.32.0"
"""The version whose files and classes are named; a test looks into it."""
LINEAR = "model_executor/layers/linear.py"
VOCABULARY = "model_executor/layers/vocab_parallel_embedding.py"
NORM = "model_executor/layers/layernorm.py"
EXPERTS = "model_executor/layers/fused_moe/routed_experts.py"
VISION_TOWERS = {
    "gemma3_text": ("siglip.py", "SiglipVisionModel"),
    "llama4_text": ("mllama4.py", "Llama4VisionModel"),
}
"""File and class of the tower that a multimodal checkpoint has; its split is not told here."""
PARTS = (EMBEDDING, HEAD, ATTENTION, MLP, NORMS, VISION)

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
    part: str  # embedding, attention, mlp, norms, head, vision
    split: str
    full: tuple[int, ...]
    shard: tuple[int, ...]
    count: int
    bytes_per_gpu: float
    file: str
    cls: str


def matrices(shape: Shape, dtype: str, tp: int) -> list[Matrix]:
    """The weights of a model at a TP, equal ones of all layers together."""
    found: dict[Matrix, int] = {}
    for module, stored in shape.weights:
        matrix = _matrix(module, stored, shape, dtype, tp)
        found[matrix] = found.get(matrix, 0) + module.count
    counted = [replace(matrix, count=count) for matrix, count in found.items()]
    return sorted(counted, key=lambda matrix: PARTS.index(matrix.part))


def _matrix(
    module: Module, stored: WeightFormat | None, shape: Shape, dtype: str, tp: int
) -> Matrix:
    shard = module.shard(tp)
    size: float = math.prod(shard) * DTYPE_BYTES[dtype]
    if stored is not None and module.inputs is not None:
        size = stored.size_bits(shard[0], shard[1]) / 8
    name, place = _label(module.name), _place(module, shape)
    return Matrix(name, module.part, module.split, module.full, shard, 0, size, *place)


def _label(name: str) -> str:
    """``q_proj``, ``experts gate_proj``: less the layer and what all of its matrices have."""
    inner = re.sub(r"^model\.(layers\.\d+\.)?", "", name)
    words = [word for word in inner.split(".") if not word.isdigit()]
    return " ".join(words[1:] or words)


def _place(module: Module, shape: Shape) -> tuple[str, str]:
    """File and class of vLLM."""
    if module.part == VISION:
        file, cls = VISION_TOWERS[shape.model_type]
        return f"model_executor/models/{file}", cls
    if module.part == EMBEDDING:
        return VOCABULARY, "VocabParallelEmbedding"
    if module.part == HEAD:
        return VOCABULARY, "ParallelLMHead"
    if module.part == NORMS:
        return NORM, "RMSNorm"
    if ".experts." in module.name:
        return EXPERTS, "RoutedExperts"
    if module.split == ROW or module.name.endswith(("o_proj bias", "down_proj bias")):
        return LINEAR, "RowParallelLinear"
    if module.split == WHOLE:
        return LINEAR, "ReplicatedLinear"
    if module.split == HEADS:
        grouped = isinstance(shape.attention, Grouped)
        return LINEAR, "QKVParallelLinear" if grouped else "ColumnParallelLinear"
    return LINEAR, "MergedColumnParallelLinear"


def model_file(shape: Shape) -> str:
    """Name of vLLM's file with the model's class."""
    others = {"deepseek_v3": "deepseek_v2", "qwen3_5_moe": "qwen3_5"}
    kind = shape.model_type.removesuffix("_text")
    return f"{others.get(kind, kind)}.py"


def padded_vocabulary(shape: Shape) -> int:
    """Rows of embedding and head as vLLM splits them."""
    return padded(shape.vocabulary)
