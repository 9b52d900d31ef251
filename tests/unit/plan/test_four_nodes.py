"""Plans of eight GPUs on four nodes of two A100s, by hand: GPUs, nodes, memory, links."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.sweep.test_expand import DECODE, ROOT, model
from tpsweep.cli.main import main
from tpsweep.plan.plan import Plan, make_plan
from tpsweep.plan.text import text
from tpsweep.sweep.sweep import InputError, Sweep, load_sweep

A100 = {"card": "NVIDIA A100 80GB PCIe", "memory_gib": 80, "per_node": 2, "cpus_per_gpu": 8}
SITE: dict[str, Any] = {
    "name": "made-up",
    "cluster": "slurm",
    "max_minutes": 480,
    "gpus": {"A100": {**A100, "nodes": 4, "slurm": {"gres": "gpu:a100:{n}"}}},
}
TP8, TP4_PP2, TP2_PP4, PP8 = {"tp": 8}, {"tp": 4, "pp": 2}, {"tp": 2, "pp": 4}, {"pp": 8}
BY_HAND: dict[tuple[str, str], float | str] = {
    # Bytes of the fullest GPU, with its even share of all and what every rank has again (norms,
    # routers, on TP=8 Qwen3's KV heads); parameters as in tests/unit/perfmodel/test_layouts.py.
    # 70,553,706,496 parameters x 2 / 8
    ("70b", "TP=8"): 17_638_426_624 + 161 * 8192 * 7 // 4,
    # Last stage: (40 x 855,654,400 + 1,050,673,152 + 8192) x 2 / 4
    ("70b", "TP=4 x PP=2"): 17_638_428_672 + 81 * 8192 * 3 // 2,
    # (20 x 855,654,400 + 1,050,673,152 + 8192) x 2 / 2
    ("70b", "TP=2 x PP=4"): 18_163_769_344 + 41 * 8192,
    # (10 x 855,654,400 + 1,050,673,152 + 8192) x 2
    ("70b", "TP=1 x PP=8"): 19_214_450_688,
    ("70b", "TP=8 + EP"): "70b: ep true: the model has no experts; allowed: false",
    ("70b", "TP=2 x PP=4 + EP"): "70b: ep true: the model has no experts; allowed: false",
    # 46,702,792,704 x 2 / 8, whole experts or parts of them
    ("mixtral", "TP=8"): 11_675_698_176 + 1_314_816 * 7 // 4,
    ("mixtral", "TP=8 + EP"): 11_675_698_176 + 1_314_816 * 7 // 4,
    # (16 x (8 x 176,160,768 + 41,984,000) + 131,072,000 + 4096) x 2 / 4
    ("mixtral", "TP=4 x PP=2"): 11_675_699_200 + (16 * 40_960 + 4096) * 3 // 2,
    # (8 x (8 x 176,160,768 + 41,984,000) + 131,072,000 + 4096) x 2 / 2: 4 experts on each of two
    ("mixtral", "TP=2 x PP=4"): 11_741_237_248 + 8 * 40_960 + 4096,
    ("mixtral", "TP=2 x PP=4 + EP"): 11_741_237_248 + 8 * 40_960 + 4096,
    # (4 x (8 x 176,160,768 + 41,984,000) + 131,072,000 + 4096) x 2
    ("mixtral", "TP=1 x PP=8"): 11_872_313_344,
    # 30,532,122,624 x 2 / 8: parts of 128 experts a layer, or 16 of them
    ("qwen3", "TP=8"): 7_633_030_656 + 22_389_248 + 25_165_824,
    ("qwen3", "TP=8 + EP"): 7_633_030_656 + 22_389_248 + 25_165_824,
    # (24 x (128 x 4,718,592 + 19,140,864) + 311,164,928 + 2048) x 2 / 4
    ("qwen3", "TP=4 x PP=2"): 7_633_031_168 + (24 * 266_496 + 2048) * 3 // 2,
    # (12 x (128 x 4,718,592 + 19,140,864) + 311,164,928 + 2048) x 2 / 2
    ("qwen3", "TP=2 x PP=4"): 7_788_614_656 + 12 * 266_496 + 2048,
    ("qwen3", "TP=2 x PP=4 + EP"): 7_788_614_656 + 12 * 266_496 + 2048,
    # (6 x (128 x 4,718,592 + 19,140,864) + 311,164,928 + 2048) x 2
    ("qwen3", "TP=1 x PP=8"): 8_099_781_632,
}
"""By model and layout: bytes of weights, or why vLLM refuses it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("four")
    published = json.loads((ROOT / "tests/data/published_shapes.json").read_text("utf-8"))
    (made / "mixtral.json").write_text(json.dumps(published["mixtral-8x7b"]["config"]))
    (made / "site.yaml").write_text(yaml.safe_dump(SITE))
    return made


