"""Shapes and quantization schemes beside what vLLM itself reads from the same config.json.

No engine starts: vLLM's own parser of configs, its quantization classes and its checks of a shard
are asked, model by model and case by case.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.perfmodel.test_checkpoints import DENSE, DENSE_CASES, FP8_BLOCKS, MOE, MOE_CASES
from tests.unit.perfmodel.test_published_shapes import PUBLISHED
from tpsweep.perfmodel.model_folder import read_config
from tpsweep.perfmodel.model_shape import Shape
from tpsweep.perfmodel.modules import HEADS, Latent, Module
from tpsweep.perfmodel.quantization import WeightFormat

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="no vLLM here"),
]
ROOT = Path(__file__).parents[2]
FILES = {path.stem: path for path in sorted((ROOT / "tests" / "data" / "models").glob("*.json"))}
JOINED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
WHOLE = {part: whole for whole, parts in JOINED.items() for part in parts}


def config_of(name: str) -> dict[str, Any]:
    config = read_config(FILES[name]) if name in FILES else dict(PUBLISHED[name]["config"])
    return {key: value for key, value in config.items() if not key.startswith("_")}


def parsed(config: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    """vLLM's own view of a config.json: its text config and its summary of the architecture."""
    import vllm.config  # noqa: F401  (or the next import is circular)
    from vllm.transformers_utils import model_arch_config_convertor as arch
    from vllm.transformers_utils.config import get_config, get_hf_text_config

    (folder / "config.json").write_text(json.dumps(config))
    whole = get_config(str(folder), trust_remote_code=False)
    text = get_hf_text_config(whole)
    known = arch.MODEL_ARCH_CONFIG_CONVERTORS
    convertor = known.get(whole.model_type, arch.ModelArchConfigConvertorBase)
    return text, convertor(whole, text).convert()


@pytest.mark.parametrize("name", [*FILES, *PUBLISHED])
def test_heads_experts_and_positions_are_those_of_vllm(name: str, tmp_path: Path) -> None:
    config = config_of(name)
    shape = Shape.from_config(config)
    text, found = parsed(config, tmp_path)
    assert shape.heads == found.total_num_attention_heads
    assert shape.vocabulary == found.vocab_size
    assert shape.layers == found.total_num_hidden_layers
    assert shape.hidden == found.hidden_size
    assert shape.experts == found.num_experts
    if isinstance(shape.attention, Latent):
        assert found.head_size == shape.attention.kv_rank + shape.attention.rope_dim
    else:
        assert shape.attention is not None
        assert shape.kv_heads == found.total_num_kv_heads
        assert shape.attention.head_dim == found.head_size
    method = (found.quantization_config or {}).get("quant_method")
    assert (shape.quantization.method if shape.quantization else None) == method
    from vllm.config.model import _get_and_verify_max_len

    most = _get_and_verify_max_len(text, found, None, None, False, None)
    assert shape.max_position == most


@pytest.mark.parametrize(
    ("scaling", "positions"),
    [
        ({"type": "linear", "factor": 4.0}, 16384),
        ({"rope_type": "dynamic", "factor": 2.0}, 8192),
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 512}, 4096),
    ],
)  # fmt: skip
def test_a_scaled_context_is_that_of_vllm(scaling: Any, positions: int, tmp_path: Path) -> None:
    from vllm.config.model import _get_and_verify_max_len

    config = {**DENSE, "architectures": ["LlamaForCausalLM"], "rope_scaling": scaling}
    text, found = parsed(config, tmp_path)
    assert _get_and_verify_max_len(text, found, None, None, False, None) == positions
    assert Shape.from_config(config).max_position == positions


