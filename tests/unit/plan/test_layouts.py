"""Plans of layouts: three models on nodes of eight H100s and on nodes of two A100s."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.plan.test_plan import SITE
from tests.unit.sweep.test_expand import ONLINE, ROOT, model
from tpsweep.plan.plan import make_plan
from tpsweep.plan.text import text
from tpsweep.sweep.sweep import Sweep, load_sweep

LAYOUTS: dict[str, dict[str, Any]] = {
    "TP=1": {"tp": 1},
    "TP=2": {"tp": 2},
    "TP=1 x PP=2": {"pp": 2},
    "TP=2 + EP": {"tp": 2, "ep": True},
    "TP=1 x DP=2 (experts joined)": {"dp": 2},
    "TP=1 x 2 replicas": {"replicas": 2},
    "TP=4 x PP=2": {"tp": 4, "pp": 2},
    "TP=8 + EP": {"tp": 8, "ep": True},
    "TP=2 x DP=4 (experts joined) + EP": {"tp": 2, "dp": 4, "ep": True},
    "TP=8 + DCP=2": {"tp": 8, "dcp": 2},
    "TP=4 x 2 replicas": {"tp": 4, "replicas": 2},
}
EIGHT = list(LAYOUTS)[6:]
"""Those of eight GPUs."""
NOT = {
    "70b": {
        "TP=1": "weights 141.1 GB / tp 1 = 141.1 GB a GPU > 77.3 GB",
        "TP=2 + EP": "ep true: the model has no experts",
        "TP=1 x DP=2 (experts joined)": "dp 2: the model has no experts to join; allowed: replica",
        "TP=1 x 2 replicas": "weights 141.1 GB / tp 1 = 141.1 GB a GPU > 77.3 GB",
        "TP=8 + EP": "ep true: the model has no experts",
        "TP=2 x DP=4 (experts joined) + EP": "ep true: the model has no experts",
        "TP=8 + DCP=2": "the model's 8 KV heads; allowed: from tp 16",
    },
    "mixtral": {
        "TP=1": "weights 93.4 GB / tp 1 = 93.4 GB a GPU > 77.3 GB",
        "TP=1 x 2 replicas": "vLLM joins the experts of data-parallel engines; allowed: dp 2",
        "TP=8 + DCP=2": "the model's 8 KV heads; allowed: from tp 16",
        "TP=4 x 2 replicas": "vLLM joins the experts of data-parallel engines; allowed: dp 2",
    },
    # 61 GB fit on one card, and 4 KV heads make two pairs of ranks out of eight.
    "qwen3": {
        "TP=1 x 2 replicas": "vLLM joins the experts of data-parallel engines; allowed: dp 2",
        "TP=4 x 2 replicas": "vLLM joins the experts of data-parallel engines; allowed: dp 2",
    },
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = tmp_path_factory.mktemp("plan")
    published = json.loads((ROOT / "tests/data/published_shapes.json").read_text("utf-8"))
    mixtral: Path = folder / "mixtral.json"
    mixtral.write_text(json.dumps(published["mixtral-8x7b"]["config"]))
    (folder / "site.yaml").write_text(yaml.safe_dump(SITE))
    shapes = {"mixtral": str(mixtral), "qwen3": "workflow/models/qwen3-30b-a3b.json"}
    config = {
        "vllm_version": "0.32.0",
        "results": str(folder / "results"),
        "site": str(folder / "site.yaml"),
        "models": {"70b": model("70b")}
        | {n: model("8b") | {"shape": s} for n, s in shapes.items()},
        "gpus": ["H100", "A100"],
        "layouts": list(LAYOUTS.values()),
        "workloads": {"serve": ONLINE},
    }
    return load_sweep(config, ROOT)


@pytest.mark.parametrize("name", NOT)
def test_what_each_layout_can_hold(sweep: Sweep, name: str) -> None:
    found: dict[str, dict[str, str | None]] = {"H100": {}, "A100": {}}
    for item in sweep.planned:
        if item.cell.engine.model.name == name:
            found[item.cell.engine.gpu][item.cell.engine.label] = item.reason
    assert list(found["H100"]) == list(LAYOUTS)
    for gpu, reasons in found.items():
        for label, reason in reasons.items():
            if gpu == "A100" and label in EIGHT:
                continue  # more than a node of two
            if said := NOT[name].get(label):
                assert said in str(reason), (gpu, label)
            else:
                assert reason is None, (gpu, label)


def test_the_plan_names_joined_experts_and_expects_no_time_of_them(sweep: Sweep) -> None:
    plan = text(make_plan(sweep))
    memory = {tuple(line.split()[:3]): line for line in plan.splitlines() if " x DP=2 (" in line}
    # 3.2 GB beside the experts and half of 90.2 GB
    assert " 48.3 " in memory["H100", "mixtral", "TP=1"]
    said = "no constants for the tokens that engines with joined experts exchange at each layer"
    assert f"6 cells: {said}" in plan
    assert "1 cells: no constants for decode context parallelism" in plan
