"""Layouts that are larger than a node: what is planned, asked for, expected and refused."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from snakemake_executor_plugin_submitit.site import load_site
from tests.unit.cells import engine
from tests.unit.sweep.test_expand import BASE, DECODE, model
from tpsweep.cli.main import main
from tpsweep.config.load import load_config
from tpsweep.core.cell import Engine
from tpsweep.core.preflight_record import Request
from tpsweep.plan.plan import make_plan
from tpsweep.plan.scripts import make_scripts
from tpsweep.plan.text import text
from tpsweep.sweep.expand import Planned, expand
from tpsweep.sweep.sweep import InputError, Sweep, load_sweep

ROOT = Path(__file__).parents[3]
GRES = {"gres": "gpu:a100:{n}"}
A100 = {"card": "NVIDIA A100 80GB PCIe", "memory_gib": 80, "per_node": 2, "cpus_per_gpu": 8}
SITE: dict[str, Any] = {
    "name": "made-up",
    "cluster": "slurm",
    "max_minutes": 480,
    "gpus": {"A100": {**A100, "nodes": 2, "slurm": GRES}, "one": {**A100, "slurm": GRES}},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sweep(folder: Path, site: dict[str, Any] = SITE, **changes: Any) -> Sweep:
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump(site))
    base = {"gpus": ["A100", "one"], "models": {"70b": model("70b")}, "tp": [4]}
    data = {**copy.deepcopy(BASE), **base, **changes, "results": str(folder / "results")}
    return load_sweep({**data, "site": str(path)}, ROOT)


def matrix(folder: Path, site: dict[str, Any] = SITE, **changes: Any) -> list[Planned]:
    """Every cell, of a sweep that may have none that runs."""
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump(site))
    base = {"gpus": ["A100"], "models": {"8b": model("8b")}, "tp": [4]}
    return expand(load_config({**copy.deepcopy(BASE), **base, **changes}, ROOT), load_site(path))


def reasons(planned: list[Planned]) -> dict[tuple[str, int, int], str | None]:
    """By class, TP and PP."""
    return {
        (one.cell.engine.gpu, one.cell.engine.tp, one.cell.engine.pp): one.reason for one in planned
    }


def test_a_layout_takes_the_nodes_that_it_needs_where_the_class_allows_it(folder: Path) -> None:
    made = sweep(folder)
    assert reasons(made.planned) == {
        ("A100", 4, 1): None,
        ("one", 4, 1): "tp 4 x replicas 1 = 4 GPUs > 2 on a node of one",
    }
    (job, *_) = made.jobs.values()
    assert (job.gpus, job.nodes, job.cell.engine.gpus_per_node) == (4, 2, 2)
    assert made.preflights_to_run(made.jobs) == {"A100x4"}
    asked = made.preflight("A100x4")
    assert (asked.gpus, asked.nodes, asked.on_node) == (4, 2, 2)
    assert Request.from_json(asked.to_json()) == asked


def test_what_fits_a_node_is_as_before(folder: Path) -> None:
    (first, *_) = (one.cell for one in sweep(folder, tp=[2], models={"8b": model("8b")}).planned)
    assert first.engine.nodes == 1
    assert (
        "nodes" not in first.engine.identity()
        and "nodes" not in json.loads(first.to_json())["engine"]
    )
    spanning = engine(nodes=2)
    assert Engine.from_json(spanning.to_json()) == spanning
    assert spanning.session != engine().session
    assert Engine.from_json(engine().to_json()) == engine()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"tp": [1], "pp": [3]},
            "tp 1 x pp 3 x replicas 1 = 3 GPUs: no equal parts on 2 nodes of A100; allowed: a "
            "multiple of 2",
        ),
        (
            {"tp": [4], "pp": [2]},
            "tp 4 x pp 2 x replicas 1 = 8 GPUs > 4 on 2 nodes of A100, the most for a session",
        ),
        (
            {"allreduce_backends": ["custom"]},
            "allreduce_backend custom: on 2 nodes of A100 a TP group is on several; "
            "allowed: auto, nccl",
        ),
        ({"tp": [2], "pp": [2], "allreduce_backends": ["custom"]}, None),
        ({"allreduce_backends": ["nccl"]}, None),
        (
            {"workloads": {"c": {**DECODE, "kind": "capture", "batch": [1]}}},
            "capture on 2 nodes: a profiler sees one node's ranks",
        ),
    ],
)
def test_what_cannot_span_nodes(folder: Path, changes: dict[str, Any], reason: str | None) -> None:
    assert {one.reason for one in matrix(folder, **changes)} == {reason}


@pytest.mark.parametrize(
    ("axis", "shape", "said"),
    [
        ("replicas", "workflow/models/llama-3.1-8b.json", "replicas 4 = 4 GPUs > 2: replicas"),
        (
            "dp",
            "workflow/models/qwen3-30b-a3b.json",
            "dp 4 x replicas 1 = 4 GPUs > 2: engines with joined experts",
        ),
    ],
)
def test_engines_side_by_side_share_a_node(folder: Path, axis: str, shape: str, said: str) -> None:
    serve = {"kind": "serve", "num_prompts": [8], "input_len": [64], "output_len": [8]}
    serve |= {"request_rate": [1.0], axis: [4]}
    models = {"one": {**model("8b"), "shape": shape}}
    planned = matrix(folder, tp=[1], models=models, workloads={"s": serve})
    whole = f"tp 1 x {said} share a node of A100; allowed: up to 2 GPUs"
    assert {one.reason for one in planned} == {whole}


def test_only_an_engine_of_one_start_serves_from_several_nodes(folder: Path) -> None:
    serve = {"kind": "serve", "num_prompts": [8], "input_len": [64], "output_len": [8]}
    serve |= {"request_rate": [1.0]}
    found = [
        {one.reason for one in matrix(folder, workloads={"s": serve}, one_start=one_start)}
        for one_start in (True, False)
    ]
    assert found == [{None}, {"2 nodes of A100: only with one_start: true"}]


def test_a_tp_that_no_session_can_hold_is_a_mistake(folder: Path) -> None:
    with pytest.raises(InputError, match="tp: 8: allowed: up to 4, the GPUs of 2 nodes of site"):
        sweep(folder, tp=[8])
    local = {**SITE, "cluster": "local"}
    for key in ("A100", "one"):
        local = {**local, "gpus": {**local["gpus"], key: {**A100, "nodes": 2}}}
    with pytest.raises(InputError, match=r"gpus.A100.nodes: more than 1 only with cluster: slurm"):
        sweep(folder, local)


def test_memory_is_that_of_all_nodes(folder: Path) -> None:
    small = {**SITE, "gpus": {"A100": {**A100, "memory_gib": 60, "nodes": 2}}}
    found = reasons(matrix(folder, small, models={"70b": model("70b")}, tp=[2, 4]))
    assert found["A100", 4, 1] is None
    assert "fits from tp 4" in str(found["A100", 2, 1])


def test_the_plan_says_nodes_and_expects_nothing_of_them(folder: Path) -> None:
    made = sweep(folder, gpus=["A100"], runs=2)
    plan = make_plan(made)
    (one,) = plan.cost.classes
    assert (one.gpus, one.nodes, one.sessions) == (4, 2, 2)
    assert plan.as_json()["cost"]["classes"][0]["nodes"] == 2
    said = text(plan)
    assert re.search(r"A100 +4 on 2 nodes", said) and "TP=4 on 2 nodes" in said
    assert "no constants for the network between 2 nodes" in said
    assert {found.tpot_ms for _, found in plan.expected} == {None}


def test_the_scripts_ask_for_them(folder: Path) -> None:
    scripts = make_scripts(sweep(folder, gpus=["A100"]), {})
    ((cells, (session,)),) = scripts.cells
    lines = set(cells.splitlines())
    assert {
        "#SBATCH --nodes=2",
        "#SBATCH --gres=gpu:a100:2",
        "#SBATCH --ntasks-per-node=1",
    } <= lines
    assert "--kill-on-bad-exit=1" in cells and "#SBATCH --cpus-per-task=16" in lines
    assert "4 x A100 on 2 nodes" in str(session)
    ((preflight, _),) = scripts.preflights
    assert {"#SBATCH --nodes=1", "#SBATCH --gres=gpu:a100:2"} <= set(preflight.splitlines())


def test_explain_says_what_passes_between_nodes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "site.yaml").write_text(yaml.safe_dump(SITE))
    shape = str(ROOT / "workflow/models/llama-3.1-8b.json")
    words = ["plan", "--explain", shape, "--tp", "4", "--site", "site.yaml"]
    assert main(words) == 0
    said = capsys.readouterr().out
    # 65 all-reduces of a row of 4096 in two bytes; a ring sends 2 x 3/4 of each
    assert f"by a ring each node sends {65 * 4096 * 2 * 3 // 2:,} bytes" in said
    assert "- one: 2, with 2 of 2 GPUs each: not planned, its site file allows 1 (nodes)." in said
    assert main([*words, "--json"]) == 0
    spreads = json.loads(capsys.readouterr().out)["nodes"]
    assert [(one["gpu"], one["nodes"], bool(one["problem"])) for one in spreads] == [
        ("A100", 2, False),
        ("one", 2, True),
    ]
