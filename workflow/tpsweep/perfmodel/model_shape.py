"""The shape of a model: how many bytes it weighs, reads in a decode step and caches for a token.

Counted from a Hugging Face ``config.json`` alone (and ``hf_quant_config.json`` beside it), no
weights needed: the sum over the modules of the decoder, each in the format that the checkpoint
has it in.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from tpsweep.perfmodel.architectures import (
    KNOWN_CLASSES,
    KNOWN_TYPES,
    NESTED,
    decoder_of,
    is_tied,
    longest_context,
    size,
    text_of,
    vision_parameters,
)
from tpsweep.perfmodel.modules import (
    EMBEDDING,
    HEAD,
    NORMS,
    VISION,
    VOCAB,
    WHOLE,
    Attention,
    Dense,
    Experts,
    Grouped,
    Latent,
    Layer,
    Module,
)
from tpsweep.perfmodel.quantization import (
    FUSED,
    ONLINE_FP8,
    Scheme,
    UnknownQuantizationError,
    WeightFormat,
    scheme_of,
)

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
CACHE_BYTES = {**DTYPE_BYTES, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}


class UnknownShapeError(ValueError):
    """A config.json of a kind whose parameters we cannot count."""


@dataclass(frozen=True)
class Stage:
    """Which part of a pipeline a shape is of. ``before``: layers in earlier stages."""

    before: int = 0
    is_first: bool = True
    is_last: bool = True


WHOLE_MODEL = Stage()


@dataclass(frozen=True)
class Shape:
    """A decoder-only transformer, layer by layer, and how its weights are stored. ``vision``:
    parameters of a multimodal checkpoint beside its decoder. ``stage``: where in a pipeline it
    stands; ``decoder`` then has that stage's layers alone."""

    model_type: str
    hidden: int
    vocabulary: int
    max_position: int
    decoder: tuple[Layer, ...]
    tied_embeddings: bool = False
    stage: Stage = WHOLE_MODEL
    quantization: Scheme | None = None
    vision: int = 0
    content: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The config.json that it was read from."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Shape:
        """Shape from the content of a config.json.

        Raises ``UnknownShapeError`` for a ``model_type`` outside ``KNOWN_TYPES``, for a class
        outside ``KNOWN_CLASSES``, for a quantization that ``perfmodel.quantization`` does not know
        and for values in another form, ``ValueError`` for a missing or impossible size.
        """
        try:
            return cls._from_config(config)
        except (TypeError, AttributeError, LookupError, ArithmeticError) as error:
            said = f"{type(error).__name__}: {error}: a value in a form that is not known"
            raise UnknownShapeError(said) from error

    @classmethod
    def _from_config(cls, config: dict[str, Any]) -> Shape:
        kind, text = text_of(config)
        if kind not in KNOWN_TYPES:
            known = ", ".join((*KNOWN_TYPES, *NESTED))
            raise UnknownShapeError(f"model_type: {kind!r}; known: {known}")
        classes = config.get("architectures") or []
        if classes and not KNOWN_CLASSES.intersection(classes):
            known = ", ".join(sorted(KNOWN_CLASSES))
            raise UnknownShapeError(f"architectures: {classes!r}; known: {known}")
        try:
            quantization = scheme_of(config)
        except UnknownQuantizationError as error:
            raise UnknownShapeError(str(error)) from None
        return cls(
            model_type=kind,
            hidden=size(text, "hidden_size"),
            vocabulary=size(text, "vocab_size"),
            max_position=longest_context(text),
            decoder=decoder_of(kind, text),
            tied_embeddings=is_tied(kind, text),
            quantization=quantization,
            vision=vision_parameters(config),
            content=config,
        )

    @cached_property
    def online_fp8(self) -> Shape:
        """The shape as vLLM has it if it quantizes the weights while it loads them."""
        return replace(self, quantization=ONLINE_FP8)

    @cached_property
    def without_vision(self) -> Shape:
        """The decoder alone."""
        return replace(self, vision=0)

    def overridden(self, changes: Mapping[str, Any]) -> Shape:
        """The shape of the config.json with ``changes`` (``hf_overrides``).

        Raises ``UnknownShapeError`` and ``ValueError`` as ``from_config`` does.
        """
        key = json.dumps(changes, sort_keys=True)
        if key not in self._overridden:
            self._overridden[key] = Shape.from_config(_merged(self.content, changes))
        return self._overridden[key]

    @cached_property
    def _overridden(self) -> dict[str, Shape]:
        return {}

    def stages(self, pp: int) -> tuple[Shape, ...]:
        """What each of ``pp`` pipeline stages holds: layers as vLLM deals them out
        (``stage_layers``), the embedding in the first, norm and output head in the last."""
        if pp == 1:
            return (self,)
        if pp not in self._stages:
            ends = list(itertools.accumulate(stage_layers(self.layers, pp), initial=0))
            self._stages[pp] = tuple(
                replace(
                    self,
                    decoder=self.decoder[begin:end],
                    stage=Stage(begin, begin == 0, end == self.layers),
                    vision=self.vision if begin == 0 else 0,
                )
                for begin, end in itertools.pairwise(ends)
            )
        return self._stages[pp]

    @cached_property
    def _stages(self) -> dict[int, tuple[Shape, ...]]:
        return {}

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return len(self.decoder)

    @cached_property
    def attention(self) -> Grouped | Latent | None:
        """The attention of the first layer that attends to all its tokens' keys and values."""
        kinds = (layer.attention for layer in self.decoder)
        return next((one for one in kinds if isinstance(one, Grouped | Latent)), None)

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.attention.heads if self.attention else 1

    @property
    def kv_heads(self) -> int:
        """Key and value heads; 1 if all heads share a latent one."""
        return self.attention.kv_heads if isinstance(self.attention, Grouped) else 1

    @cached_property
    def experts(self) -> int:
        """Experts of a sparse layer; 0 for a dense model."""
        return max((mlp.count for mlp in self._mixtures), default=0)

    @property
    def sparse_layers(self) -> int:
        """Layers with experts."""
        return len(self._mixtures)

    @cached_property
    def intermediate(self) -> int:
        """Inner width of the dense layers; 0 if there are none."""
        widths = (layer.mlp.inner for layer in self.decoder if isinstance(layer.mlp, Dense))
        return max(widths, default=0)

    @cached_property
    def _mixtures(self) -> tuple[Experts, ...]:
        return tuple(layer.mlp for layer in self.decoder if isinstance(layer.mlp, Experts))

    @cached_property
    def modules(self) -> tuple[Module, ...]:
        """Every weight, in the order of the forward pass."""
        return tuple(self._modules())

    def _modules(self) -> Iterator[Module]:
        full, stage = (self.vocabulary, self.hidden), self.stage
        is_head = self.tied_embeddings and stage.is_last
        if stage.is_first or is_head:
            # A look-up of one row a sequence, but where it is the output head, too.
            yield Module("model.embed_tokens", EMBEDDING, VOCAB, *full, read=int(is_head))
        for i, layer in enumerate(self.decoder, start=stage.before):
            yield from layer.modules(f"model.layers.{i}", self.hidden)
        if stage.is_last:
            yield Module("model.norm", NORMS, WHOLE, self.hidden)
            if not self.tied_embeddings:
                yield Module("lm_head", HEAD, VOCAB, *full, kind="head")
        if self.vision:
            yield Module("vision tower", VISION, WHOLE, self.vision, read=0)

    @cached_property
    def weights(self) -> tuple[tuple[Module, WeightFormat | None], ...]:
        """Every weight with its format; None: as trained, in the model's dtype."""
        return tuple((module, self.format_of(module)) for module in self.modules)

    def format_of(self, module: Module) -> WeightFormat | None:
        """How a module is stored; None: in the model's dtype."""
        if self.quantization is None or module.kind is None:
            return None
        return self.quantization.format_of(module.name, module.kind)

    @cached_property
    def parameters(self) -> int:
        """All parameters; a tied embedding counts once."""
        return sum(module.count * module.parameters for module in self.modules)

    @cached_property
    def parameters_per_token(self) -> int:
        """Parameters that every token is multiplied with: no embedding, no output head (a
        prefill applies it to the last token only), the active experts only."""
        return sum(m.read * m.parameters for m in self.modules if m.part not in (EMBEDDING, HEAD))

    @cached_property
    def fast_parameters_per_token(self) -> float:
        """The same, each divided by how many times faster than in BF16 its format may be."""
        return sum(
            module.read * module.parameters / (stored.peak_factor if stored else 1)
            for module, stored in self.weights
            if module.part not in (EMBEDDING, HEAD)
        )

    @cached_property
    def routed_parameters_per_token(self) -> float:
        """Of ``fast_parameters_per_token``, those of the experts that a router chooses."""
        return sum(
            module.read * module.parameters / (stored.peak_factor if stored else 1)
            for module, stored in self.weights
            if module.count > 1
        )

    @property
    def head_peak_factor(self) -> int:
        """How many times faster than in BF16 the output head may be, by its format."""
        formats = (stored for module, stored in self.weights if module.part == HEAD)
        return max((stored.peak_factor for stored in formats if stored), default=1)

    @cached_property
    def _sums(self) -> dict[tuple[int, int], tuple[int, int]]:
        """By how many there are of a module and how many a token meets: bits of one of each that
        is quantized, numbers of one of each that is not."""
        sums: dict[tuple[int, int], tuple[int, int]] = {}
        for module, stored in self.weights:
            key = module.count, module.read
            bits, plain = sums.get(key, (0, 0))
            if stored is None or module.inputs is None:
                plain += module.parameters
            else:
                bits += stored.size_bits(module.outputs, module.inputs)
            sums[key] = bits, plain
        return sums

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of all weights, over all ranks; ``dtype`` is of what is not quantized."""
        each = DTYPE_BYTES[dtype]
        return round(
            sum(
                count * (bits / 8 + plain * each)
                for (count, _), (bits, plain) in self._sums.items()
            )
        )

    def expert_bytes(self, dtype: str) -> float:
        """Of ``weight_bytes``, those of the experts that a router chooses from."""
        each = DTYPE_BYTES[dtype]
        return sum(
            count * (bits / 8 + plain * each)
            for (count, _), (bits, plain) in self._sums.items()
            if count > 1
        )

    def rank_bytes(self, dtype: str, ranks: int, *, of_experts: bool) -> float:
        """Bytes of weights that one of ``ranks`` has if each is split over them: of the experts
        that a router chooses from, or of all else. What is not split, and KV heads that are fewer
        than ranks, each rank has again."""
        key = ranks, of_experts
        if key not in self._rank_sums:
            bits = plain = 0
            for module, stored in self.weights:
                if (module.count > 1) != of_experts:
                    continue
                shard = module.shard(ranks)
                if stored is None or module.inputs is None:
                    plain += module.count * math.prod(shard)
                else:
                    bits += module.count * stored.size_bits(shard[0], shard[1])
            self._rank_sums[key] = bits, plain
        bits, plain = self._rank_sums[key]
        return bits / 8 + plain * DTYPE_BYTES[dtype]

    @cached_property
    def _rank_sums(self) -> dict[tuple[int, bool], tuple[int, int]]:
        """Bits of what is quantized, numbers of what is not."""
        return {}

    def bytes_read_per_step(self, dtype: str, tokens: float = 1) -> int:
        """Bytes of weights that a decode step of ``tokens`` sequences reads, over all ranks.

        The input embedding is a look-up of one row per sequence: it counts only where it is also
        the output head (tied). Of a mixture of experts those that ``tokens`` random choices are
        expected to hit: at 1, the least that a step can read.
        """
        each, total = DTYPE_BYTES[dtype], 0.0
        for (count, read), (bits, plain) in self._sums.items():
            hit = _hit(count, read, tokens) if count > 1 else read
            total += hit * (bits / 8 + plain * each)
        return round(total)

    def bytes_read_beside_experts(self, dtype: str) -> float:
        """Of ``bytes_read_per_step``, those of what a router does not choose."""
        each = DTYPE_BYTES[dtype]
        return sum(
            read * (bits / 8 + plain * each)
            for (count, read), (bits, plain) in self._sums.items()
            if count == 1
        )

    def experts_hit(self, tokens: float) -> int:
        """Experts of a sparse layer that ``tokens`` random choices are expected to hit."""
        return max((_hit(mlp.count, mlp.active, tokens) for mlp in self._mixtures), default=0)

    @cached_property
    def _attentions(self) -> dict[Attention, int]:
        """Kinds of attention, and how many layers have them."""
        return dict(Counter(layer.attention for layer in self.decoder))

    def cache_dtype(self, dtype: str) -> str:
        """That of the KV cache if nobody asks for another: the checkpoint's, else the model's."""
        return (self.quantization.cache_dtype if self.quantization else None) or dtype

    def kv_bytes_per_token(self, dtype: str, tp: int) -> int:
        """Bytes of keys and values that ONE rank keeps for a token; heads repeat if TP exceeds.

        ``dtype`` is the cache's, one of ``CACHE_BYTES``. All layers count, also those that look
        back a window only.
        """
        kinds = self._attentions.items()
        return CACHE_BYTES[dtype] * sum(count * kind.cached(tp) for kind, count in kinds)

    def kv_bytes_read(self, dtype: str, tp: int, context: float) -> float:
        """Bytes of keys and values that ONE rank reads in a step for a sequence of ``context``
        tokens, at least: within the window of each layer."""
        return CACHE_BYTES[dtype] * sum(
            count * kind.cached(tp) * _reach(kind, context)
            for kind, count in self._attentions.items()
        )

    def kv_bytes_held(self, dtype: str, tp: int, tokens: int) -> int:
        """Bytes of keys and values that ONE rank must hold of a sequence of ``tokens`` tokens."""
        return CACHE_BYTES[dtype] * sum(
            count * kind.cached(tp) * min(tokens, kind.window or tokens)
            for kind, count in self._attentions.items()
        )

    def state_bytes(self, dtype: str, tp: int) -> int:
        """Bytes that ONE rank keeps for a sequence, whatever its length (linear attention)."""
        plain, kinds = DTYPE_BYTES[dtype], self._attentions.items()
        return sum(count * kind.state_bytes(tp, plain) for kind, count in kinds)

    @property
    def has_full_attention(self) -> bool:
        """Some layer looks back at all tokens: the cache of a sequence grows with its length."""
        return any(kind.window is None and kind.cached(1) for kind in self._attentions)

    @cached_property
    def is_read_as_stored(self) -> bool:
        """No weight is unpacked before it is multiplied: all are as trained, or 8-bit floats."""
        formats = {stored for _, stored in self.weights if stored}
        return all(stored.is_float and stored.bits == 8 for stored in formats)

    @property
    def attends_by_groups(self) -> bool:
        """All layers have the attention that the constants of the expectation are of."""
        return all(isinstance(kind, Grouped) for kind in self._attentions)

    @cached_property
    def score_width(self) -> int:
        """Multiply-adds of a score and a value, over all heads and layers, by two."""
        return sum(count * kind.score_width for kind, count in self._attentions.items())

    def tp_problem(self, tp: int, *, expert_split: int | None = None) -> str | None:
        """Why vLLM cannot split this model over ``tp`` ranks; None if it can.

        ``expert_split``: ranks over which each expert is split; None: ``tp``.
        """
        for kind in self._attentions:
            if problem := kind.problem(tp):
                return problem
        for module, stored in self._distinct:
            ranks = tp if expert_split is None or ".experts." not in module.name else expert_split
            if problem := module.problem(ranks, stored):
                return problem
        return None

    @cached_property
    def _distinct(self) -> list[tuple[Module, WeightFormat | None]]:
        """Of the modules that differ in nothing but their layer, the first."""
        found: dict[tuple[Module, WeightFormat | None], tuple[Module, WeightFormat | None]] = {}
        for module, stored in self.weights:
            alike = replace(module, name=re.sub(r"layers\.\d+", "layers", module.name))
            found.setdefault((alike, stored), (module, stored))
        return list(found.values())

    @cached_property
    def problem(self) -> str | None:
        """Why vLLM cannot load this checkpoint on any number of GPUs; None if it may."""
        joined: dict[str, tuple[str, WeightFormat | None]] = {}
        for module, stored in self.weights:
            place, _, last = module.name.rpartition(".")
            if module.kind == "linear" and last in FUSED:
                name, other = joined.setdefault(f"{place}.{FUSED[last]}", (module.name, stored))
                if other != stored:
                    said = f"{name} and {module.name} are not stored alike"
                    return f"{said}, and vLLM loads them as one"
        return None

    @property
    def tps(self) -> list[int]:
        """The TPs over which vLLM can split this model, up to one rank per head."""
        return [tp for tp in range(1, self.heads + 1) if self.tp_problem(tp) is None]


def _hit(count: int, read: int, tokens: float) -> int:
    """Of ``count`` experts, those that ``tokens`` random choices of ``read`` each should hit."""
    hit: float = count * (1 - (1 - read / count) ** tokens)
    return max(round(hit), min(read, 1))


def stage_layers(layers: int, pp: int) -> list[int]:
    """Layers of each pipeline stage: vLLM's ``get_pp_indices``. What is left over goes to the
    stages before the last one, and to the first only when all others have one more.

    Raises ``ValueError`` for more stages than layers.
    """
    if pp > layers:
        raise ValueError(f"{pp} stages of {layers} layers")
    each, over = divmod(layers, pp)
    return [each + (pp - 1 - over <= stage < pp - 1) for stage in range(pp)]


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``base``; nested configs are merged."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(old, value)
        else:
            merged[key] = value
    return merged


def _reach(kind: Attention, context: float) -> float:
    """Tokens that a layer surely looks back at. Where its window begins anew, how far it has come
    since is not known."""
    if kind.window is None or context <= kind.window:
        return context
    return 0 if isinstance(kind, Grouped) and kind.chunked else kind.window


def shape_of(config: dict[str, Any]) -> Shape | None:
    """The shape in a model's configuration; None for one that we do not know, or cannot read."""
    try:
        return Shape.from_config(config)
    except ValueError:
        return None
