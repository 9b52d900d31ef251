"""What a site can never do is refused with one line, before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.plan.test_plan import ROOT, folder, sweep
from tests.unit.sweep.test_expand import DECODE, model
from tpsweep.cli.main import main
from tpsweep.config.load import ConfigError
from tpsweep.sweep.feasibility import refuse_times
from tpsweep.sweep.sweep import InputError, Sweep, load_sweep

__all__ = ["folder"]
LONG = {"decode": {**DECODE, "minutes": 2880}}


@pytest.mark.parametrize(
    ("site", "changes", "said"),
    [
        (
            {},
            {"models": {"8b": model("8b"), "70b": model("70b")}, "tp": [1]},
            "models: '70b': no class of site made-up that it is requested on can hold it: "
            "weights 141.1 GB / tp 1 = 141.1 GB a GPU > 77.3 GB (80 GiB x 0.9 of H100); "
            "it fits from tp 2",
        ),
        (
            {},
            {"gpus": ["H2O0", "X"]},
            "gpus: 'H2O0, X': allowed: classes of site made-up: A100, H1",
        ),
        ({}, {"tp": [1, 16]}, "tp: 16: allowed: up to 8, the GPUs of the largest node of site"),
        (
            {"qos": "day", "qos_limits": {"day": {"max_minutes": 480}}},
            {"workloads": LONG},
            "workloads.decode.minutes + engine_start_minutes: 2895: allowed: up to 478 minutes on "
            "H100 of site made-up (QOS day)",
        ),
        (
            {},  # 48 h are what the longest QOS has, but not for the engine's start, too
            {"workloads": LONG},
            "workloads.decode.minutes + engine_start_minutes: 2895: allowed: up to 2878 minutes "
            "on H100 of site made-up (QOS day, long)",
        ),
        (
            {},
            {"workloads": {"decode": {**DECODE, "engine": {"max_model_len": 200_000}}}},
            "workloads.decode.engine.max_model_len: 200000: allowed: up to the 131072 positions "
            "of 8b",
        ),
        (
            {},
            {"workloads": {"decode": {**DECODE, "input_len": [9000]}}},
            "workloads.decode.input_len + output_len: 9128: allowed: input + output up to "
            "engine.max_model_len = 8192",
        ),
    ],
)
def test_one_line_says_what_and_what_is_allowed(
    folder: Path, site: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        sweep(folder, site, **changes)
    assert said in str(caught.value).replace("config: ", "")
    assert len(str(caught.value).splitlines()) == 1


MOE = {"moe": {**model("8b"), "shape": "workflow/models/qwen3-30b-a3b.json"}}
SERVED = {"kind": "serve", "num_prompts": [200], "input_len": [64], "output_len": [8]}
SERVED |= {"request_rate": [1.0]}


def laid_out(folder: Path, **changes: Any) -> Sweep:
    """A sweep whose layouts are given by ``layouts``, or by lists."""
    made = sweep(folder, tp=[1], results=str(folder / "results"))
    data = {**json.loads(made.raw), **changes}
    if "layouts" in changes:
        del data["tp"]
    return load_sweep(data, ROOT)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        # Lists: named by the axis.
        ({"pp": [33]}, "pp: 33: 8b: the model has 32 layers; allowed: up to 32"),
        ({"ep": [True]}, "ep: True: 8b: the model has no experts; allowed: false"),
        ({"tp": [1], "ep": [True], "models": MOE}, "ep: True: moe: one GPU has all experts; allo"),
        ({"tp": [8], "dcp": [3]}, "dcp: 3: 8b: it does not divide tp 8; allowed: 1, 2, 4, 8"),
        ({"tp": [8], "dcp": [2]}, "dcp: 2: 8b: it needs 2 ranks with the same of the model's 8 KV"),
        (
            {"workloads": {"s": {**SERVED, "replicas": [2]}}, "models": MOE},
            "replicas: 2: moe: vLLM joins the experts of data-parallel engines; allowed: dp 2",
        ),
        (
            {"workloads": {"s": {**SERVED, "dp": [2]}}},
            "dp: 2: 8b: the model has no experts to join; allowed: replicas 2",
        ),
        # Entries of layouts: each is meant.
        (
            {"layouts": [{"tp": 2}, {"tp": 2, "ep": True}]},
            "layouts: 'TP=2 + EP': 8b: ep true: the model has no experts; allowed: false",
        ),
        (
            {"layouts": [{"tp": 1}, {"tp": 1, "ep": True}], "models": MOE},
            "layouts: 'TP=1 + EP': moe: ep true: one GPU has all experts; allowed: with tp or dp",
        ),
    ],
)
def test_a_layout_that_no_model_can_have_is_a_mistake(
    folder: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        laid_out(folder, **changes)
    assert str(caught.value).startswith(f"config: {said}")
    assert "\n" not in str(caught.value)


def test_layouts_of_which_some_run_are_no_mistake(folder: Path) -> None:
    """Corners of a product, a layout that another model can have, and one that is excluded."""
    product = sweep(folder, tp=[1, 2], ep=[False, True], models=MOE)
    assert sum(item.status == "infeasible" for item in product.planned) == 2  # TP=1 with EP
    layouts = [{"tp": 2}, {"tp": 2, "ep": True}]
    both = {"8b": model("8b"), **MOE}
    assert len(laid_out(folder, layouts=layouts, models=both).jobs) == 6
    exclude = [{"ep": True, "reason": "no experts"}]
    assert len(laid_out(folder, layouts=layouts, exclude=exclude).jobs) == 2


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("VLLM_DP_SIZE", "the axes dp and replicas"),
        ("VLLM_PP_LAYER_PARTITION", "the axis pp"),
        ("CUDA_VISIBLE_DEVICES", "the executor"),
    ],
)
def test_a_site_changes_no_layout_behind_our_back(folder: Path, name: str, owner: str) -> None:
    with pytest.raises(InputError) as caught:
        sweep(folder, {"environment": {name: "2"}})
    said = f"environment: {name}: '2': what it changes is set by {owner}"
    assert said in str(caught.value)
    assert len(sweep(folder, {"environment": {"VLLM_LOGGING_LEVEL": "DEBUG"}}).jobs) == 4


def test_an_executor_of_one_gpu_runs_no_more(folder: Path) -> None:
    variants = {"one": {"distributed_executor_backend": "uni"}}
    found = {i.cell.engine.tp: i.reason for i in sweep(folder, variants=variants).planned}
    assert found[1] is None
    assert found[2] == (
        "variant one: distributed_executor_backend uni: it runs one GPU, and an engine of TP=2 "
        "has 2; allowed: mp"
    )


def test_corners_of_a_matrix_are_no_mistake(folder: Path) -> None:
    both = {"8b": model("8b"), "70b": model("70b")}
    sweep(folder, models=both, tp=[1, 2])  # 70B at TP=1 is a hole
    sweep(folder, gpus=["H100", "A100"], tp=[1, 4])  # four GPUs on a node of two
    sweep(folder, gpus=["H100", "B200"])  # a class that another site has
    sweep(folder, tp=[1, 16], exclude=[{"tp": 16, "reason": "later"}])
    sweep(folder, {"max_minutes": None, "qos": None, "qos_limits": {}}, workloads=LONG)


def test_the_qos_that_is_asked_for_counts(folder: Path) -> None:
    made = sweep(folder, workloads={"decode": {**DECODE, "minutes": 600}})
    refuse_times(made.config, made.site.with_qos("long"), made.planned)
    with pytest.raises(ConfigError, match=r"615.*up to 478 minutes on H100.*QOS day"):
        refuse_times(made.config, made.site, made.planned)


def test_the_command_refuses_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = sweep(folder).raw  # JSON, and so YAML
    config = folder / "config.yaml"
    text = text.replace('"kind":"latency"', '"kind":"latency","minutes":2880')
    config.write_text(text.replace("workflow/models", str(ROOT / "workflow" / "models")))
    site = str(folder / "site.yaml")
    words = ["plan", "--site", site, "--configfile", str(config)]
    assert main(words) == 2
    said = capsys.readouterr()
    assert not said.out and len(said.err.splitlines()) == 1
    assert "workloads.decode.minutes + engine_start_minutes: 2895" in said.err
