"""The shape of a model: how many bytes it weighs, reads in a decode step and caches for a token.

Counted from a Hugging Face ``config.json`` alone, no weights needed. Parameter layouts are those
of the model classes in ``transformers`` (Llama, Mistral, Qwen2, Qwen3, Mixtral, Qwen-MoE).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpsweep.core.atomic import replacing
from tpsweep.perfmodel.quantization import (
    Quantization,
    UnknownQuantizationError,
    quantization_of,
)

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
CACHE_BYTES = {**DTYPE_BYTES, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}
KNOWN_TYPES = ("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe")

_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
)


class UnknownShapeError(ValueError):
    """A config.json of a kind whose parameters we cannot count."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder-only transformer. ``experts`` is 0 for a dense model.

    ``sliding_window`` is the most tokens that attention looks back at (None: all of them).
    """

    model_type: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    max_position: int
    tied_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    experts: int = 0
    experts_per_token: int = 0
    expert_intermediate: int = 0
    shared_intermediate: int = 0
    sparse_layers: int = 0
    quantization: Quantization | None = None

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Shape:
        """Shape from the content of a config.json.

        Raises ``UnknownShapeError`` for a ``model_type`` outside ``KNOWN_TYPES`` or a quantization
        that ``perfmodel.quantization`` does not know,
        ``ValueError`` for a missing or impossible size.
        """
        kind = config.get("model_type")
        if kind not in KNOWN_TYPES:
            raise UnknownShapeError(f"model_type: {kind!r}; known: {', '.join(KNOWN_TYPES)}")
        try:
            quantization = quantization_of(config)
        except UnknownQuantizationError as error:
            raise UnknownShapeError(str(error)) from None
        sizes = {name: _size(config, name) for name in _SIZES}
        heads, layers = sizes["num_attention_heads"], sizes["num_hidden_layers"]
        kv_heads = _size(config, "num_key_value_heads", default=heads)
        if heads % kv_heads:
            raise ValueError(f"num_key_value_heads: {kv_heads} does not divide {heads} heads")
        bias = bool(config.get("attention_bias"))
        return cls(
            model_type=kind,
            hidden=sizes["hidden_size"],
            intermediate=sizes["intermediate_size"],
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=_size(config, "head_dim", default=sizes["hidden_size"] // heads),
            vocabulary=sizes["vocab_size"],
            max_position=sizes["max_position_embeddings"],
            tied_embeddings=bool(config.get("tie_word_embeddings")),
            qkv_bias=bias or kind in ("qwen2", "qwen2_moe"),
            output_bias=bias and kind in ("llama", "qwen3", "qwen3_moe"),
            mlp_bias=kind == "llama" and bool(config.get("mlp_bias")),
            qk_norm=kind in ("qwen3", "qwen3_moe"),
            sliding_window=_window(config),
            quantization=quantization,
            **_experts(config, layers, sizes["intermediate_size"]),
        )

    @property
    def parameters(self) -> int:
        """All parameters; a tied embedding counts once."""
        return self._vocabulary_parameters + self._linear(self.experts) + self._rest()

    @property
    def parameters_per_token(self) -> int:
        """Parameters that every token is multiplied with: no embedding, no output head (a
        prefill applies it to the last token only), the active experts only."""
        return self._linear(self.experts_per_token) + self._rest()

    @property
    def _vocabulary_parameters(self) -> int:
        """Embedding and output head; tied, they are one."""
        return self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2)

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of all weights, over all ranks; ``dtype`` is of what is not quantized."""
        return self._bytes(self.experts, self._vocabulary_parameters, dtype)

    def bytes_read_per_step(self, dtype: str) -> int:
        """Least bytes of weights that one decode step reads, over all ranks.

        The input embedding is a look-up of one row per sequence: it counts only where it is also
        the output head (tied). Of a mixture of experts only the experts of one token count.
        """
        return self._bytes(self.experts_per_token, self.vocabulary * self.hidden, dtype)

    def kv_bytes_per_token(self, dtype: str, tp: int) -> int:
        """Bytes of keys and values that ONE rank keeps for a token; heads repeat if TP exceeds.

        ``dtype`` is the cache's, one of ``CACHE_BYTES``.
        """
        heads = max(1, self.kv_heads // tp)
        return 2 * self.layers * heads * self.head_dim * CACHE_BYTES[dtype]

    def tp_problem(self, tp: int) -> str | None:
        """Why vLLM cannot split this model over ``tp`` ranks; None if it can."""
        if self.heads % tp:
            return f"it does not divide the model's {self.heads} attention heads"
        if self.kv_heads % tp and tp % self.kv_heads:
            return f"it neither divides nor is a multiple of the model's {self.kv_heads} KV heads"
        if self.intermediate % tp:
            return f"it does not divide the model's intermediate size of {self.intermediate}"
        return None

    @property
    def tps(self) -> list[int]:
        """The TPs over which vLLM can split this model, up to one rank per head."""
        return [tp for tp in range(1, self.heads + 1) if self.tp_problem(tp) is None]

    def _bytes(self, experts: int, vocabulary: int, dtype: str) -> int:
        """Bytes of the layers with ``experts`` each, and of ``vocabulary`` parameters."""
        plain, linear = DTYPE_BYTES[dtype], self._linear(experts)
        each = self.quantization.bytes_per_weight if self.quantization else plain
        return round(linear * each) + (self._rest() + vocabulary) * plain

    def _linear(self, experts: int) -> int:
        """Weights of all layers' matrices (what is quantized), ``experts`` of a sparse layer's."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (queries + 2 * keys) + queries * self.hidden
        dense = 3 * self.hidden * self.intermediate
        sparse = 3 * self.hidden * (experts * self.expert_intermediate + self.shared_intermediate)
        dense_layers = self.layers - self.sparse_layers
        return self.layers * attention + dense_layers * dense + self.sparse_layers * sparse

    def _rest(self) -> int:
        """Biases, norms and the routers of all layers, and the last norm."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = (queries + 2 * keys) * self.qkv_bias + self.hidden * self.output_bias
        attention += 2 * self.head_dim * self.qk_norm
        dense = (2 * self.intermediate + self.hidden) * self.mlp_bias
        router = self.hidden * (self.experts + (1 if self.shared_intermediate else 0))
        norms = self.layers * 2 * self.hidden + self.hidden
        dense_layers = self.layers - self.sparse_layers
        return self.layers * attention + dense_layers * dense + self.sparse_layers * router + norms


def read_config(path: Path) -> dict[str, Any]:
    """Content of a config.json (or of a shape file, which is one). Raises ``ValueError``, one
    line, for a file that is not there or is not a JSON object."""
    try:
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: not a JSON object")
    return config


def config_digest(config: dict[str, Any]) -> str:
    """sha256 of the canonical config; keys that begin with ``_`` are comments and do not count."""
    return hashlib.sha256(_canonical(_without_comments(config)).encode()).hexdigest()


def folder_digest(folder: Path, weights: str) -> str:
    """Digest of a model folder: its config.json and, for real weights, its safetensors files'
    names and sizes (reading terabytes of weights for a plan takes too long)."""
    digest = config_digest(read_config(folder / "config.json"))
    if weights != "real":
        return digest
    files = {file.name: file.stat().st_size for file in folder.glob("*.safetensors")}
    return hashlib.sha256(_canonical([digest, files]).encode()).hexdigest()


def make_model_folder(shape_file: Path, folder: Path) -> None:
    """Write a model folder without weights: what vLLM needs to run the shape with dummy weights.

    ``config.json`` comes last: where it is, the folder is whole. The tokenizer is word-level
    (token i is the word ``w<i>``): right for random lengths, meaningless for text.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    config = _without_comments(read_config(shape_file))
    shape = Shape.from_config(config)
    words = {f"w{i}": i for i in range(shape.vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {name: config[name] for name in ("bos_token_id", "eos_token_id") if name in config}
    tokens = {name.removesuffix("_id"): f"w{_first(value)}" for name, value in special.items()}
    about_tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": shape.max_position,
        **tokens,
    }
    _write(folder / "tokenizer.json", tokenizer.to_str())
    _write(folder / "tokenizer_config.json", _pretty(about_tokenizer))
    _write(folder / "generation_config.json", _pretty(special))
    _write(folder / "config.json", _pretty(config))


def _size(config: dict[str, Any], name: str, default: int | None = None) -> int:
    value = config.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}: {value!r}; allowed: a whole number above 0")
    return value


def _window(config: dict[str, Any]) -> int | None:
    """Mistral looks back one window wherever it names one, Qwen only if it says that it does."""
    uses = config.get("use_sliding_window", str(config["model_type"]).startswith("mis"))
    return config.get("sliding_window") if uses else None


def _experts(config: dict[str, Any], layers: int, intermediate: int) -> dict[str, int]:
    kind = config["model_type"]
    # transformers 5 writes num_local_experts for all of them, the published files num_experts.
    count = "num_experts" if "num_experts" in config else "num_local_experts"
    if kind == "mixtral":
        return {
            "experts": _size(config, count),
            "experts_per_token": _size(config, "num_experts_per_tok"),
            "expert_intermediate": intermediate,
            "sparse_layers": layers,
        }
    if kind not in ("qwen2_moe", "qwen3_moe"):
        return {}
    step, dense = _size(config, "decoder_sparse_step", 1), config.get("mlp_only_layers") or []
    sparse = [i for i in range(layers) if i not in dense and (i + 1) % step == 0]
    return {
        "experts": _size(config, count),
        "experts_per_token": _size(config, "num_experts_per_tok"),
        "expert_intermediate": _size(config, "moe_intermediate_size"),
        "shared_intermediate": (
            _size(config, "shared_expert_intermediate_size") if kind == "qwen2_moe" else 0
        ),
        "sparse_layers": len(sparse),
    }


def _without_comments(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _first(value: int | list[int]) -> int:
    return value[0] if isinstance(value, list) else value


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")


def shape_of(config: dict[str, Any]) -> Shape | None:
    """The shape in a model's configuration; None for an architecture that we do not know."""
    try:
        return Shape.from_config(config)
    except UnknownShapeError:
        return None
