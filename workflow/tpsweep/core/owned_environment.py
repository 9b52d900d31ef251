"""Environment variables that would spread an engine otherwise than its layout says.

vLLM reads them beside its arguments, so that the axes, the plan and the row would be wrong.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping

_DATA = "the axes dp and replicas"
OWNED: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("VLLM_DP_SIZE", "VLLM_DP_RANK", "VLLM_DP_RANK_LOCAL"),
            *("VLLM_DP_MASTER_IP", "VLLM_DP_MASTER_PORT"),
        ),
        _DATA,
    ),
    "VLLM_PP_LAYER_PARTITION": "the axis pp (layers as vLLM deals them out by itself)",
}
"""Variable -> what sets the same."""
GPUS = "CUDA_VISIBLE_DEVICES"
"""Which GPUs a session has: the executor's, and in a session already set."""


def owned_problem(environment: Mapping[str, str], *, of_site: bool = False) -> str | None:
    """Why an engine may not have the environment, in one line; ``of_site``: as a site file has it.

    None if it may.
    """
    owned = {**OWNED, GPUS: "the executor"} if of_site else OWNED
    for name, owner in owned.items():
        if name in environment:
            said = f"what it changes is set by {owner}; allowed: other variables"
            return f"environment: {name}: {environment[name]!r}: {said}"
    return None
