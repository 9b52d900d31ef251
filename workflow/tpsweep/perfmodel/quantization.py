"""How the weights of a quantized checkpoint are stored, module by module, as vLLM reads it.

vLLM looks at ``quantization_config`` of config.json, at ``compression_config`` there, at both in
``text_config``, and at ``hf_quant_config.json`` beside it. Which modules a scheme leaves out, and
by what kind of name, differs from scheme to scheme: each is a list of rules here, of which the
first that matches a module's name says its format. Names are those of the checkpoint.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["linear", "experts", "head"]
"""What a weight is for a scheme: a linear layer of the decoder, a mixture's experts, or the output
head. Embedding, norms, biases and routers are never quantized."""

LAYERS: frozenset[Kind] = frozenset(("linear", "experts"))
EVERYTHING: frozenset[Kind] = frozenset(("linear", "experts", "head"))
SCALE_BITS, BLOCK_SCALE_BITS, BYTE_SCALE_BITS = 16, 32, 8


class UnknownQuantizationError(ValueError):
    """A checkpoint whose weight bytes cannot be counted; the message says why."""


@dataclass(frozen=True)
class WeightFormat:
    """``bits`` of a weight itself. ``group`` weights along the inputs share a scale (and zero
    point) of ``scale_bits``, or a ``block`` of outputs x inputs does; scales of a whole channel or
    tensor, below 0.1 %, are left out.

    ``pack``: outputs in one packed word. ``peak_factor``: how many times the BF16 peak the tensor
    cores may reach with it, at most: eight-bit weights may meet eight-bit activations, four-bit
    floats four-bit ones; four-bit integers are unpacked to 16 bits first. ``is_float``: a weight is
    a small float, not an integer. ``any_experts``: vLLM has a way for experts whose shard is no
    whole number of groups.
    """

    bits: int
    scale_bits: int = 0
    group: int | None = None
    block: tuple[int, int] | None = None
    pack: int = 1
    peak_factor: int = 1
    is_float: bool = False
    any_experts: bool = False

    def size_bits(self, outputs: int, inputs: int) -> int:
        """Bits of a matrix, its scales included."""
        scales = 0
        if self.group is not None:
            scales = outputs * -(-inputs // self.group)
        elif self.block is not None:
            scales = -(-outputs // self.block[0]) * -(-inputs // self.block[1])
        return outputs * inputs * self.bits + scales * self.scale_bits


FP8 = WeightFormat(8, peak_factor=2, is_float=True)
MXFP8 = WeightFormat(8, BYTE_SCALE_BITS, group=32, peak_factor=2, is_float=True)
MXFP4 = replace(MXFP8, bits=4, peak_factor=4, any_experts=True)
NVFP4 = replace(MXFP4, group=16, any_experts=False)


@dataclass(frozen=True)
class Rule:
    """The format (None: as trained) of the modules whose name is one of ``names``.

    ``how``: ``exact``, ``part`` (of the name), ``regex`` (from its start), ``glob``, ``listed``
    (experts named one by one), or ``all``.
    """

    how: str
    stored: WeightFormat | None
    names: frozenset[str] = frozenset()
    kinds: frozenset[Kind] = EVERYTHING

    def matches(self, name: str, kind: Kind) -> bool:
        """Whether the rule speaks of this module."""
        return kind in self.kinds and _MATCH[self.how](name, self.names)


@dataclass(frozen=True)
class Scheme:
    """How a checkpoint is quantized. ``cache_dtype``: of the KV cache that it asks for.

    ``one_by_one``: rules see each expert's matrices by name; else all experts of a layer are one.
    """

    method: str
    rules: tuple[Rule, ...]
    cache_dtype: str | None = None
    one_by_one: bool = False

    def format_of(self, name: str, kind: Kind) -> WeightFormat | None:
        """The format of a module; None: its weights are as they were trained."""
        if kind == "experts" and not self.one_by_one:
            name = name.partition(".experts")[0] + ".experts"
        found = (rule.stored for rule in self.rules if rule.matches(name, kind))
        return next(found, None)


ONLINE_FP8 = Scheme("online fp8", (Rule("all", FP8, kinds=LAYERS),))
"""What vLLM makes of unquantized weights when it loads them with FP8 asked for."""


def scheme_of(config: Mapping[str, Any]) -> Scheme | None:
    """The scheme that a config.json names; None if its weights are as they were trained.

    Raises ``UnknownQuantizationError``.
    """
    key, given = _find(config)
    if not given:
        return None
    method = _method(given)
    read = _READERS.get(method)
    if read is None:
        known = ", ".join(sorted(_READERS))
        raise UnknownQuantizationError(f"{key}: quant_method: {method!r}; known: {known}")
    try:
        return read(method, given)
    except UnknownQuantizationError as error:
        raise UnknownQuantizationError(f"{key}: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError, re.error) as error:
        said = f"{key}: {type(error).__name__} {error}: unknown format"
        raise UnknownQuantizationError(said) from None


def _find(config: Mapping[str, Any]) -> tuple[str, Any]:
    text = config.get("text_config")
    for place in (config, text if isinstance(text, Mapping) else {}):
        for key in ("quantization_config", "compression_config"):
            if place.get(key):
                return key, place[key]
    return "", None


def _method(given: Any) -> str:
    if not isinstance(given, Mapping):
        return ""
    method = str(given.get("quant_method") or "").lower()
    producer = given.get("producer")
    if not method and isinstance(producer, Mapping) and producer.get("name") == "modelopt":
        return "modelopt"
    return method.replace("compressed_tensors", "compressed-tensors")


def _fp8(method: str, given: Mapping[str, Any]) -> Scheme:
    if given.get("store_dtype"):
        raise UnknownQuantizationError(f"store_dtype: {given['store_dtype']!r} is not counted")
    left_out = given.get("ignored_layers") or given.get("modules_to_not_convert") or []
    block = given.get("weight_block_size")
    return Scheme(method, (*_left_out(left_out), Rule("all", _blocks(block), kinds=LAYERS)))


def _awq(method: str, given: Mapping[str, Any]) -> Scheme:
    bits = _of(int(given["bits"] if "bits" in given else given["w_bit"]), (4,), "bits")
    size = given["group_size"] if "group_size" in given else given["q_group_size"]
    packed = replace(_groups(bits, int(size), bits), pack=32 // bits, any_experts=True)
    left_out = frozenset(given.get("modules_to_not_convert") or [])
    kinds = EVERYTHING if given.get("lm_head") else LAYERS
    return Scheme(method, (Rule("part", None, left_out), Rule("all", packed, kinds=kinds)))


def _gptq(method: str, given: Mapping[str, Any]) -> Scheme:
    """``dynamic`` rules come first, in their order; ``-:`` ones leave a module out."""
    bits, size = int(given["bits"]), int(given["group_size"])
    kinds = EVERYTHING if given.get("lm_head") else LAYERS
    only = _flat(given.get("modules_in_block_to_quantize") or [])
    rules = [Rule("not part", None, only)] if only else []
    for pattern, changes in (given.get("dynamic") or {}).items():
        found = frozenset((re.compile(pattern.removeprefix("-:").removeprefix("+:")).pattern,))
        stored = None if pattern.startswith("-:") else _gptq_format(bits, size, changes)
        rules.append(Rule("regex", stored, found, kinds))
    rules.append(Rule("all", _gptq_format(bits, size, {}), kinds=kinds))
    return Scheme(method, tuple(rules))


def _gptq_format(bits: int, size: int, changes: Mapping[str, Any]) -> WeightFormat:
    bits = _of(int(changes.get("bits", bits)), (4, 8), "bits")
    # Each group has a scale and, packed as the weights are, a zero point.
    found = _groups(bits, int(changes.get("group_size", size)), bits)
    return replace(found, any_experts=True)


def _compressed(method: str, given: Mapping[str, Any]) -> Scheme:
    """Names and patterns of targets go before classes (``Linear``); what is ignored before both."""
    if (given.get("sparsity_config") or {}).get("targets") or given.get("format") == "marlin-24":
        raise UnknownQuantizationError("sparse weights are not counted")
    named, by_class = [], []
    for group in given["config_groups"].values():
        stored = _compressed_format(group)
        for target in group["targets"]:
            if target.endswith("Attention"):
                continue  # of the KV cache, says vLLM
            if target == "Linear":
                by_class.append(Rule("all", stored, kinds=LAYERS))
            elif target in ("RoutedExperts", "FusedMoE"):
                by_class.append(Rule("all", stored, kinds=frozenset(("experts",))))
            elif target.startswith("re:") or "." in target or target == "lm_head":
                named.append(_named(target, stored))
            else:
                raise UnknownQuantizationError(f"config_groups: targets: {target!r}: not known")
    ignored = (_named(name, None) for name in given.get("ignore") or [])
    rules = (*ignored, *named, *by_class)
    return Scheme(method, rules, _scheme_of_cache(given), one_by_one=True)


def _named(name: str, stored: WeightFormat | None) -> Rule:
    if name.startswith("re:"):
        return Rule("regex", stored, frozenset((re.compile(name.removeprefix("re:")).pattern,)))
    return Rule("exact", stored, frozenset((canonical(name),)))


def _compressed_format(group: Mapping[str, Any]) -> WeightFormat:
    weights = group["weights"]
    kind, bits, strategy = weights["type"], int(weights["num_bits"]), weights["strategy"]
    _of(bits, (4, 8), f"num_bits of {kind}")
    activations = (group.get("input_activations") or {}).get("num_bits", 16)
    peak = {(8, "float"): 2, (8, "int"): 2, (4, "float"): 4}.get((bits, kind), 1)
    peak = max(peak, 2 if activations == 8 else 4 if activations == 4 else 1)
    if strategy in ("group", "tensor_group"):
        if kind == "float":
            found = WeightFormat(bits, BYTE_SCALE_BITS, group=int(weights["group_size"]))
        else:
            zero = 0 if weights.get("symmetric", True) else bits
            found = _groups(bits, int(weights["group_size"]), zero)
    elif strategy == "block":
        found = replace(_blocks(weights["block_structure"]), bits=bits)
    elif strategy in ("channel", "tensor"):
        found = WeightFormat(bits)
    else:
        raise UnknownQuantizationError(f"strategy: {strategy!r}: not known")
    return replace(found, peak_factor=peak, is_float=kind == "float")


def _scheme_of_cache(given: Mapping[str, Any]) -> str | None:
    cache = given.get("kv_cache_scheme")
    if not cache:
        return None
    if (cache.get("type"), cache.get("num_bits")) != ("float", 8):
        raise UnknownQuantizationError(f"kv_cache_scheme: {dict(cache)}; known: 8 bits, float")
    return "fp8"


def _modelopt(method: str, given: Mapping[str, Any]) -> Scheme:
    """As ``hf_quant_config.json`` has it (below ``quantization``), or as config.json has."""
    inner = given["quantization"] if isinstance(given.get("quantization"), Mapping) else given
    left_out = inner.get("exclude_modules") or inner.get("ignore") or []
    globs = frozenset(left_out)
    rules = [Rule("part", None, globs), Rule("glob", None, globs)]
    size = inner.get("group_size")
    algorithm = str(inner.get("quant_algo") or "").upper()
    if algorithm == "MIXED_PRECISION":
        for name, layer in inner["quantized_layers"].items():
            stored = _modelopt_format(layer["quant_algo"], layer.get("group_size", size))
            rules.append(Rule("exact", stored, frozenset((canonical(name),))))
            rules.append(Rule("listed", stored, frozenset((canonical(name),))))
    else:
        rules.append(Rule("all", _modelopt_format(algorithm, size)))
    return Scheme("modelopt", tuple(rules), _modelopt_cache(given, inner))


def _modelopt_format(algorithm: str, size: Any) -> WeightFormat:
    name = str(algorithm).upper()
    if name in ("FP8", "FP8_PER_CHANNEL_PER_TOKEN"):
        return FP8
    if name in ("FP8_PB_WO", "FP8_BLOCK_SCALES"):
        return _blocks([int(size or 128)] * 2)
    if name in ("NVFP4", "W4A16_NVFP4"):
        return replace(NVFP4, group=int(size or 16))
    if name == "MXFP8":
        return MXFP8
    raise UnknownQuantizationError(f"quant_algo: {algorithm!r} is not counted")


def _modelopt_cache(given: Mapping[str, Any], inner: Mapping[str, Any]) -> str | None:
    asked = inner.get("kv_cache_scheme") or given.get("kv_cache_scheme")
    asked = asked or inner.get("kv_cache_quant_algo") or given.get("kv_cache_quant_algo")
    if isinstance(asked, Mapping):
        return _scheme_of_cache({"kv_cache_scheme": asked})
    if asked and str(asked).upper() != "FP8":
        raise UnknownQuantizationError(f"kv_cache_quant_algo: {asked!r}; known: FP8")
    return "fp8" if asked else None


def _mxfp4(method: str, given: Mapping[str, Any]) -> Scheme:
    """Only the experts: vLLM has no linear layer of this format."""
    return Scheme(method, (Rule("all", MXFP4, kinds=frozenset(("experts",))),))


_READERS: Mapping[str, Callable[[str, Mapping[str, Any]], Scheme]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "awq": _awq,
    "auto_awq": _awq,
    "awq_marlin": _awq,
    "gptq": _gptq,
    "auto_gptq": _gptq,
    "gptq_marlin": _gptq,
    "compressed-tensors": _compressed,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "modelopt_mxfp8": _modelopt,
    "modelopt_mixed": _modelopt,
    "mxfp4": _mxfp4,
    "gpt_oss_mxfp4": _mxfp4,
}


def _groups(bits: int, size: int, zero_bits: int) -> WeightFormat:
    """Groups of ``size`` with a 16-bit scale and, maybe, a zero point; -1: a whole row."""
    peak = 2 if bits == 8 else 1
    if size <= 0:
        return WeightFormat(bits, peak_factor=peak)
    return WeightFormat(bits, SCALE_BITS + zero_bits, group=size, peak_factor=peak)


def _blocks(block: Iterable[int] | None) -> WeightFormat:
    if not block:
        return FP8
    outputs, inputs = (int(size) for size in block)
    return replace(FP8, scale_bits=BLOCK_SCALE_BITS, block=(outputs, inputs))


def _left_out(names: Iterable[str]) -> tuple[Rule, Rule]:
    """Modules listed by their whole names; of experts it is enough that some are."""
    listed = frozenset(canonical(str(name)) for name in names)
    return Rule("exact", None, listed), Rule("listed", None, listed)


def _flat(names: Any) -> frozenset[str]:
    """Names in lists of lists, as GPTQ has them."""
    if isinstance(names, str):
        return frozenset((names,))
    return frozenset().union(*(_flat(name) for name in names))


def _of(value: int, allowed: tuple[int, ...], name: str) -> int:
    if value not in allowed:
        known = ", ".join(map(str, allowed))
        raise UnknownQuantizationError(f"{name}: {value}; known: {known}")
    return value


FUSED = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "qkv_proj"),
    **dict.fromkeys(("gate_proj", "up_proj"), "gate_up_proj"),
    **dict.fromkeys(("q_a_proj", "kv_a_proj_with_mqa"), "fused_qkv_a_proj"),
}
"""Modules that vLLM loads as one: a list may name either."""


def canonical(name: str) -> str:
    """A module's name less what only says that it is the language model of a larger one."""
    while name.startswith(("model.", "language_model.")):
        name = name.partition(".")[2]
    return name