def formats_in_vllm(
    given: dict[str, Any], shape: Shape, folder: Path
) -> Iterator[tuple[Module, int | None]]:
    """Bits of each module by vLLM's own rules; None: it is left as it was trained."""
    from vllm.model_executor.layers.quantization import get_quantization_config

    base = MOE if shape.experts else DENSE
    names = {"llama": "LlamaForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}
    config = {**base, "architectures": [names[shape.model_type]], "quantization_config": given}
    _, found = parsed(config, folder)
    raw = found.quantization_config
    method = {"awq": "auto_awq", "gptq": "auto_gptq"}.get(raw["quant_method"], raw["quant_method"])
    if raw.get("quant_algo") in ("NVFP4", "MIXED_PRECISION"):
        method = {"NVFP4": "modelopt_fp4", "MIXED_PRECISION": "modelopt_mixed"}[raw["quant_algo"]]
    cls = get_quantization_config(method)
    quantization = cls.from_config(json.loads(json.dumps(raw)))
    quantization.packed_modules_mapping = JOINED
    for module in shape.modules:
        if module.kind is not None:
            yield module, _bits(quantization, method, module)


def _bits(quantization: Any, method: str, module: Module) -> int | None:
    from vllm.model_executor.layers.quantization.utils import gptq_utils
    from vllm.model_executor.layers.quantization.utils.quant_utils import is_layer_skipped

    head, _, last = module.name.rpartition(".")
    name = f"{head}.{WHOLE.get(last, last)}".removeprefix(".")
    if module.kind == "experts":
        name = module.name.partition(".experts")[0] + ".experts"
    if method in ("fp8", "fbgemm_fp8"):
        ignored = getattr(quantization, "ignored_layers", None) or getattr(
            quantization, "ignore_list", []
        )
        skipped = module.kind == "head" or is_layer_skipped(name, ignored, JOINED)
        return None if skipped else 8
    if method == "mxfp4":
        return 4 if module.kind == "experts" else None
    if module.kind == "head" and method in ("auto_awq", "auto_gptq"):
        return quantization.weight_bits if quantization.lm_head_quantized else None
    if method == "auto_awq":
        ignored = quantization.modules_to_not_convert
        skipped = is_layer_skipped(name, ignored, JOINED, match_mode="substring")
        return None if skipped else quantization.weight_bits
    if method == "auto_gptq":
        only = quantization.modules_in_block_to_quantize
        override = gptq_utils.get_dynamic_override(quantization, layer_name=name)
        if override is False or not gptq_utils.is_layer_gptq_quantized(name, only, JOINED):
            return None
        found = gptq_utils.get_dynamic_override(
            quantization, name, "bits", quantization.weight_bits
        )
        return int(found)
    if method == "compressed-tensors":
        classes = {"experts": "RoutedExperts", "head": "ParallelLMHead"}
        cls = type(classes.get(module.kind or "", "QKVParallelLinear"), (), {})
        quantization._add_fused_moe_to_target_scheme_map()
        asked = module.name if module.kind == "experts" else name
        scheme = quantization.get_scheme_dict(cls(), asked)
        weights = scheme and scheme.get("weights")
        return weights.num_bits if weights else None
    if quantization.is_layer_excluded(name):
        return None
    if method == "modelopt_mixed":
        algorithm = quantization._resolve_quant_algo(name)
        return {None: None, "FP8": 8, "NVFP4": 4}[algorithm]
    return 4 if method == "modelopt_fp4" else 8


@pytest.mark.parametrize("given", [case[0] for case in DENSE_CASES])
def test_each_module_of_a_dense_model_has_vllms_format(given: Any, tmp_path: Path) -> None:
    shape = Shape.from_config({**DENSE, "quantization_config": given})
    for module, bits in formats_in_vllm(given, shape, tmp_path):
        assert _ours(shape, module) == bits, module.name


@pytest.mark.parametrize("given", [case[0] for case in MOE_CASES])
def test_each_module_of_a_mixture_has_vllms_format(given: Any, tmp_path: Path) -> None:
    shape = Shape.from_config({**MOE, "quantization_config": given})
    for module, bits in formats_in_vllm(given, shape, tmp_path):
        assert _ours(shape, module) == bits, module.name


def _ours(shape: Shape, module: Module) -> int | None:
    stored: WeightFormat | None = shape.format_of(module)
    return stored.bits if stored else None


@pytest.mark.parametrize("inner", [512, 640, 768, 1024])
@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_blocks_of_experts_and_layers_end_where_vllm_wants_them(
    inner: int, tp: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vllm.distributed
    from vllm.model_executor.layers.quantization.utils import fp8_utils

    monkeypatch.setattr(vllm.distributed, "get_tensor_model_parallel_world_size", lambda: tp)
    for block in ([128, 128], [256, 128]):
        scheme = {**FP8_BLOCKS, "weight_block_size": block}
        sizes = {"moe_intermediate_size": inner}
        shape = Shape.from_config({**MOE, **sizes, "quantization_config": scheme})
        try:
            fp8_utils.validate_fp8_block_shape_moe(inner // tp, block)
            for module in shape.modules:
                if module.kind == "linear":
                    _check_layer(module, tp, block)
            refused = False
        except ValueError:
            refused = True
        assert bool(shape.tp_problem(tp)) == refused, (block, shape.tp_problem(tp))


def _check_layer(module: Module, tp: int, block: list[int]) -> None:
    from vllm.model_executor.layers.quantization.utils import fp8_utils

    outputs, inputs = module.shard(tp)
    parts = [outputs] * (3 if module.split == HEADS else 1)
    fp8_utils.validate_fp8_block_shape(
        SimpleNamespace(tp_size=tp),  # type: ignore[arg-type]
        module.inputs or 0,
        module.outputs * len(parts),
        inputs,
        parts,
        block,
    )
