"""The decoder that a config.json describes, layer by layer, for the architectures that are known.

Layouts are those of the model classes in ``transformers``; where a published config.json leaves a
size out, ``DEFAULTS`` has that of the class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tpsweep.perfmodel.modules import (
    Attention,
    Dense,
    Experts,
    Grouped,
    Latent,
    Layer,
    Mlp,
    Recurrent,
)

Config = Mapping[str, Any]

NESTED = {"gemma3": "gemma3_text", "llama4": "llama4_text"}
"""Multimodal models whose decoder is in ``text_config``, with the ``model_type`` that it has."""
DEFAULTS: Mapping[str, Config] = {
    "gemma3_text": {
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "gemma2": {"head_dim": 256, "sliding_window": 4096},
    "gemma": {"head_dim": 256},
    "gpt_oss": {"sliding_window": 128},
}
SCALED_POSITIONS = ("default", "su", "longrope", "llama3", "mrope")
"""Kinds of RoPE scaling that ``max_position_embeddings`` has in it already."""
_GEMMAS = ("gemma", "gemma2", "gemma3_text")
_FOUR_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


def size(config: Config, name: str, default: int | None = None) -> int:
    """A size of the config. Raises ``ValueError`` if it is none."""
    value = config.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}: {value!r}; allowed: a whole number above 0")
    return value


def most(config: Config, name: str) -> int | None:
    """A limit of the config, such as a window; None (or 0): there is none. Raises ``ValueError``
    if it is no whole number."""
    return size(config, name) if config.get(name) else None


def listed(config: Config, name: str) -> list[Any]:
    """A list of the config, such as one value a layer. Raises ``ValueError`` if it is none."""
    value = config.get(name) or []
    if not isinstance(value, list):
        raise ValueError(f"{name}: {value!r}; allowed: a list, a value for each layer")
    return value


def text_of(config: Config) -> tuple[str | None, Config]:
    """``model_type`` and config of the decoder, the class's own sizes added.

    What a multimodal config says of the whole (tied embeddings) holds for the decoder, too.
    """
    kind = config.get("model_type")
    text, inner = config, config.get("text_config")
    if kind in NESTED and isinstance(inner, Mapping):
        kind = NESTED[str(kind)]
        text = {**{key: config[key] for key in config if key == "tie_word_embeddings"}, **inner}
    return kind, {**DEFAULTS.get(str(kind), {}), **_given(text), "model_type": kind}


def _given(config: Config) -> dict[str, Any]:
    return {key: value for key, value in config.items() if value is not None}


def is_tied(kind: str, config: Config) -> bool:
    """Whether the output head is the embedding: Gemma's is, unless its config says otherwise."""
    tied = config.get("tie_word_embeddings", kind in _GEMMAS)
    if not isinstance(tied, bool):
        raise ValueError(f"tie_word_embeddings: {tied!r}; allowed: true, false")
    return tied


def decoder_of(kind: str, config: Config) -> tuple[Layer, ...]:
    """The layers of a decoder. Raises ``ValueError`` for a missing or impossible size."""
    attend, mlps = _ATTENTION.get(kind, _grouped), _MLPS.get(kind, _dense)
    norms = _FOUR_NORMS if kind in ("gemma2", "gemma3_text") else _FOUR_NORMS[:2]
    layers = range(size(config, "num_hidden_layers"))
    return tuple(Layer(attend(config, i), mlps(config, i), norms) for i in layers)


def vision_parameters(config: Config) -> int:
    """The vision tower and projector of a multimodal checkpoint, which vLLM loads, too."""
    kind, vision, text = config.get("model_type"), config.get("vision_config"), text_of(config)[1]
    if kind not in NESTED or not isinstance(vision, Mapping):
        return 0
    count = _siglip if kind == "gemma3" else _llama4_vision
    return count(vision, size(text, "hidden_size"))


