"""How many bytes a weight of a quantized checkpoint takes, from its ``quantization_config``.

Only the linear layers of the decoder are quantized: embedding, output head, norms, biases and a
mixture's router keep the model's dtype. Formats are those of vLLM's quantization layers fp8, awq,
gptq and compressed-tensors; another one, or one that leaves out more, is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

KNOWN_METHODS = ("fp8", "awq", "gptq", "compressed-tensors")
SCALE_BITS = 16
BLOCK_SCALE_BITS = 32
WHOLE = re.compile(r"(re:)?[\w.*^\\]*(lm_head|gate|router)\$?")
"""What may be left out of quantization: the head and the router, which we never count in."""


class UnknownQuantizationError(ValueError):
    """A checkpoint whose weight bytes cannot be counted."""


@dataclass(frozen=True)
class Quantization:
    """``bits`` of a weight itself; ``overhead_bits`` is its share of scales and zero points (those
    of a whole channel or tensor, below 0.1 %, are left out)."""

    method: str
    bits: int
    overhead_bits: float

    @property
    def bytes_per_weight(self) -> float:
        """Bytes of one weight of a linear layer, its share of the scales included."""
        return (self.bits + self.overhead_bits) / 8

    @property
    def peak_factor(self) -> float:
        """How many times the BF16 peak the tensor cores may reach with it, at most.

        Eight-bit weights may run with eight-bit activations at twice the rate; four-bit ones of
        these formats are unpacked to 16 bits first.
        """
        return 2 if self.bits == 8 else 1


def quantization_of(config: dict[str, Any]) -> Quantization | None:
    """The quantization that a config.json names; None if its weights are as they were trained.

    Raises ``UnknownQuantizationError``.
    """
    given = config.get("quantization_config")
    if not given:
        return None
    method = given.get("quant_method") if isinstance(given, dict) else None
    if method not in KNOWN_METHODS:
        known = ", ".join(KNOWN_METHODS)
        raise UnknownQuantizationError(
            f"quantization_config: quant_method: {method!r}; known: {known}"
        )
    if given.get("kv_cache_scheme"):
        raise UnknownQuantizationError("quantization_config: kv_cache_scheme is not counted")
    _check_left_out([*(given.get("modules_to_not_convert") or []), *(given.get("ignore") or [])])
    try:
        if method == "fp8":
            return Quantization(method, 8, _block_overhead(given.get("weight_block_size")))
        if method == "compressed-tensors":
            return _compressed(given)
        bits = _of(int(given["bits"]), (4, 8), "bits")
        # Each group has a scale and, packed as the weights are, a zero point.
        return Quantization(method, bits, _group_overhead(given["group_size"], bits))
    except (KeyError, TypeError, AttributeError) as error:
        raise UnknownQuantizationError(f"quantization_config: {error!r}: unknown format") from None


def _compressed(given: dict[str, Any]) -> Quantization:
    (group,) = given["config_groups"].values() if len(given["config_groups"]) == 1 else ({},)
    if group.get("targets") != ["Linear"]:
        raise UnknownQuantizationError("quantization_config: config_groups; known: one, of Linear")
    weights = group["weights"]
    allowed = (8,) if weights["type"] == "float" else (4, 8)
    bits = _of(int(weights["num_bits"]), allowed, f"num_bits of {weights['type']}")
    strategy = weights["strategy"]
    if strategy == "group":
        zero_bits = 0 if weights.get("symmetric", True) else bits
        overhead = _group_overhead(weights["group_size"], zero_bits)
    elif strategy == "block":
        overhead = _block_overhead(weights["block_structure"])
    elif strategy in ("channel", "tensor"):
        overhead = 0.0
    else:
        raise UnknownQuantizationError(f"quantization_config: strategy: {strategy!r}: not known")
    return Quantization("compressed-tensors", bits, overhead)


def _group_overhead(size: int, zero_bits: int) -> float:
    """Bits per weight of scales (and zero points) of groups of ``size``; -1: a whole row."""
    return (SCALE_BITS + zero_bits) / size if size > 0 else 0.0


def _block_overhead(block: list[int] | None) -> float:
    return BLOCK_SCALE_BITS / (block[0] * block[1]) if block else 0.0


def _of(value: int, allowed: tuple[int, ...], name: str) -> int:
    if value not in allowed:
        raise UnknownQuantizationError(f"quantization_config: {name}: {value}; known: {allowed}")
    return value


def _check_left_out(names: list[str]) -> None:
    for name in names:
        if not WHOLE.fullmatch(str(name)):
            raise UnknownQuantizationError(f"quantization_config: leaves out {name}: not counted")
