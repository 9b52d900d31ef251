"""How TP splits a model: shards by hand, sums beside the shape's own, names beside vLLM's files."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.perfmodel.test_quantization import shape
from tpsweep.cli.main import main
from tpsweep.core.layout import Layout
from tpsweep.perfmodel.memory import weights_of_rank
from tpsweep.perfmodel.model_shape import Shape
from tpsweep.perfmodel.modules import WHOLE
from tpsweep.plan.explain import COMMUNICATION, STATE, OnNodes, explain
from tpsweep.plan.explain_page import page
from tpsweep.plan.explain_text import size, text
from tpsweep.plan.split import VLLM_VERSION
from tpsweep.plan.spread import Spread, spread
from tpsweep.plan.spread_text import text as spread_text

ROOT = Path(__file__).parents[3]
FAMILIES = (
    *("llama-3.1-8b", "qwen2.5-7b", "mistral-7b", "qwen3-30b-a3b", "llama-3.1-8b-awq"),
    *("gpt-oss-20b", "deepseek-v3", "gemma-3-4b", "llama-4-scout", "deepseek-v2-lite"),
)


def test_8b_at_two_by_hand() -> None:
    found = explain(shape("llama-3.1-8b"), "bfloat16", 2, batch=3)
    shards = {matrix.name: (matrix.split, matrix.full, matrix.shard) for matrix in found.matrices}
    assert shards["embed_tokens"] == ("vocab", (128256, 4096), (64128, 4096))
    assert shards["q_proj"] == ("heads", (4096, 4096), (2048, 4096))
    assert shards["k_proj"] == ("heads", (1024, 4096), (512, 4096))
    assert shards["o_proj"] == ("row", (4096, 4096), (4096, 2048))
    assert shards["gate_proj"] == ("column", (14336, 4096), (7168, 4096))
    assert shards["down_proj"] == ("row", (4096, 14336), (4096, 7168))
    assert shards["norm"] == ("whole", (4096,), (4096,))
    # half of all, and the other half of the norms
    half = 8_030_261_248 + 65 * 4096
    assert found.weight_bytes_per_gpu == half
    moved = {(one.after, one.kind): (one.bytes, one.per_step) for one in found.collectives}
    assert moved == {
        ("embed_tokens", "all-reduce"): (3 * 4096 * 2, 1),
        ("o_proj", "all-reduce"): (3 * 4096 * 2, 32),
        ("down_proj", "all-reduce"): (3 * 4096 * 2, 32),
        ("lm_head", "all-gather"): (3 * 64128 * 2, 1),
    }
    assert found.all_reduces == 65
    assert found.link_bytes(one_shot=True) == found.link_bytes(one_shot=False) == 65 * 24576


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_shards_and_what_is_everywhere_make_the_model(name: str, tp: int) -> None:
    model = shape(name)
    found = explain(model, "bfloat16", tp)
    everywhere = sum(m.count * m.bytes_per_gpu for m in found.matrices if m.split == WHOLE)
    total = tp * (found.weight_bytes_per_gpu - everywhere) + everywhere
    # A rank's last group of 32 may be a part of one: MXFP4's scales are a little more then.
    apart = 5e-4 if name == "gpt-oss-20b" else 1e-6
    assert total == pytest.approx(model.weight_bytes("bfloat16"), rel=apart)
    assert found.all_reduces == (2 * model.layers + 1 if tp > 1 else 0)


def test_kv_heads_repeat_and_so_do_their_weights() -> None:
    found = explain(shape("qwen3-30b-a3b"), "bfloat16", 8)
    assert (found.kv_heads_per_gpu, found.kv_heads_repeat) == (1, 2)
    (k_proj,) = (matrix for matrix in found.matrices if matrix.name == "k_proj")
    assert k_proj.shard == (128, 2048)
    assert found.link_bytes(one_shot=True) == 4 * found.link_bytes(one_shot=False)
    assert "(each KV head on 2 GPUs)" in text("a3b", found)


def test_a_vocabulary_is_padded_and_one_gpu_needs_nothing() -> None:
    odd = replace(shape("llama-3.1-8b"), vocabulary=100)
    embedding = explain(odd, "bfloat16", 2).matrices[0]
    assert embedding.shard == (64, 4096)
    assert "no collectives" in text("8b", explain(odd, "bfloat16", 1))


def test_names_are_those_of_the_vllm_that_is_installed() -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("no vLLM here")
    versions = {d.version for d in importlib.metadata.distributions() if "vllm" in d.name.lower()}
    if VLLM_VERSION not in versions:
        pytest.skip(f"vLLM {versions}, not {VLLM_VERSION}")
    spec = importlib.util.find_spec("vllm")
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parent
    for name in (*FAMILIES, "qwen3-next-80b-a3b"):
        found = explain(shape(name), "bfloat16", 2)
        named = {(one.file, one.cls) for one in (*found.matrices, *found.collectives)}
        for file, cls in named:
            assert f"class {cls}(" in (root / file).read_text("utf-8"), file
        assert (root / found.model_file).exists()
    assert "def tensor_model_parallel_all_reduce" in (root / COMMUNICATION).read_text("utf-8")
    assert "class GroupCoordinator" in (root / STATE).read_text("utf-8")


def test_the_page_is_that_of_the_code_and_of_the_measured_tables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    made = page(Path("results/smoke"))
    assert (ROOT / "docs" / "explain-tp.md").read_text("utf-8") == made
    assert "65 (by the table: 65)" in made


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["plan", "--explain", "llama-3.1-70b", "--tp", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["all_reduces"], found["model"]) == (161, "llama-3.1-70b")
    file = "tests/data/models/llama-3.1-8b-awq.json"
    assert main(["plan", "--explain", file, "--tp", "2", "--dtype", "float16"]) == 0
    # q_proj: 2048 x 4096 at 4 bits and 20 of a scale and a zero point per 128
    assert "4.36 MB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--explain", "qwen3-30b-a3b"], "--tp: None, allowed"),
        (["--explain", "llama-3.1-8b", "--tp", "3"], "--tp: 3: it does not divide the model's 32"),
        (["--explain", "gpt-5", "--tp", "2"], "--explain: 'gpt-5', allowed: a config.json"),
        (["--explain", "Makefile", "--tp", "2"], "Makefile: not JSON"),
        (["--explain", "llama-3.1-8b", "--tp", "2", "--batch", "0"], "--batch: 0"),
        (["--explain", "llama-3.1-8b", "--tp", "2", "--dtype", "int8"], "--dtype: 'int8'"),
        (["--tp", "2"], "--tp: only with --explain"),
        (["--pp", "2"], "--pp: only with --explain"),
        (["--explain", "llama-3.1-8b", "--pp", "0"], "--pp: 0, allowed: with --explain a number"),
        (["--explain", "llama-3.1-8b", "--dp", "2"], "TP=1 x DP=2 (experts joined): dp 2: the mod"),
        (["--explain", "llama-3.1-8b", "--tp", "3", "--pp", "2"], "TP=3 x PP=2: it does not div"),
    ],
)
def test_bad_usage_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["plan", *words]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1 and not captured.out


def moved(found: Spread) -> dict[tuple[int, str, str], tuple[float, int]]:
    return {(one.stage, one.kind, one.of): (one.bytes, one.per_step) for one in found.moves}


def test_a_pipeline_by_hand() -> None:
    """70B, three stages of TP=2: 27, 27 and 26 layers; 4 sequences of 8192 numbers of 2 bytes."""
    found = spread(shape("llama-3.1-70b"), "bfloat16", Layout(tp=2, pp=3), batch=4)
    held = [(one.first, one.last, one.layers, one.weight_bytes) for one in found.held]
    assert held == [  # as in test_memory_of_a_gpu_by_hand; the middle one has layers alone
        (0, 1, (0, 26), 24_153_341_952 + 27 * 2 * 8192),
        (2, 3, (27, 53), 27 * (855_654_400 + 2 * 8192)),
        (4, 5, (54, 79), 26 * (855_654_400 + 2 * 8192) + 1_050_673_152 + 2 * 8192),
    ]
    assert moved(found) == {
        (0, "all-reduce", "the embedding"): (65536, 1),
        **{(stage, "all-reduce", "attention"): (65536, 27 - stage // 2) for stage in range(3)},
        **{(stage, "all-reduce", "dense MLPs"): (65536, 27 - stage // 2) for stage in range(3)},
        # Each rank sends half of hidden state and residual; the next stage puts them together.
        **{(stage, "send", "hidden state, residual"): (32768, 2) for stage in range(2)},
        **{(stage, "all-gather", "hidden state, residual"): (32768, 2) for stage in range(2)},
        (2, "all-gather", "logits"): (4 * 64128 * 2, 1),
        (2, "broadcast", "chosen tokens"): (16, 1),
    }


def test_experts_and_what_is_sent_to_them_by_hand() -> None:
    """Mixtral on three GPUs of their own attention: 3, 3 and 2 experts of 176,160,768."""
    config = json.loads((ROOT / "tests/data/published_shapes.json").read_text("utf-8"))
    mixtral = Shape.from_config(config["mixtral-8x7b"]["config"])
    found = spread(mixtral, "bfloat16", Layout(tp=1, dp=3, ep=True), batch=2)
    rest, expert = 1_605_636_096, 32 * 176_160_768
    assert [(one.engine, one.experts, one.weight_bytes) for one in found.held] == [
        (0, (0, 2), 2 * (rest + 3 * expert)),
        (1, (3, 5), 2 * (rest + 3 * expert)),
        (2, (6, 7), 2 * (rest + 2 * expert)),
    ]
    state = 2 * 4096 * 2
    dispatch, combine = "tokens to experts (dispatch)", "experts to tokens (combine)"
    assert moved(found) == {
        (0, "all-gather", dispatch): (state, 32),
        (0, "reduce-scatter", combine): (3 * state, 32),
    }
    split = spread(mixtral, "bfloat16", Layout(tp=2, dp=2), batch=2)
    assert [(one.first, one.last, one.experts) for one in split.held] == [
        (0, 1, None),
        (2, 3, None),
    ]
    assert moved(split)[0, "all-gather", dispatch] == (state, 32)
    assert moved(split)[0, "all-reduce", "experts"] == (state, 32)
    assert "1/4 of each of 8" in spread_text("mixtral", split)
    # With both, each rank of TP sends its part of the tokens, and no all-reduce follows.
    both = moved(spread(mixtral, "bfloat16", Layout(tp=2, dp=2, ep=True), batch=2))
    assert (0, "all-reduce", "experts") not in both
    assert both[0, "all-gather", dispatch] == both[0, "all-gather", "tokens after the experts"]
    assert both[0, "all-gather", dispatch] == (state / 2, 32)
    alone = spread_text("mixtral", spread(mixtral, "bfloat16", Layout(tp=2, ep=True)))
    assert "4-7 of 8, whole" in alone and "dispatch" not in alone
    assert "No tokens are sent to experts: every GPU has them all." in alone


@pytest.mark.parametrize(
    ("name", "layout", "nodes", "said"),
    [
        (
            "llama-3.1-70b",
            Layout(tp=2, pp=2),
            2,
            "Between them pass: send of hidden state, residual (stage 0), broadcast of chosen"
            " tokens (stage 1); the rest stays in a node.",
        ),
        (  # nodes of three: GPU 1 sends to GPU 3, and GPUs 2 and 3 are one stage
            "llama-3.1-70b",
            Layout(tp=2, pp=3),
            2,
            "all-reduce of attention (stage 1), all-reduce of dense MLPs (stage 1),",
        ),
        (
            "qwen3-30b-a3b",
            Layout(tp=4, ep=True),
            2,
            "Between them pass: all-reduce of the embedding (stage 0), all-reduce of attention"
            " (stage 0), all-reduce of experts (stage 0), all-gather of logits (stage 0).\n",
        ),
        ("qwen3-30b-a3b", Layout(tp=8, dcp=2), 2, "; the rest stays in a node."),
    ],
)
def test_what_passes_between_nodes(name: str, layout: Layout, nodes: int, said: str) -> None:
    found = spread(shape(name), "bfloat16", layout)
    each = layout.gpus // nodes
    on = OnNodes("A100", each, nodes, each, nodes)
    assert said in spread_text(name, found, [on])
    assert "pass" not in spread_text(name, found, [replace(on, problem="too many")])
    assert "pass" not in spread_text(name, found, [replace(on, nodes=1, each=layout.gpus)])


def test_ranks_that_share_a_cache_exchange_queries_and_sums() -> None:
    found = spread(shape("qwen3-30b-a3b"), "bfloat16", Layout(tp=8, dcp=2), batch=3)
    # 4 of 32 heads a rank, of 128 numbers; a sum of 32 bits for each head of both ranks
    assert moved(found)[0, "all-gather", "queries"] == (3 * 4 * 128 * 2, 48)
    assert moved(found)[0, "all-gather", "sums of weights"] == (3 * 8 * 4, 48)
    assert moved(found)[0, "reduce-scatter", "attention's outputs"] == (3 * 8 * 128 * 2, 48)


def test_ranks_that_share_a_latent_cache_exchange_queries_in_its_width() -> None:
    found = moved(spread(shape("deepseek-v3"), "bfloat16", Layout(tp=16, dcp=4), batch=3))
    # 8 of 128 heads a rank, whose queries meet a latent of 512 and 64 rotary numbers
    assert found[0, "all-gather", "queries"] == (3 * 8 * (512 + 64) * 2, 61)
    assert found[0, "all-gather", "sums of weights"] == (3 * 32 * 4, 61)
    assert found[0, "reduce-scatter", "attention's outputs"] == (3 * 32 * 512 * 2, 61)


def test_without_a_layout_each_of_the_config(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = ["plan", "--configfile", "cluster/gpu-host/layouts.yaml", "--explain", "qwen3-30b-a3b"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "qwen3-30b-a3b at TP=2 + EP: 2 GPUs" in said
    assert "qwen3-30b-a3b at TP=1 + EP: ep true: one GPU has all experts" in said
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["layouts"]
    assert [one["layout"] for one in found] == ["TP=1", "TP=1 + EP", "TP=2", "TP=2 + EP"]


def test_sizes() -> None:
    assert [size(n) for n in (8, 8192, 4.2e6, 1.5e10)] == ["8 B", "8.19 kB", "4.2 MB", "15 GB"]


def test_the_cache_is_what_the_checkpoint_asks_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ModelOpt checkpoints may ask for an FP8 cache: 2 x 32 layers x 8 heads x 128 bytes."""
    config = json.loads((ROOT / "workflow/models/llama-3.1-8b.json").read_text())
    scheme = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    beside = {"producer": {"name": "modelopt"}, "quantization": scheme}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    assert main(["plan", "--explain", str(tmp_path), "--tp", "1"]) == 0
    assert "KV cache: 65,536 bytes a token and GPU (fp8)." in capsys.readouterr().out
    assert main(["plan", "--explain", str(tmp_path), "--tp", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kv_bytes_per_token"], found["cache_dtype"]) == (32768, "fp8")


def test_what_vllm_cannot_load_is_not_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((ROOT / "workflow/models/llama-3.1-8b.json").read_text())
    left_out = {"quant_method": "fp8", "ignored_layers": ["model.layers.0.self_attn.q_proj"]}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config | {"quantization_config": left_out}))
    assert main(["plan", "--explain", str(file), "--tp", "1"]) == 2
    assert "are not stored alike, and vLLM loads them as one" in capsys.readouterr().err
    file.write_text(json.dumps(config | {"torch_dtype": "float8_e4m3fn"}))
    assert main(["plan", "--explain", str(file), "--tp", "1"]) == 2
    assert f"{file}: torch_dtype: 'float8_e4m3fn', allowed: bfloat16" in capsys.readouterr().err


@pytest.mark.parametrize("name", FAMILIES)
def test_a_gpu_holds_what_its_matrices_take(name: str) -> None:
    """Plan and ``--explain`` count alike: what is not split counts in full on every rank."""
    found = shape(name)
    fitting = [tp for tp in (1, 2, 4, 8, 16) if found.tp_problem(tp) is None]
    assert fitting
    for tp in fitting:
        held = weights_of_rank(found, "bfloat16", Layout(tp=tp))
        assert held == pytest.approx(explain(found, "bfloat16", tp).weight_bytes_per_gpu)
