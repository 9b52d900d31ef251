"""What an engine's arguments make of a model: what it then weighs, caches, reads and can be split.

A variant may change the work of a step: draft tokens, weights that stay on the host, another
config. What follows from it is here; what does not is a note, and then there is no floor, no
expectation or no fit, never those of the model without the argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tpsweep.core.cell import BF16, FP8_CACHE, Engine
from tpsweep.perfmodel.model_shape import CACHE_BYTES, Shape, UnknownShapeError

GIB = 2**30
DRAFTS_WITHOUT_WEIGHTS = ("ngram", "ngram_gpu", "suffix", "[ngram]")
"""Methods of speculative decoding that need no model of their own."""
OTHER_TIMES: Mapping[str, str] = {
    "enable_lora": "LoRA adapters",
    "kv_cache_dtype_skip_layers": "layers with another KV cache",
    "enable_dbo": "two half batches at a time",
    "cpu_offload_gb": "weights on the host",
}
"""Arguments that change what a step does, beyond what the constants of the expectation know."""
OTHER_WORK: Mapping[str, str] = {
    "offload_group_size": "prefetched weights on the host",
    "offload_backend": "weights on the host",
    "hf_config_path": "another config.json",
    "model_loader_extra_config": "a loader's own rules",
}
"""Arguments of which neither floors nor fit follow."""


@dataclass(frozen=True)
class Work:
    """A model as an engine has it.

    ``offloaded``: bytes of weights that each GPU leaves on the host. ``most_tokens``: that a step
    may give a sequence. ``no_fit``, ``no_floors`` and ``no_expectation`` say why there is none.
    """

    shape: Shape
    dtype: str
    cache_dtype: str
    offloaded: float = 0.0
    most_tokens: int = 1
    no_fit: str | None = None
    no_floors: str | None = None
    no_expectation: str | None = None

    def tp_problem(self, tp: int, *, ep: bool = False) -> str | None:
        """Why vLLM cannot split it over ``tp`` ranks, with expert parallelism or without; None if
        it can."""
        return self.shape.tp_problem(tp, expert_split=1 if ep else tp)

    def tps(self, *, ep: bool = False) -> list[int]:
        """The TPs over which vLLM can split it, up to one rank per head."""
        return [tp for tp in range(1, self.shape.heads + 1) if self.tp_problem(tp, ep=ep) is None]


class NoWorkError(ValueError):
    """Nothing can be said of the model under these arguments; the message says why."""


def work_of(engine: Engine, shape: Shape) -> Work:
    """What ``engine`` makes of a model of ``shape``. Raises ``NoWorkError``."""
    return work_under(engine.args, engine.model.dtype, engine.precision, shape)


def work_under(args: Mapping[str, Any], dtype: str, precision: str, shape: Shape) -> Work:
    """What the arguments of a variant and a precision make of a model.

    Raises ``NoWorkError``, also for what vLLM refuses.
    """
    given = {name: value for name, value in args.items() if value}
    for name, said in OTHER_WORK.items():
        if name in given:
            raise NoWorkError(f"{name}: {said}")
    shape = _shape(given, precision, shape)
    drafts = _drafts(given.get("speculative_config"))
    why = [f"{name}: {OTHER_TIMES[name]}" for name in given if name in OTHER_TIMES]
    if drafts is not None:
        why.append("speculative_config: how many draft tokens are accepted is not known before")
    return Work(
        shape=shape,
        dtype=dtype,
        cache_dtype=_cache_dtype(given, dtype, precision, shape),
        offloaded=float(given.get("cpu_offload_gb", 0)) * GIB,
        most_tokens=1 + (drafts or 0),
        no_fit=_no_fit(given),
        no_floors=None if drafts != 0 else "speculative_config: it does not say how many tokens",
        no_expectation="; ".join(why) or None,
    )


def _shape(given: Mapping[str, Any], precision: str, shape: Shape) -> Shape:
    overrides = given.get("hf_overrides")
    if overrides:
        if not isinstance(overrides, Mapping):
            raise NoWorkError("hf_overrides: not a mapping")
        try:
            shape = shape.overridden(overrides)
        except (UnknownShapeError, ValueError) as error:
            raise NoWorkError(f"hf_overrides: {error}") from None
    if given.get("language_model_only") or given.get("limit_mm_per_prompt"):
        shape = shape.without_vision
    return shape if precision == BF16 else shape.online_fp8


def _cache_dtype(given: Mapping[str, Any], dtype: str, precision: str, shape: Shape) -> str:
    """As the variant asks, else as the precision, the checkpoint, the model's dtype."""
    asked = str(given.get("kv_cache_dtype", "auto"))
    if asked in CACHE_BYTES:
        return asked
    if precision == FP8_CACHE:
        return "fp8"
    return shape.cache_dtype(dtype)


def _drafts(config: Any) -> int | None:
    """Draft tokens of a step; None without speculative decoding, 0 if it is not said."""
    if not isinstance(config, Mapping):
        return None if not config else 0
    return int(config.get("num_speculative_tokens") or 0)


def _no_fit(given: Mapping[str, Any]) -> str | None:
    """Why memory cannot be estimated. Weights and cache are a lower bound all the same."""
    draft = given.get("speculative_config")
    if draft and not (isinstance(draft, Mapping) and draft.get("method") in DRAFTS_WITHOUT_WEIGHTS):
        return "speculative_config: the draft model's bytes are not counted"
    for name in ("kv_cache_memory_bytes", "num_gpu_blocks_override", "enable_lora"):
        if name in given:
            return f"{name}: what is left for the cache is not known"
    return None