def _grouped(config: Config, layer: int) -> Grouped:
    kind = str(config["model_type"])
    hidden, heads = size(config, "hidden_size"), size(config, "num_attention_heads")
    kv_heads = size(config, "num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise ValueError(f"num_key_value_heads: {kv_heads} does not divide {heads} heads")
    bias = bool(config.get("attention_bias", kind == "gpt_oss"))
    normed = ("qwen3", "qwen3_moe", "gemma3_text", *_HYBRIDS)
    return Grouped(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=size(config, "head_dim", default=hidden // heads),
        qkv_bias=bias or kind in ("qwen2", "qwen2_moe"),
        output_bias=bias and kind not in ("mistral", "mixtral", "qwen2", "qwen2_moe"),
        norm="head" if kind in normed else "",
        gated=kind in _HYBRIDS,
        sinks=kind == "gpt_oss",
        window=_window(config, layer),
        chunked=kind == "llama4_text",
    )


def _window(config: Config, layer: int) -> int | None:
    """The most tokens that a layer looks back at; None: all of them.

    Mistral's looks back one window wherever its config names one, Qwen's only if it says that it
    does, and then from layer ``max_window_layers`` on. ``layer_types`` say it for each layer.
    """
    kind = str(config["model_type"])
    if kind == "llama4_text":
        ropes = listed(config, "no_rope_layers")
        every = size(config, "no_rope_layer_interval", default=4)
        has_rope = bool(ropes[layer]) if layer < len(ropes) else (layer + 1) % every != 0
        chunk = most({"attention_chunk_size": 8192, **config}, "attention_chunk_size")
        return chunk if has_rope else None
    if kind.startswith("qwen") and not config.get("use_sliding_window"):
        return None
    if kind in ("llama", "gemma"):
        return None
    window, types = most(config, "sliding_window"), listed(config, "layer_types")
    if layer < len(types):
        return window if types[layer] == "sliding_attention" else None
    if kind == "gemma3_text":
        pattern = config.get("sliding_window_pattern", config.get("_sliding_window_pattern", 6))
        return window if (layer + 1) % pattern else None
    if kind in ("gemma2", "gpt_oss"):
        return window if layer % 2 == 0 else None
    if kind.startswith("qwen") and layer < config.get("max_window_layers", 0):
        return None
    return window


def _latent(config: Config, layer: int) -> Latent:
    rank = config.get("q_lora_rank")
    return Latent(
        heads=size(config, "num_attention_heads"),
        query_rank=None if rank is None else size(config, "q_lora_rank"),
        kv_rank=size(config, "kv_lora_rank"),
        plain_dim=size(config, "qk_nope_head_dim"),
        rope_dim=size(config, "qk_rope_head_dim"),
        value_dim=size(config, "v_head_dim"),
    )


def _hybrid(config: Config, layer: int) -> Attention:
    types = listed(config, "layer_types")
    every = size(config, "full_attention_interval", default=4)
    is_full = types[layer] == "full_attention" if layer < len(types) else not (layer + 1) % every
    if is_full:
        return _grouped(config, layer)
    return Recurrent(
        key_heads=size(config, "linear_num_key_heads"),
        value_heads=size(config, "linear_num_value_heads"),
        key_dim=size(config, "linear_key_head_dim"),
        value_dim=size(config, "linear_value_head_dim"),
        kernel=size(config, "linear_conv_kernel_dim"),
        packed=config["model_type"] == "qwen3_next",
    )


def _dense(config: Config, layer: int) -> Dense:
    bias = config["model_type"] == "llama" and bool(config.get("mlp_bias"))
    return Dense(size(config, "intermediate_size"), bias)


def _number_of_experts(config: Config) -> int:
    # transformers 5 writes num_local_experts for all of them, the published files num_experts.
    return size(config, "num_experts" if "num_experts" in config else "num_local_experts")


def _mixtral(config: Config, layer: int) -> Experts:
    count, active = _number_of_experts(config), size(config, "num_experts_per_tok")
    inner = size(config, "intermediate_size")
    return Experts(count, active, inner, place="block_sparse_moe")


def _qwen_moe(config: Config, layer: int) -> Mlp:
    step = size(config, "decoder_sparse_step", default=1)
    if layer in listed(config, "mlp_only_layers") or (layer + 1) % step:
        return _dense(config, layer)
    shared = 0
    if config["model_type"] != "qwen3_moe":
        shared = size(config, "shared_expert_intermediate_size")
    return Experts(
        _number_of_experts(config),
        size(config, "num_experts_per_tok"),
        size(config, "moe_intermediate_size"),
        shared=shared,
        shared_gate=bool(shared),
    )


def _gpt_oss(config: Config, layer: int) -> Experts:
    return Experts(
        _number_of_experts(config),
        size(config, "num_experts_per_tok"),
        size(config, "intermediate_size"),
        bias=True,
        router="router",
    )


def _deepseek(config: Config, layer: int) -> Mlp:
    dense, every = config.get("first_k_dense_replace", 0), config.get("moe_layer_freq", 1)
    if not config.get("n_routed_experts") or layer < dense or layer % every:
        return _dense(config, layer)
    inner = size(config, "moe_intermediate_size")
    return Experts(
        size(config, "n_routed_experts"),
        size(config, "num_experts_per_tok"),
        inner,
        shared=inner * (config.get("n_shared_experts") or 0),
        shared_name="shared_experts",
        correction=config["model_type"] == "deepseek_v3",
    )


def _llama4(config: Config, layer: int) -> Mlp:
    step = size(config, "interleave_moe_layer_step", default=1)
    sparse = config.get("moe_layers")
    if not (layer in sparse if sparse is not None else (layer + 1) % step == 0):
        return Dense(size(config, "intermediate_size_mlp"), place="feed_forward")
    inner = size(config, "intermediate_size")
    return Experts(
        _number_of_experts(config),
        size(config, "num_experts_per_tok"),
        inner,
        shared=inner,
        place="feed_forward",
        router="router",
    )


_HYBRIDS = ("qwen3_next", "qwen3_5_moe_text", "qwen3_5_text")
_ATTENTION: Mapping[str, Callable[[Config, int], Attention]] = {
    "deepseek_v2": _latent,
    "deepseek_v3": _latent,
    **dict.fromkeys(_HYBRIDS, _hybrid),
}
_MLPS: Mapping[str, Callable[[Config, int], Mlp]] = {
    "mixtral": _mixtral,
    **dict.fromkeys(("qwen2_moe", "qwen3_moe", "qwen3_next", "qwen3_5_moe_text"), _qwen_moe),
    "gpt_oss": _gpt_oss,
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), _deepseek),
    "llama4_text": _llama4,
}
KNOWN_TYPES = (
    *("llama", "mistral", "qwen2", "qwen3", *_GEMMAS, "qwen3_5_text"),
    *_MLPS,
)
"""``model_type`` of the decoders whose weights can be counted."""
KNOWN_CLASSES = frozenset(
    (
        *("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"),
        *("Qwen2ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM"),
        *("Qwen3NextForCausalLM", "Qwen3_5ForCausalLM", "Qwen3_5MoeForCausalLM"),
        *("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM"),
        *("Gemma3ForConditionalGeneration", "GptOssForCausalLM"),
        *("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"),
        *("Llama4ForCausalLM", "Llama4ForConditionalGeneration"),
    )
)
"""``architectures`` that have these layouts. A draft head, a reward or an embedding model has the
``model_type`` of the model that it is made from, but other weights."""