def _spellings(name: str) -> tuple[str, ...]:
    """A name as checkpoints of the bare and of the multimodal class may have it."""
    bare = canonical(name)
    if bare.startswith("lm_head"):
        return bare, f"language_model.{bare}"
    places = ("model.", "language_model.model.", "model.language_model.")
    return tuple(f"{place}{bare}" for place in places)


def _exact(name: str, names: frozenset[str]) -> bool:
    head, _, last = canonical(name).rpartition(".")
    return canonical(name) in names or f"{head}.{FUSED.get(last, last)}" in names


def _listed(name: str, names: frozenset[str]) -> bool:
    head, found, _ = canonical(name).partition(".experts")
    return bool(found) and any(f"{head}{found}" in one for one in names)


def _part(name: str, names: frozenset[str]) -> bool:
    return any(one in spelling for spelling in _spellings(name) for one in names)


def _regex(name: str, names: frozenset[str]) -> bool:
    head, dot, last = name.rpartition(".")
    spellings = (*_spellings(name), *_spellings(f"{head}{dot}{FUSED.get(last, last)}"))
    return any(re.match(one, spelling) for spelling in spellings for one in names)


def _glob(name: str, names: frozenset[str]) -> bool:
    spellings = _spellings(name)
    return any(fnmatch.fnmatchcase(spelling, one) for spelling in spellings for one in names)


_MATCH: Mapping[str, Callable[[str, frozenset[str]], bool]] = {
    "exact": _exact,
    "listed": _listed,
    "part": _part,
    "not part": lambda name, names: not _part(name, names),
    "regex": _regex,
    "glob": _glob,
    "all": lambda _, __: True,
}
