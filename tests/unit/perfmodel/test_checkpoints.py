"""Quantized checkpoints of every form that vLLM reads: bytes and refusals worked out by hand.

The model: 8 layers of hidden size 1024, 8 heads of 128, 4 KV heads, an MLP of 4096, 16000 words.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tpsweep.perfmodel.floors import prefill_floor_ms
from tpsweep.perfmodel.gpu_specs import cards
from tpsweep.perfmodel.model_folder import file_digest, folder_digest, read_model
from tpsweep.perfmodel.model_shape import Shape, UnknownShapeError

DENSE = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 16000,
    "max_position_embeddings": 4096,
}
MOE = {
    **DENSE,
    "model_type": "qwen3_moe",
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 640,
}
ATTENTION, MLP = 1024 * (1024 + 2 * 512) + 1024 * 1024, 3 * 1024 * 4096
LINEAR, HEAD = 8 * (ATTENTION + MLP), 16000 * 1024
REST = 2 * (2 * HEAD + 17 * 1024)  # bytes of embedding, head and norms
EXPERTS = 8 * 16 * 3 * 1024 * 640
MOE_REST = 2 * (2 * HEAD + 17 * 1024 + 8 * (16 * 1024 + 2 * 128))  # and routers, norms of q, k
MOE_ATTENTION = 8 * 4 * 1024 * 1024
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64, "symmetric": True}
FLOAT8 = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}
FP8_BLOCKS = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
}
NVFP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}


def with_scheme(given: dict[str, Any], base: dict[str, Any] = DENSE) -> Shape:
    return Shape.from_config({**base, "quantization_config": given})


def compressed(*groups: tuple[list[str], dict[str, Any] | None], **more: Any) -> dict[str, Any]:
    made = {
        f"group_{i}": {"targets": targets, "weights": weights}
        for i, (targets, weights) in enumerate(groups)
    }
    return {"quant_method": "compressed-tensors", "config_groups": made, **more}


def names(*parts: str) -> list[str]:
    return [f"model.layers.{i}.{part}" for i in range(8) for part in parts]


DENSE_CASES: list[tuple[dict[str, Any], float]] = [
    # 4 bits, a scale of 16 per 64
    (compressed((["Linear"], INT4), ignore=["lm_head"]), LINEAR * (4 + 16 / 64) / 8 + REST),
    # and a zero point of 4
    (compressed((["Linear"], {**INT4, "symmetric": False})), LINEAR * (4 + 20 / 64) / 8 + REST),
    # two groups, by name and by class; one layer ignored by a pattern
    (
        compressed(
            (["re:.*self_attn.*"], FLOAT8), (["Linear"], INT4), ignore=["re:.*layers\\.7\\..*"]
        ),
        7 * (ATTENTION + MLP * (4 + 16 / 64) / 8) + 2 * (ATTENTION + MLP) + REST,
    ),
    # the head, by name
    (compressed((["Linear", "lm_head"], FLOAT8)), LINEAR + REST - HEAD),
    # NVFP4: a scale of 8 bits per 16
    (compressed((["Linear"], NVFP4)), LINEAR * 4.5 / 8 + REST),
    (
        {
            "quant_method": "fp8",
            "activation_scheme": "static",
            "ignored_layers": names("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
        },
        8 * (ATTENTION + 2 * MLP) + REST,
    ),
    # by the names that vLLM gives what it joins
    (
        {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "modules_to_not_convert": names("self_attn.qkv_proj"),
        },
        LINEAR + 8 * 1024 * 2048 + REST,
    ),
    # FP8 in blocks: a scale of 32 bits each; norms in the list are no linear layers
    (
        {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "weight_block_size": [128, 128],
            "modules_to_not_convert": ["lm_head", *names("input_layernorm")],
        },
        LINEAR + LINEAR // 128**2 * 4 + REST,
    ),
    (
        {
            "quant_method": "fbgemm_fp8",
            "activation_scale_ub": 1200.0,
            "modules_to_not_convert": ["lm_head"],
        },
        LINEAR + REST,
    ),
    # AWQ leaves out by a part of the name
    (
        {
            "quant_method": "awq",
            "bits": 4,
            "group_size": 64,
            "zero_point": True,
            "modules_to_not_convert": ["self_attn", "layers.0."],
        },
        7 * MLP * (4 + 20 / 64) / 8 + 2 * (8 * ATTENTION + MLP) + REST,
    ),
    ({**GPTQ, "lm_head": True}, (LINEAR + HEAD) * (4 + 20 / 128) / 8 + REST - 2 * HEAD),
    # GPTQ's rules, the first that matches: layers 0 and 1 left out, two more at 8 bits
    (
        {
            **GPTQ,
            "dynamic": {
                r"-:.*\.layers\.[01]\..*": {},
                r"+:.*\.layers\.[0-3]\..*": {"bits": 8, "group_size": 64},
            },
        },
        (ATTENTION + MLP) * (2 * 2 + 2 * (8 + 24 / 64) / 8 + 4 * (4 + 20 / 128) / 8) + REST,
    ),
    (
        {**GPTQ, "modules_in_block_to_quantize": [["mlp.up_proj", "mlp.gate_proj"]]},
        8 * 2 * 1024 * 4096 * (4 + 20 / 128) / 8 + 2 * 8 * (ATTENTION + 1024 * 4096) + REST,
    ),
    # ModelOpt, as config.json has it
    (
        {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]},
        LINEAR + REST,
    ),
    (
        {
            "quant_method": "modelopt",
            "quant_algo": "NVFP4",
            "group_size": 16,
            "ignore": ["lm_head", "model.layers.0*", "*self_attn*"],
        },
        7 * MLP * 4.5 / 8 + 2 * (MLP + 8 * ATTENTION) + REST,
    ),
    # layer by layer; without a mention, as trained
    (
        {
            "quant_method": "modelopt",
            "quant_algo": "MIXED_PRECISION",
            "quantized_layers": {
                "model.layers.0.mlp.down_proj": {"quant_algo": "NVFP4", "group_size": 16},
                "model.layers.1.mlp.down_proj": {"quant_algo": "FP8"},
            },
        },
        2 * (LINEAR - 2 * 1024 * 4096) + 1024 * 4096 * (1 + 4.5 / 8) + REST,
    ),
]


@pytest.mark.parametrize(("given", "size"), DENSE_CASES)
def test_bytes_of_a_dense_model(given: dict[str, Any], size: float) -> None:
    found = with_scheme(given)
    assert found.weight_bytes("bfloat16") == size
    assert found.bytes_read_per_step("bfloat16") == size - 2 * HEAD
    assert found.parameters == LINEAR + 2 * HEAD + 17 * 1024


MOE_CASES: list[tuple[dict[str, Any], float, float]] = [
    ({"quant_method": "mxfp4"}, 2, (4 + 8 / 32) / 8),
    (
        {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "ignored_layers": ["lm_head", *names("mlp.gate")],
        },
        1,
        1,
    ),
    (
        {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "ignored_layers": names("mlp.experts.0.gate_proj"),
        },
        1,
        2,
    ),
    # "gate" is the router's name, no part of the experts' as vLLM has them
    (
        {
            **GPTQ,
            "quant_method": "awq",
            "zero_point": True,
            "modules_to_not_convert": ["gate", "self_attn"],
        },
        2,
        (4 + 20 / 128) / 8,
    ),
    (compressed((["Linear"], FLOAT8), ignore=["lm_head", "re:.*mlp.gate$"]), 1, 1),
    (compressed((["re:.*mlp.experts.*"], NVFP4)), 2, 4.5 / 8),
    (
        {
            "quant_method": "modelopt",
            "quant_algo": "MIXED_PRECISION",
            "quantized_layers": {
                name: {"quant_algo": "FP8"} for name in names("mlp.experts.0.down_proj")
            },
        },
        2,
        1,
    ),
]


@pytest.mark.parametrize(("given", "attention", "experts"), MOE_CASES)
def test_bytes_of_a_mixture(given: dict[str, Any], attention: float, experts: float) -> None:
    found = with_scheme(given, MOE)
    size = MOE_ATTENTION * attention + EXPERTS * experts + MOE_REST
    assert found.weight_bytes("bfloat16") == size
    idle = EXPERTS * experts * 14 / 16  # 2 of 16 are read
    assert found.bytes_read_per_step("bfloat16") == size - 2 * HEAD - idle


@pytest.mark.parametrize(
    ("given", "base", "tps", "said"),
    [
        ({**GPTQ, "group_size": 1024}, DENSE, [1], "512 inputs of model.layers.0.self_attn.o_proj"),
        ({**GPTQ, "group_size": -1}, DENSE, [1, 2, 4, 8], None),
        (
            {**GPTQ, "quant_method": "awq"},
            {**DENSE, "intermediate_size": 2816},
            [1, 2],
            "704 inputs of model.layers.0.mlp.down_proj are no multiple of the group of 128",
        ),
        # experts whose shard is no whole number of groups: vLLM takes smaller ones
        ({**GPTQ, "quant_method": "awq"}, MOE, [1, 2, 4, 8], None),
        (
            compressed((["Linear"], INT4)),
            MOE,
            [1, 2],
            "160 inputs of model.layers.0.mlp.experts.0.down_proj",
        ),
        # 640 / 2 = 320 is no multiple of the block of 128; 640 is
        (
            {"quant_method": "fp8", "weight_block_size": [128, 128]},
            MOE,
            [1],
            "320 outputs of model.layers.0.mlp.experts.0.gate_proj are no multiple of the block",
        ),
        # without blocks each divides
        ({"quant_method": "fp8"}, MOE, [1, 2, 4, 8], None),
        # a KV head of 128 stays whole however often it is repeated
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, DENSE, [1, 2, 4, 8], None),
        ({"quant_method": "fp8", "weight_block_size": [256, 128]}, DENSE, [1, 2], "128 outputs"),
        # 640 / 8 = 80: five groups of 16
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, MOE, [1, 2, 4, 8], None),
        # what is left out may be split as it likes
        (
            {
                "quant_method": "fp8",
                "weight_block_size": [128, 128],
                "ignored_layers": names("mlp.experts.0.down_proj"),
            },
            MOE,
            [1, 2, 4, 8],
            None,
        ),
    ],
)
def test_tp_must_leave_groups_and_blocks_whole(
    given: dict[str, Any], base: dict[str, Any], tps: list[int], said: str | None
) -> None:
    found = with_scheme(given, base)
    assert found.tps == tps
    if said:
        assert said in str(found.tp_problem(2 * tps[-1]))


def test_the_older_key_of_compressed_tensors_and_a_nested_config() -> None:
    given = compressed((["Linear"], INT4), ignore=["lm_head"])
    size = LINEAR * (4 + 16 / 64) / 8 + REST
    assert Shape.from_config({**DENSE, "compression_config": given}).weight_bytes("float16") == size
    text = {**DENSE, "model_type": "gemma3_text", "head_dim": 128, "tie_word_embeddings": True}
    inner = {"model_type": "gemma3", "text_config": {**text, "quantization_config": given}}
    outer = {"model_type": "gemma3", "text_config": text, "quantization_config": given}
    norms = 8 * (2 * 1024 + 2 * 128)  # two more a layer, and those of queries and keys
    for config in (inner, outer):
        tied = Shape.from_config(config).weight_bytes("float16")
        assert tied == size - 2 * HEAD + 2 * norms


@pytest.mark.parametrize(
    "asked",
    [
        compressed(
            (["Linear"], FLOAT8), kv_cache_scheme={"num_bits": 8, "type": "float", "dynamic": False}
        ),
        {
            "quant_method": "modelopt",
            "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
        },
    ],
)
def test_a_checkpoint_may_ask_for_an_eight_bit_cache(asked: dict[str, Any]) -> None:
    scheme = with_scheme(asked).quantization
    assert scheme is not None
    assert scheme.cache_dtype == "fp8"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"quant_method": "mxfp3"}, "quant_method: 'mxfp3'; known: "),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "quant_method: 'bitsandbytes'"),
        ({"quant_method": "awq", "bits": 8, "group_size": 128}, "bits: 8; known: 4"),
        ({**GPTQ, "bits": 3}, "bits: 3; known: 4, 8"),
        ({**GPTQ, "dynamic": {"+:.*down.*": {"bits": 2}}}, "bits: 2"),
        ({**GPTQ, "dynamic": {"+:(": {"bits": 8}}}, "unknown format"),
        ({"quant_method": "gptq", "bits": 4}, "group_size"),
        (compressed((["Embedding"], INT4)), "targets: 'Embedding'"),
        (compressed((["Linear"], None)), "unknown format"),
        (compressed((["Linear"], {**INT4, "num_bits": 2})), "num_bits of int: 2"),
        (compressed((["Linear"], {**INT4, "strategy": "token"})), "strategy: 'token'"),
        (compressed((["Linear"], INT4), format="marlin-24"), "sparse"),
        (compressed((["Linear"], INT4), kv_cache_scheme={"num_bits": 4}), "kv_cache_scheme"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "quant_algo: 'W4A8_AWQ'"),
        ("int4", "quant_method: ''"),
    ],
)
def test_a_scheme_that_is_not_known_is_said_to_be(given: Any, said: str) -> None:
    with pytest.raises(UnknownShapeError, match="quantization_config") as caught:
        with_scheme(given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


SIDECAR = {
    "producer": {"name": "modelopt", "version": "0.29.0"},
    "quantization": {
        "quant_algo": "NVFP4",
        "kv_cache_quant_algo": "FP8",
        "group_size": 16,
        "exclude_modules": ["lm_head"],
    },
}


def test_modelopt_may_say_it_in_a_file_of_its_own(tmp_path: Path) -> None:
    place = tmp_path / "config.json"
    place.write_text(json.dumps(DENSE))
    plain, digest = Shape.from_config(read_model(place)), folder_digest(tmp_path, "dummy")
    assert plain.weight_bytes("bfloat16") == 2 * LINEAR + REST
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(SIDECAR))
    found = Shape.from_config(read_model(place))
    assert found.weight_bytes("bfloat16") == LINEAR * 4.5 / 8 + REST
    assert found.quantization is not None
    assert found.quantization.cache_dtype == "fp8"
    # It is the model's, as config.json is; a comment in it is not.
    digests = {digest, folder_digest(tmp_path, "dummy")}
    assert file_digest(place) in digests
    other = {**SIDECAR, "quantization": {**SIDECAR["quantization"], "quant_algo": "FP8"}}  # type: ignore[dict-item]
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(other))
    digests.add(folder_digest(tmp_path, "dummy"))
    assert len(digests) == 3
    assert Shape.from_config(read_model(place)).weight_bytes("bfloat16") == LINEAR + REST
    # What config.json says itself goes before.
    place.write_text(json.dumps({**DENSE, "quantization_config": {"quant_method": "mxfp4"}}))
    assert Shape.from_config(read_model(place)).weight_bytes("bfloat16") == 2 * LINEAR + REST


@pytest.mark.parametrize(
    ("given", "factor"),
    [
        ({"quant_method": "fp8"}, 2),
        ({**GPTQ}, 1),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}, 4),
        (compressed((["Linear"], INT4)), 1),
    ],
)
def test_a_prefill_may_be_as_fast_as_the_format_allows(given: dict[str, Any], factor: int) -> None:
    card = cards()["NVIDIA H100 80GB HBM3"]
    products = (LINEAR / factor + 17 * 1024) * 4 * 128 + HEAD * 4
    by_hand = 2 * products / (card.bf16_tflops * 1e12) * 1e3
    assert prefill_floor_ms(with_scheme(given), 1, card, 4, 128) == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("scaling", "positions"),
    [
        (None, 4096),
        ({"type": "linear", "factor": 4.0}, 16384),
        ({"rope_type": "dynamic", "factor": 2.0}, 8192),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}, 8192),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, 4096),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512}, 4096),
        ({"type": "longrope", "short_factor": [1.0], "factor": 32.0}, 4096),
        ({"type": "linear", "factor": None}, 4096),
        ({"sliding_attention": {"rope_type": "linear", "factor": 2.0}}, 8192),
    ],
)
def test_rope_scaling_lengthens_the_context(scaling: Any, positions: int) -> None:
    assert Shape.from_config({**DENSE, "rope_scaling": scaling}).max_position == positions
    assert Shape.from_config({**DENSE, "rope_parameters": scaling}).max_position == positions


def test_a_context_may_be_named_beside() -> None:
    assert Shape.from_config({**DENSE, "model_max_length": 32768}).max_position == 32768


@pytest.mark.parametrize(
    "name", ["LlamaForCausalLMEagle3", "LlamaForSequenceClassification", "LlamaModel"]
)
def test_a_class_with_other_weights_is_not_counted_as_the_model_it_comes_from(name: str) -> None:
    """A draft head, a reward model and an embedding model have the ``model_type`` of a decoder."""
    assert Shape.from_config({**DENSE, "architectures": ["LlamaForCausalLM"]}) == with_scheme({})
    with pytest.raises(UnknownShapeError, match=f"architectures: \\['{name}'\\]; known: "):
        Shape.from_config({**DENSE, "architectures": [name]})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "block: \\[0, 128\\]; known: "),
        ({"quant_method": "awq", "bits": 4, "group_size": 0}, "group_size: 0; known: "),
        # one name would be taken letter by letter, so that everything is left out
        (
            {**GPTQ, "quant_method": "awq", "modules_to_not_convert": "self_attn"},
            "modules_to_not_convert: 'self_attn'; known: a list",
        ),
        ({"quant_method": "fp8", "ignored_layers": "lm_head"}, "ignored_layers: 'lm_head'; "),
        (compressed((["Linear"], INT4), ignore="lm_head"), "ignore: 'lm_head'; known: a list"),
    ],
)
def test_a_scheme_in_another_form_is_not_counted(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UnknownShapeError, match=f"quantization_config: {said}"):
        with_scheme(given)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sliding_window": "4096"}, "sliding_window: '4096'; allowed: a whole number above 0"),
        ({"sliding_window": [None, 4096]}, "sliding_window: .*; allowed: a whole number above 0"),
        ({"layer_types": "full_attention"}, "layer_types: 'full_attention'; allowed: a list"),
        ({"rope_scaling": {"type": "linear", "factor": "4"}}, "factor: '4'; allowed: a number"),
        ({"rope_scaling": "yarn"}, "rope_scaling: 'yarn'; allowed: a mapping"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings: 'false'; allowed: true, false"),
    ],
)
def test_a_value_of_another_type_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Shape.from_config({**DENSE, "model_type": "mistral", **changes})
    with pytest.raises(UnknownShapeError, match=r"TypeError: .*: a value in a form"):
        Shape.from_config(
            {**MOE, "decoder_sparse_step": 1, "mlp_only_layers": None}
            | {
                "model_type": "deepseek_v3",
                **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim"), 64),
                **dict.fromkeys(("qk_rope_head_dim", "v_head_dim", "n_routed_experts"), 64),
                "moe_layer_freq": [1] * 8,
            }
        )
