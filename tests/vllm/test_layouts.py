"""World sizes and pipeline stages as vLLM has them."""

from __future__ import annotations

import dataclasses
import random

import pytest

from tpsweep.config.settings import OWNED
from tpsweep.core.layout import Layout
from tpsweep.perfmodel.model_shape import stage_layers

pytestmark = pytest.mark.vllm


def random_layouts(count: int) -> list[Layout]:
    draw = random.Random(19)
    return [
        Layout(
            tp=draw.choice((1, 2, 3, 4, 8, 16)),
            pp=draw.choice((1, 1, 2, 3, 4, 8)),
            replicas=draw.choice((1, 1, 2, 4)),
        )
        for _ in range(count)
    ]


def test_the_world_has_as_many_gpus_as_vllm_starts_ranks() -> None:
    from vllm.config import ParallelConfig

    for layout in random_layouts(200):
        theirs = ParallelConfig(
            tensor_parallel_size=layout.tp,
            pipeline_parallel_size=layout.pp,
            data_parallel_size=layout.replicas,
            distributed_executor_backend="mp",
        )
        assert (layout.gpus, layout.shards) == (
            theirs.world_size_across_dp,
            theirs.world_size,
        ), layout


def test_no_argument_changes_the_world_behind_our_back() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    names = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    sizes = {n for n in names if n.endswith("parallel_size") or n.startswith("data_parallel")}
    sizes |= names & {"nnodes", "node_rank", "master_addr", "master_port"}
    # It shares out the cache of the TP ranks there are.
    assert sizes - set(OWNED) == {"decode_context_parallel_size"}


def test_stages_hold_the_layers_that_vllm_gives_them() -> None:
    from vllm.distributed.utils import get_pp_indices

    for layers in range(1, 130):
        for pp in range(1, min(layers, 17) + 1):
            theirs = [
                end - begin for begin, end in (get_pp_indices(layers, k, pp) for k in range(pp))
            ]
            assert stage_layers(layers, pp) == theirs, (layers, pp)