def _siglip(vision: Config, hidden: int) -> int:
    """SigLIP and the projector of Gemma 3."""
    width, inner = size(vision, "hidden_size"), size(vision, "intermediate_size")
    patch, channels = size(vision, "patch_size"), size(vision, "num_channels", default=3)
    patches = (size(vision, "image_size") // patch) ** 2
    layer = 4 * (width * width + width) + 2 * 2 * width + 2 * width * inner + inner + width
    tower = channels * patch * patch * width + width + patches * width
    tower += size(vision, "num_hidden_layers") * layer + 2 * width
    return tower + width * hidden + width


def _llama4_vision(vision: Config, hidden: int) -> int:
    """The vision tower, its adapter and the projector of Llama 4."""
    width, inner = size(vision, "hidden_size"), size(vision, "intermediate_size")
    patch, channels = size(vision, "patch_size"), size(vision, "num_channels", default=3)
    patches = (size(vision, "image_size") // patch) ** 2
    layer = 4 * (width * width + width) + 2 * 2 * width + 2 * width * inner + inner + width
    tower = channels * patch * patch * width + width + (patches + 1) * width
    tower += size(vision, "num_hidden_layers") * layer + 2 * 2 * width
    wide, out = size(vision, "projector_input_dim"), size(vision, "projector_output_dim")
    adapter = inner * wide + wide * out
    return tower + adapter + size(vision, "vision_output_dim") * hidden


def longest_context(config: Mapping[str, Any]) -> int:
    """The longest context that vLLM takes: RoPE scaling multiplies ``max_position_embeddings``,
    but for the kinds that have it in that number already.

    YaRN has, says vLLM since 0.30; before, it took the original length times the factor. Refused
    is what neither would take.
    """
    most = size(config, "max_position_embeddings")
    longest = float(most)
    if not str(config.get("model_type")).startswith("gemma3"):  # scaled already
        for rope in _ropes(config.get("rope_scaling") or config.get("rope_parameters")):
            kind = rope.get("rope_type", rope.get("type", "default"))
            factor = _number(rope, "factor")
            if kind in SCALED_POSITIONS or not factor:
                continue
            start: float = most
            if "yarn" in str(kind):
                start = _number(rope, "original_max_position_embeddings") or most
            longest = max(longest, start * factor)
    told = config.get("model_max_length")
    return max(int(longest), told if isinstance(told, int) else 0)


def _number(rope: Mapping[str, Any], name: str) -> float | None:
    value = rope.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"rope_scaling: {name}: {value!r}; allowed: a number")
    return value


def _ropes(scaling: Any) -> list[Mapping[str, Any]]:
    """The parameters of all kinds of layers, where they differ, else those of all."""
    if scaling is None:
        return []
    if not isinstance(scaling, Mapping):
        raise ValueError(f"rope_scaling: {scaling!r}; allowed: a mapping, such as type and factor")
    inner = [one for one in scaling.values() if isinstance(one, Mapping)]
    return inner or [scaling]
