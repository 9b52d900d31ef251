"""Shapes against published figures and against the model classes that they describe."""

import json
from pathlib import Path
from typing import Any

import pytest

from tpsweep.perfmodel.model_folder import (
    config_digest,
    folder_digest,
    make_model_folder,
    read_config,
)
from tpsweep.perfmodel.model_shape import Shape, UnknownShapeError

MODELS = Path(__file__).parents[3] / "workflow" / "models"
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 128,
    "max_position_embeddings": 128,
}
LATENT = {
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
HYBRID = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 48,
}


def shape(name: str) -> Shape:
    return Shape.from_config(read_config(MODELS / f"{name}.json"))


@pytest.mark.parametrize(
    ("name", "parameters", "total_gb", "read_gb"),
    [
        ("llama-3.1-8b", 8_030_261_248, 16.06, 15.01),
        ("llama-3.1-70b", 70_553_706_496, 141.1, 139.0),
    ],
)
def test_llama_weighs_what_is_published(
    name: str, parameters: int, total_gb: float, read_gb: float
) -> None:
    llama = shape(name)
    assert llama.parameters == parameters
    assert llama.weight_bytes("bfloat16") / 1e9 == pytest.approx(total_gb, rel=1e-3)
    assert llama.bytes_read_per_step("bfloat16") / 1e9 == pytest.approx(read_gb, rel=1e-3)


def test_kv_heads_repeat_beyond_their_number() -> None:
    llama = shape("llama-3.1-8b")
    assert llama.kv_bytes_per_token("bfloat16", 1) == 2 * 32 * 8 * 128 * 2
    assert llama.kv_bytes_per_token("bfloat16", 8) == 2 * 32 * 1 * 128 * 2
    assert llama.kv_bytes_per_token("bfloat16", 16) == 2 * 32 * 1 * 128 * 2


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"tie_word_embeddings": True}),
        ("mistral", {}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("qwen3", {"attention_bias": True}),
        ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
        (
            "qwen2_moe",
            {
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 32,
                "shared_expert_intermediate_size": 48,
                "decoder_sparse_step": 2,
            },
        ),
        (
            "qwen3_moe",
            {
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 32,
                "mlp_only_layers": [0],
                "attention_bias": True,
            },
        ),
        ("gemma", {}),
        ("gemma2", {}),
        ("gemma3_text", {}),
        ("gemma3_text", {"attention_bias": True, "tie_word_embeddings": False}),
        ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2}),
        ("deepseek_v2", {**LATENT, "q_lora_rank": None}),
        ("deepseek_v3", LATENT),
        (
            "llama4_text",
            {
                "num_local_experts": 4,
                "intermediate_size_mlp": 192,
                "interleave_moe_layer_step": 2,
            },
        ),
        ("qwen3_next", HYBRID),
        ("qwen3_5_text", HYBRID),
        ("qwen3_5_moe_text", HYBRID),
    ],
)
def test_parameters_are_those_of_the_model_class(kind: str, extra: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(kind, **SMALL, **extra)
    model = transformers.AutoModelForCausalLM.from_config(config)
    counted = Shape.from_config({**config.to_dict(), "model_type": kind})
    # What balances DeepSeek's experts is in the checkpoint, but no parameter of the class.
    stored = [b for name, b in model.named_buffers() if name.endswith("e_score_correction_bias")]
    assert counted.parameters == sum(p.numel() for p in (*model.parameters(), *stored))


def test_a_step_reads_a_tied_embedding_and_the_active_experts_only() -> None:
    plain = Shape.from_config({"model_type": "llama", **SMALL})
    tied = Shape.from_config({"model_type": "llama", "tie_word_embeddings": True, **SMALL})
    embedding = 128 * 64 * 2
    assert plain.weight_bytes("bfloat16") - plain.bytes_read_per_step("bfloat16") == embedding
    assert tied.weight_bytes("bfloat16") == tied.bytes_read_per_step("bfloat16")
    experts = {"num_local_experts": 8, "num_experts_per_tok": 2}
    mixtral = Shape.from_config({"model_type": "mixtral", **SMALL, **experts})
    idle = 3 * (8 - 2) * 3 * 64 * 96 * 2
    assert mixtral.weight_bytes("bfloat16") - mixtral.bytes_read_per_step("bfloat16") == (
        embedding + idle
    )


@pytest.mark.parametrize(("tp", "word"), [(3, "attention heads"), (16, None), (8, None)])
def test_tp_must_divide_the_heads(tp: int, word: str | None) -> None:
    problem = shape("llama-3.1-8b").tp_problem(tp)
    assert problem is None if word is None else word in str(problem)


def test_tp_must_fit_the_kv_heads() -> None:
    twelve = {**SMALL, "num_attention_heads": 12, "num_key_value_heads": 6}
    problem = Shape.from_config({"model_type": "llama", **twelve}).tp_problem(4)
    assert problem is not None
    assert "6 KV heads" in problem


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": None}, "hidden_size: None"),
        ({"hidden_size": "64"}, "hidden_size: '64'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: 0"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: 3"),
    ],
)
def test_an_impossible_config_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Shape.from_config({"model_type": "llama", **SMALL, **change})


@pytest.mark.parametrize(
    "config", [{"model_type": "gpt2"}, {}, {"model_type": "llama", "quantization_config": {"a": 1}}]
)
def test_what_cannot_be_counted_is_said(config: dict[str, Any]) -> None:
    with pytest.raises(UnknownShapeError):
        Shape.from_config({**SMALL, **config})


def test_model_folder_is_deterministic_and_has_the_shape(tmp_path: Path) -> None:
    source = MODELS / "tiny-llama.json"
    for name in ("a", "b"):
        make_model_folder(source, tmp_path / name)
    names = {file.name for file in (tmp_path / "a").iterdir()}
    assert names == {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    }
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert Shape.from_config(read_config(tmp_path / "a" / "config.json")) == shape("tiny-llama")
    assert folder_digest(tmp_path / "a", "dummy") == config_digest(read_config(source))


def test_model_folder_tokenizes(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    make_model_folder(MODELS / "tiny-llama.json", tmp_path)
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 16384
    assert tokenizer.encode("w5 w16383 nonsense").ids == [5, 16383, 0]


def test_digest_ignores_comments_and_counts_real_weights(tmp_path: Path) -> None:
    config = {"model_type": "llama", **SMALL}
    assert config_digest({"_source": "somewhere", **config}) == config_digest(config)
    assert config_digest({**config, "hidden_size": 65}) != config_digest(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    empty = folder_digest(tmp_path, "real")
    (tmp_path / "model.safetensors").write_bytes(b"1234")
    four = folder_digest(tmp_path, "real")
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    assert len({empty, four, folder_digest(tmp_path, "real")}) == 3
    assert folder_digest(tmp_path, "dummy") == config_digest(config)


@pytest.mark.parametrize("text", [None, "{", "[1]"])
def test_unreadable_config_is_one_line(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=r"config\.json") as caught:
        read_config(path)
    assert "\n" not in str(caught.value)