def planned(folder: Path, site: str, layouts: list[dict[str, Any]]) -> Sweep:
    shapes = {
        "mixtral": str(folder / "mixtral.json"),
        "qwen3": "workflow/models/qwen3-30b-a3b.json",
    }
    config = {
        "vllm_version": "0.32.0",
        "results": str(folder / "results"),
        "site": str(folder / site),
        "models": {"70b": model("70b")}
        | {n: model("8b") | {"shape": s} for n, s in shapes.items()},
        "gpus": ["A100"],
        "layouts": layouts,
        "workloads": {"decode": {**DECODE, "batch": [8]}},
    }
    return load_sweep(config, ROOT)


@pytest.fixture(scope="module")
def sweep(folder: Path) -> Sweep:
    whole_experts = [{**TP8, "ep": True}, {**TP2_PP4, "ep": True}]
    return planned(folder, "site.yaml", [TP8, TP4_PP2, TP2_PP4, PP8, *whole_experts])


@pytest.fixture(scope="module")
def plan(sweep: Sweep) -> Plan:
    return make_plan(sweep)


def test_every_layout_takes_four_nodes_or_is_refused_by_vllm(sweep: Sweep) -> None:
    assert len(sweep.planned) == len(BY_HAND)
    for item in sweep.planned:
        engine = item.cell.engine
        by_hand = BY_HAND[engine.model.name, engine.label]
        assert item.reason == (by_hand if isinstance(by_hand, str) else None), engine.label
        assert (engine.gpus, engine.nodes, engine.gpus_per_node) == (8, 4, 2)
        # A TP group of two is on one node: its all-reduces stay there.
        assert engine.tp_spans_nodes == (engine.tp > 2)


def test_memory_of_a_gpu_by_hand(plan: Plan) -> None:
    found = {(line.model, line.layout): line.weights_gb * 1e9 for line in plan.memory}
    assert found == pytest.approx({k: v for k, v in BY_HAND.items() if not isinstance(v, str)})


def test_no_time_is_expected_over_a_network(plan: Plan) -> None:
    """No constant is of links between nodes: nothing is guessed, and the plan says so."""
    said = text(plan)
    assert f"{len(BY_HAND) - 2} cells: no constants for the network between 4 nodes" in said
    assert "8 on 4 nodes" in said


@pytest.mark.parametrize(
    ("words", "between"),
    [
        (["--tp", "8"], "Between nodes NCCL's all-reduces cross the network"),
        (["--tp", "2", "--pp", "4"], "hidden state, residual | to stage 1"),
    ],
)
def test_what_passes_between_the_nodes(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], between: str
) -> None:
    shape = str(ROOT / "workflow/models/llama-3.1-70b.json")
    assert main(["plan", "--explain", shape, *words, "--site", str(folder / "site.yaml")]) == 0
    said = capsys.readouterr().out
    assert "A100: 4, with 2 of 2 GPUs each" in said
    assert " ".join(between.split()) in " ".join(said.split())


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (TP8, "tp: 8: allowed: up to 6, the GPUs of 3 nodes of site made-up"),
        (PP8, "tp 1 x pp 8 x replicas 1 = 8 GPUs > 6 on 3 nodes of A100, the most for a session"),
    ],
)
def test_fewer_nodes_than_a_layout_needs_are_named(
    folder: Path, layout: dict[str, Any], said: str
) -> None:
    site = {**SITE, "gpus": {"A100": {**SITE["gpus"]["A100"], "nodes": 3}}}
    (folder / "three.yaml").write_text(yaml.safe_dump(site))
    with pytest.raises(InputError, match=said):
        planned(folder, "three.yaml", [layout])
