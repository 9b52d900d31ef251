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
from tpsweep.perfmodel.modules import WHOLE
from tpsweep.plan.explain import COMMUNICATION, STATE, explain
from tpsweep.plan.explain_page import page
from tpsweep.plan.explain_text import size, text
from tpsweep.plan.split import VLLM_VERSION

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
        (["--explain", "llama-3.1-8b"], "--tp: None, allowed"),
        (["--explain", "llama-3.1-8b", "--tp", "3"], "--tp: 3: it does not divide the model's 32"),
        (["--explain", "gpt-5", "--tp", "2"], "--explain: 'gpt-5', allowed: a config.json"),
        (["--explain", "Makefile", "--tp", "2"], "Makefile: not JSON"),
        (["--explain", "llama-3.1-8b", "--tp", "2", "--batch", "0"], "--batch: 0"),
        (["--explain", "llama-3.1-8b", "--tp", "2", "--dtype", "int8"], "--dtype: 'int8'"),
        (["--tp", "2"], "--tp: only with --explain"),
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


def test_sizes() -> None:
    assert [size(n) for n in (8, 8192, 4.2e6, 1.5e10)] == ["8 B", "8.19 kB", "4.2 MB", "15 GB"]
