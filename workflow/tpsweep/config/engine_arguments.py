"""What a variant may set of the engine: vLLM's own arguments, but for those that have an owner."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, JsonValue
from pydantic_core import PydanticCustomError

from tpsweep.core.axes import LAYOUT, LISTED
from tpsweep.perfmodel.model_shape import CACHE_BYTES


def _owners() -> dict[str, str]:
    """Engine arguments that axes set, and the config's lists of these axes."""
    owners: dict[str, str] = {}
    for axis in LISTED:
        if axis.vllm_arg:
            before = f"{owners[axis.vllm_arg]} or " if axis.vllm_arg in owners else ""
            owners[axis.vllm_arg] = f"{before}{axis.config_key}"
    return owners


OWNED: Mapping[str, str] = {
    "model": "models",
    "tokenizer": "models",
    "revision": "models",
    "dtype": "models",
    "load_format": "models (weights)",
    "quantization": "precision, or by the checkpoint",
    "quantization_config": "precision, or by the checkpoint",
    "prefill_context_parallel_size": (
        f"nothing (not measured; allowed: {', '.join(axis.name for axis in LAYOUT)})"
    ),
    **dict.fromkeys(
        ("nnodes", "node_rank", "master_addr", "master_port", "world_size"),
        "tp, pp and the site's per_node (an engine takes as many nodes as it needs)",
    ),
    **_owners(),
    "disable_custom_all_reduce": "allreduce_backends",
    "max_model_len": "the workload's engine",
    "max_num_seqs": "the workload's engine",
    "max_num_batched_tokens": "the workload's engine",
    "gpu_memory_utilization": "the workload's engine",
    "enable_prefix_caching": "the rules of measuring (off)",
    "disable_log_stats": "the rules of measuring (the timestamps need it)",
    "profiler_config": "the capture workload",
    "seed": "tpsweep",
    **dict.fromkeys(
        (
            *("host", "port", "uds", "api_key", "served_model_name", "middleware", "root_path"),
            *("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "api_server_count", "config"),
            *("data_parallel_address", "data_parallel_rpc_port", "headless"),
        ),
        "tpsweep (servers listen on loopback, each with its own port and key)",
    ),
    **dict.fromkeys(
        (
            *("data_parallel_rank", "data_parallel_start_rank", "data_parallel_size_local"),
            *("data_parallel_hybrid_lb", "data_parallel_external_lb", "data_parallel_backend"),
            *("data_parallel_multi_port_external_lb", "enable_elastic_ep"),
        ),
        "dp or replicas",
    ),
}
"""Engine arguments that a variant must not hold, and where they are set instead."""
SHORT: Mapping[str, str] = {
    "tp": "tensor_parallel_size",
    "pp": "pipeline_parallel_size",
    "ep": "enable_expert_parallel",
    "dcp": "decode_context_parallel_size",
    "pcp": "prefill_context_parallel_size",
    "n": "nnodes",
    "r": "node_rank",
    "q": "quantization",
    "dp": "data_parallel_size",
    "dpn": "data_parallel_rank",
    "dpr": "data_parallel_start_rank",
    "dpl": "data_parallel_size_local",
    "dpa": "data_parallel_address",
    "dpp": "data_parallel_rpc_port",
    "dpb": "data_parallel_backend",
    "dph": "data_parallel_hybrid_lb",
    "dpe": "data_parallel_external_lb",
    "dpm": "data_parallel_multi_port_external_lb",
}
"""Short options of vLLM's command line for arguments of ``OWNED``."""
JUDGED = (
    "distributed_executor_backend",
    "kv_cache_dtype",
    "cpu_offload_gb",
    "speculative_config",
)
"""Arguments whose values are judged."""


def _engine_arguments(arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
    for given in arguments:
        name = _owned(given)
        if name is not None:
            raise PydanticCustomError(
                "owned",
                "{name} is set by {owner}; allowed: vLLM's other engine arguments",
                {"name": _as_given(name, given), "owner": OWNED[name]},
            )
        if not re.fullmatch(r"[a-z][a-z0-9_]*", given):
            raise PydanticCustomError(
                "engine_argument",
                "{name} is not an engine argument; allowed: Python names, such as enforce_eager",
                {"name": repr(given)},
            )
        whole = next((name for name in JUDGED if name.startswith(given)), given)
        if whole != given:  # its value would not be judged, and vLLM's server takes it
            raise PydanticCustomError(
                "engine_argument",
                "{name} is short for another name; allowed: {whole}",
                {"name": given, "whole": whole},
            )
    cache = arguments.get("kv_cache_dtype", "auto")
    if cache not in ("auto", *CACHE_BYTES):
        raise PydanticCustomError(
            "kv_cache_dtype",
            "kv_cache_dtype: {value}; allowed: auto, {allowed}",
            {"value": str(cache), "allowed": ", ".join(CACHE_BYTES)},
        )
    for name, value, allowed in _values(arguments):
        raise PydanticCustomError(
            "engine_value",
            "{name}: {value}; allowed: {allowed}",
            {"name": name, "value": repr(value), "allowed": allowed},
        )
    try:
        text = json.dumps(arguments, allow_nan=False)
    except ValueError:
        raise PydanticCustomError("finite", "allowed: finite numbers") from None
    if "fuse_allreduce_rms" in text:
        raise PydanticCustomError(
            "owned", "fuse_allreduce_rms is set by allreduce_backends; allowed there"
        )
    return arguments


def _owned(given: str) -> str | None:
    """The argument of ``OWNED`` that a name stands for, as vLLM's command line would read it: with
    dashes, negated, short (``-tp``), or abbreviated (``hos`` is ``host``); None if none."""
    name = given.lower().strip("-").replace("-", "_").partition(".")[0]
    name = name.removeprefix("no_")
    if name in SHORT:
        return SHORT[name]
    return next((owned for owned in OWNED if name and owned.startswith(name)), None)


def _as_given(name: str, given: str) -> str:
    return name if name == given else f"{given!r} ({name})"


def _values(arguments: dict[str, JsonValue]) -> Iterator[tuple[str, JsonValue, str]]:
    """Arguments that fit and floors are computed with, and vLLM refuses as they are, or that would
    spread the engine over other GPUs than a job has: name, value, what is allowed."""
    backend = arguments.get("distributed_executor_backend")
    if backend not in (None, "mp", "uni"):
        yield "distributed_executor_backend", backend, "mp, uni (no Ray)"
    offload = arguments.get("cpu_offload_gb")
    if offload is not None and not (_is_number(offload, int | float) and offload >= 0):  # type: ignore[operator]
        yield "cpu_offload_gb", offload, "a number of 0 or more"
    draft = arguments.get("speculative_config")
    if draft is None:
        return
    if not isinstance(draft, dict):
        yield "speculative_config", draft, "a mapping, such as method and num_speculative_tokens"
        return
    tokens = draft.get("num_speculative_tokens")
    if tokens is not None and not (_is_number(tokens, int) and tokens >= 1):  # type: ignore[operator]
        yield "speculative_config: num_speculative_tokens", tokens, "a whole number above 0"


def _is_number(value: JsonValue, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


EngineArguments = Annotated[dict[str, JsonValue], AfterValidator(_engine_arguments)]
