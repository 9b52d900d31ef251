"""World sizes and pipeline stages as vLLM has them."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.unit import cells
from tpsweep.config.engine_arguments import OWNED
from tpsweep.core.errors import StartError
from tpsweep.core.layout import Layout
from tpsweep.engine.api_server import Server
from tpsweep.perfmodel.layout_problem import dcp_problem
from tpsweep.perfmodel.model_shape import Shape, stage_layers

pytestmark = pytest.mark.vllm


def random_layouts(count: int) -> list[Layout]:
    draw = random.Random(19)
    found = []
    for _ in range(count):
        joined = draw.random() < 0.5
        data = draw.choice((1, 1, 2, 4))
        found.append(
            Layout(
                tp=draw.choice((1, 2, 4, 5, 8, 16)),
                pp=draw.choice((1, 1, 2, 3, 4, 8)),
                ep=draw.random() < 0.3,
                dcp=draw.choice((1, 1, 2, 4, 8)),
                dp=data if joined else 1,
                replicas=1 if joined else data,
            )
        )
    return found


ATTENTION = {"vocab_size": 512, "max_position_embeddings": 64, "num_hidden_layers": 8}
DENSE = {
    **ATTENTION,
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 192,
    "num_attention_heads": 24,
    "num_key_value_heads": 4,
    "intermediate_size": 192,
}
EXPERTS = {
    **ATTENTION,
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "hidden_size": 192,
    "num_attention_heads": 24,
    "num_key_value_heads": 4,
    "intermediate_size": 192,
    "moe_intermediate_size": 192,
    "num_experts": 64,
    "num_experts_per_tok": 2,
    "head_dim": 4,
}


@pytest.fixture(params=[DENSE, EXPERTS], ids=["dense", "experts"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Shape]:
    (tmp_path / "config.json").write_text(json.dumps(request.param))
    return tmp_path, Shape.from_config(request.param)


def test_vllm_starts_as_many_ranks_and_refuses_what_we_refuse(model: tuple[Path, Shape]) -> None:
    """Of the sizes alone (``ParallelConfig``), and with the model's heads and experts."""
    from vllm.config import ModelConfig, ParallelConfig

    folder, shape = model
    theirs = ModelConfig(str(folder), skip_tokenizer_init=True, dtype="bfloat16")
    accepted = 0
    for layout in random_layouts(200):
        # Ours alone: they have one name for both, and no wish that experts be what is joined.
        ours = (
            shape.tp_problem(layout.tp, expert_split=layout.expert_split)
            or dcp_problem(layout, shape)
            or ("ep true: no experts" if layout.ep and not shape.experts else None)
        )
        try:
            config = ParallelConfig(
                tensor_parallel_size=layout.tp,
                pipeline_parallel_size=layout.pp,
                data_parallel_size=layout.engines,
                decode_context_parallel_size=layout.dcp,
                enable_expert_parallel=layout.ep,
                distributed_executor_backend="mp",
            )
            theirs.verify_with_parallel_config(config)
        except ValueError as error:
            assert ours, (layout, error)
            continue
        assert ours is None, (layout, ours)
        accepted += 1
        world = config.world_size_across_dp, config.world_size
        assert world == (layout.gpus, layout.tp * layout.pp), layout
    assert 30 < accepted < 170  # both kinds are among them


@pytest.mark.parametrize("layout", [Layout(tp=2, dp=3), Layout(tp=2, dp=2, ep=True)])
def test_experts_are_spread_over_the_ranks_that_vllm_spreads_them_over(layout: Layout) -> None:
    from types import SimpleNamespace
    from unittest.mock import patch

    from vllm.model_executor.layers.fused_moe import config as fused

    asked: Any = SimpleNamespace(
        enable_expert_parallel=layout.ep,
        all2all_backend="allgather_reducescatter",
        enable_eplb=False,
    )
    with (
        patch.object(fused, "get_dp_group", lambda: SimpleNamespace(rank_in_group=0)),
        patch.object(fused, "get_tensor_model_parallel_rank", lambda: 0),
    ):
        found = fused.FusedMoEParallelConfig.make(layout.tp, 1, layout.dp, 1, asked)
    assert found.tp_size == layout.expert_split
    assert found.tp_size * found.ep_size == layout.expert_ranks


def test_a_model_that_no_plan_knew_is_checked_when_its_server_starts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(EXPERTS))
    server = Server.__new__(Server)
    server.engine = cells.engine(tp=1, replicas=2, model=cells.model(path=str(tmp_path)))
    server.arguments = {}
    with pytest.raises(StartError, match=r"replicas 2: vLLM joins the experts of .*allowed: dp 2"):
        server._read_model("")


def test_no_argument_changes_the_world_behind_our_back() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    names = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    sizes = {n for n in names if n.endswith("parallel_size") or n.startswith("data_parallel")}
    sizes |= names & {"nnodes", "node_rank", "master_addr", "master_port"}
    assert sizes <= set(OWNED)


def test_stages_hold_the_layers_that_vllm_gives_them() -> None:
    from vllm.distributed.utils import get_pp_indices

    for layers in range(1, 130):
        for pp in range(1, min(layers, 17) + 1):
            theirs = [
                end - begin for begin, end in (get_pp_indices(layers, k, pp) for k in range(pp))
            ]
            assert stage_layers(layers, pp) == theirs, (layers, pp)
