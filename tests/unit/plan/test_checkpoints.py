"""What a sweep says of a checkpoint before anything runs: refused with the TPs that would do,
planned, or planned with one honest line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.perfmodel.test_checkpoints import DENSE, MOE, SIDECAR
from tests.unit.plan.test_plan import sweep
from tests.unit.sweep.test_expand import DECODE, model
from tpsweep.cli.main import main
from tpsweep.engine.vllm_api import llm_arguments
from tpsweep.perfmodel.floors import floors_of
from tpsweep.plan.plan import make_plan
from tpsweep.plan.text import text
from tpsweep.sweep.sweep import InputError

PINS = {"max_model_len": 2048}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where relative results lie: not in the repository."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(place: Path, config: dict[str, Any], **changes: Any) -> Any:
    """A sweep of a model whose config.json has this content."""
    (place / "model").mkdir(exist_ok=True)
    (place / "model" / "config.json").write_text(json.dumps(config))
    entry = {"path": str(place / "model"), "dtype": "bfloat16", "weights": "dummy"}
    data = {
        "models": {"mine": entry},
        "workloads": {"decode": {**DECODE, "engine": PINS}},
        **changes,
    }
    return sweep(place, **data)


FP8_BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}


@pytest.mark.parametrize(
    ("config", "tp", "said"),
    [
        (
            {**MOE, "quantization_config": FP8_BLOCKS},
            2,
            "tp: 2: each rank's 320 outputs of model.layers.0.mlp.experts.0.gate_proj are no"
            " multiple of the block of 128 (mine); allowed: 1",
        ),
        (
            {
                **DENSE,
                "intermediate_size": 2816,
                "quantization_config": {
                    "quant_method": "awq",
                    "bits": 4,
                    "group_size": 128,
                    "zero_point": True,
                },
            },
            4,
            "tp: 4: each rank's 704 inputs of model.layers.0.mlp.down_proj are no multiple of the"
            " group of 128 (mine); allowed: 1, 2",
        ),
        (DENSE, 3, "tp: 3: it does not divide the model's 8 attention heads (mine); allowed: 1, 2"),
        (
            {**DENSE, "intermediate_size": 4100},
            8,
            "tp: 8: it does not divide the 4100 outputs of model.layers.0.mlp.gate_proj",
        ),
    ],
)
def test_a_tp_that_vllm_cannot_load_is_refused_with_those_that_do(
    place: Path,
    config: dict[str, Any],
    tp: int,
    said: str,
) -> None:
    with pytest.raises(InputError) as caught:
        planned(place, config, tp=[1, tp])
    assert said in str(caught.value)
    left = {"tp": tp, "reason": "vLLM refuses it"}
    assert len(planned(place, config, tp=[1, tp], exclude=[left]).jobs) == 2


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({**DENSE, "model_type": "gpt2"}, "mine: model_type: 'gpt2'; known: llama, mistral"),
        (
            {**DENSE, "quantization_config": {"quant_method": "bitsandbytes"}},
            "mine: quantization_config: quant_method: 'bitsandbytes'; known: auto_awq",
        ),
    ],
)
def test_what_is_not_known_is_planned_with_one_line(
    place: Path,
    config: dict[str, Any],
    said: str,
) -> None:
    made = planned(place, config, tp=[1, 8])
    plan = make_plan(made)
    assert plan.cells == {"planned": 4}
    (line,) = plan.unchecked
    assert line.startswith(said)
    assert line.endswith(": fit and TP are not checked, no floors")
    assert f"Planned unchecked:\n  {said}" in text(plan)
    assert plan.as_json()["unchecked"] == [line]
    notes = {expected.note for _, expected in plan.expected}
    assert {note.partition(": ")[0] for note in notes if note} == {
        "the model's bytes cannot be counted"
    }
    floors = floors_of(made.planned[0].cell, made.config.shapes["mine"])
    assert floors.decode_ms is None and "architecture or quantization" in str(floors.note)


def test_a_shape_alone_may_be_of_an_unknown_architecture(
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (place / "shape.json").write_text(json.dumps({**DENSE, "model_type": "gpt2"}))
    made = sweep(place, models={"mine": model("8b", shape=str(place / "shape.json"))})
    assert "gpt2" in made.config.unknown["mine"]
    assert main(["model", str(place / "shape.json"), str(place / "made")]) == 0
    written = json.loads((place / "made" / "tokenizer_config.json").read_text("utf-8"))
    assert written["model_max_length"] == 4096
    (place / "shape.json").write_text("{}")
    with pytest.raises(InputError, match="no shape: model_type: missing"):
        sweep(place, models={"mine": model("8b", shape=str(place / "shape.json"))})


def test_a_quantized_checkpoint_counts_as_it_is_stored(place: Path) -> None:
    plain = planned(place, DENSE)
    before = {item.cell.cell_id for item in plain.planned}
    (place / "model" / "hf_quant_config.json").write_text(json.dumps(SIDECAR))
    packed = planned(place, DENSE)
    assert before.isdisjoint(item.cell.cell_id for item in packed.planned)
    whole, four = (make_plan(made).memory[0].weights_gb for made in (plain, packed))
    linear = 8 * (1024 * 3072 + 3 * 1024 * 4096)
    assert whole - four == pytest.approx(linear * (2 - 4.5 / 8) / 1e9)
    (note,) = {expected.note for _, expected in make_plan(packed).expected}
    assert note == "no constants for modelopt weights"


def test_what_vllm_loads_as_one_must_be_stored_alike(place: Path) -> None:
    left_out = ["model.layers.3.self_attn.q_proj", "model.layers.3.self_attn.k_proj"]
    scheme = {"quant_method": "fp8", "ignored_layers": left_out}
    with pytest.raises(InputError, match="models") as caught:
        planned(place, {**DENSE, "quantization_config": scheme})
    assert (
        "model.layers.3.self_attn.q_proj and model.layers.3.self_attn.v_proj are not stored alike,"
        " and vLLM loads them as one"
    ) in str(caught.value)


def test_a_scaled_context_is_taken(place: Path) -> None:
    scaled = {**DENSE, "rope_scaling": {"type": "linear", "factor": 4.0}}
    long = {**DECODE, "engine": {"max_model_len": 16384}}
    assert planned(place, scaled, workloads={"decode": long}).jobs
    with pytest.raises(InputError, match="16385: allowed: up to the 16384 positions of mine"):
        longer = {**DECODE, "engine": {"max_model_len": 16385}}
        planned(place, scaled, workloads={"decode": longer})
    # What a variant makes of it counts for the variant.
    changed = {"long": {"hf_overrides": {"rope_scaling": {"type": "linear", "factor": 4.0}}}}
    assert planned(place, DENSE, workloads={"decode": long}, variants=changed).jobs


def test_precision_is_an_axis(place: Path) -> None:
    plain = planned(place, DENSE)
    made = planned(place, DENSE, precision=["bf16", "fp8", "fp8-kv"])
    ids = [item.cell.cell_id for item in made.planned]
    assert {item.cell.cell_id for item in plain.planned} < set(ids)
    assert len(set(ids)) == 3 * len(plain.planned)
    engines = {item.cell.engine.precision: item.cell.engine for item in made.planned}
    names = ("quantization", "kv_cache_dtype")
    given = {
        precision: [llm_arguments(engine).get(name) for name in names]
        for precision, engine in engines.items()
    }
    assert given == {
        "bf16": [None, None],
        "fp8": ["fp8_per_tensor", None],
        "fp8-kv": ["fp8_per_tensor", "fp8"],
    }
    assert all(
        "prec-" in item.cell.path for item in made.planned if item.cell.engine.precision != "bf16"
    )
    plan = make_plan(made)
    assert all(expected.tpot_ms for _, expected in plan.expected)
    weights = {(one.precision, one.tp): one.weights_gb for one in plan.memory}
    assert len(weights) == 6
    assert weights["fp8", 2] == weights["fp8-kv", 2] < weights["bf16", 2]
    said = text(plan).splitlines()
    for name in ("mine", "mine fp8", "mine fp8-kv"):
        # A line of the memory and one of the times for each TP.
        assert len([line for line in said if f"H100     {name}  " in line]) == 4


def test_fp8_needs_plain_weights_and_gpus(place: Path) -> None:
    eight = {**DENSE, "quantization_config": {"quant_method": "fp8"}}
    for config, gpu, said in (
        (eight, "H100", "precision fp8: vLLM quantizes plain weights only, not fp8"),
        (
            DENSE,
            "cpu",
            "precision fp8: on a CPU vLLM has FP8 with AMX instructions only, which no site file"
            " tells",
        ),
    ):
        made = planned(place, config, precision=["bf16", "fp8"], gpus=[gpu])
        states = {(item.cell.engine.precision, item.status, item.reason) for item in made.planned}
        assert states == {("bf16", "planned", None), ("fp8", "infeasible", said)}


SYNTHETIC = {
    "num_speculative_tokens": 3,
    "rejection_sample_method": "synthetic",
    "synthetic_acceptance_length": 2.0,
}


@pytest.mark.parametrize(
    ("draft", "gpu", "said"),
    [
        (
            {"method": "ngram", "num_speculative_tokens": 3},
            "H100",
            "speculative_config: with dummy weights, acceptance is random; allowed:"
            " rejection_sample_method: synthetic",
        ),
        (
            {"method": "ngram", **SYNTHETIC},
            "cpu",
            "speculative_config: vLLM has no synthetic acceptance on a CPU",
        ),
        ({"method": "ngram", **SYNTHETIC}, "H100", None),
    ],
)
def test_drafts_of_dummy_weights_are_accepted_synthetically(
    place: Path, draft: dict[str, Any], gpu: str, said: str | None
) -> None:
    variants = {"default": {}, "drafts": {"speculative_config": draft}}
    made = planned(place, DENSE, variants=variants, gpus=[gpu])
    reasons = {item.cell.engine.variant: item.reason for item in made.planned}
    assert reasons == {"default": None, "drafts": said}


def test_a_variant_with_a_draft_model_is_planned_by_its_lower_bound(place: Path) -> None:
    draft = {"speculative_config": {"model": "a/draft", **SYNTHETIC}}
    made = planned(place, DENSE, variants={"default": {}, "drafts": draft})
    plan = make_plan(made)
    assert plan.unchecked == [
        "mine, variant drafts: speculative_config: the draft model's bytes are not counted:"
        " only the lower bound fits"
    ]
    assert all(
        expected.note is None
        for item, expected in plan.expected
        if item.cell.engine.variant == "default"
    )
    assert {
        expected.tpot_ms for item, expected in plan.expected if item.cell.engine.variant == "drafts"
    } == {None}


@pytest.mark.parametrize(
    "name", ["quantization", "quantization_config", "prefill_context_parallel_size"]
)
def test_what_an_axis_sets_or_nothing_measures_is_no_variant(place: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is set by"):
        planned(place, DENSE, variants={"mine": {name: "fp8"}})
