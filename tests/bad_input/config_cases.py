"""Mistakes in the sweep's own file: refused before anything runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tests.bad_input.case import Case, Project, change

DECODE = "workloads/decode"
ENGINE = f"{DECODE}/engine"
SERVE: dict[str, Any] = {
    "kind": "serve",
    "num_prompts": [4],
    "input_len": [8],
    "output_len": [8],
    "request_rate": [1],
    "engine": {"max_model_len": 512},
}


def text(content: bytes) -> Callable[[Project], object]:
    """The config file holds just this."""
    return lambda project: project.sweep.write_bytes(content)


def edited(old: str, new: str) -> Callable[[Project], object]:
    """The config's text with a piece replaced (which must be there)."""

    def edit(project: Project) -> None:
        before = project.sweep.read_text("utf-8")
        assert old in before, old
        project.sweep.write_text(before.replace(old, new, 1), "utf-8")

    return edit


def serve(key: str, value: Any) -> Callable[[Project], object]:
    """A serve workload with one key changed."""
    return change("workloads/load", {**SERVE, key: value})


def _many_cells(project: Project) -> None:
    project.set(f"{DECODE}/batch", list(range(1, 17)))
    project.set(f"{DECODE}/input_len", list(range(1, 301)))
    project.set(f"{DECODE}/output_len", list(range(1, 101)))


FILES = (
    Case("no_yaml", "the file is not YAML", "not valid JSON or YAML", text(b"tp: [1, 2\nruns: {")),
    Case("empty", "the file is empty", "with keys at top level", text(b"")),
    Case("a_list", "the file is a list", "with keys at top level", text(b"- tp\n- runs\n")),
    Case(
        "key_twice",
        "a duplicate key",
        "tpsweep: config: runs: '5': given twice, lines ",
        edited("runs: 1\n", "runs: 1\nruns: 5\n"),
    ),
    Case(
        "key_twice_below",
        "a duplicate key, further down",
        "tpsweep: config: models.tiny-llama.dtype: 'bfloat16': given twice, lines ",
        edited("    dtype: float32\n", "    dtype: float32\n    dtype: bfloat16\n"),
    ),
)

UNKNOWN_KEYS = (
    Case(
        "key_top",
        "unknown key: top level",
        "tpsweep: config: runz: 2: unknown key; allowed: results, vllm_version",
        change("runz", 2),
    ),
    Case(
        "key_model",
        "unknown key: model",
        "config: models.tiny-llama.revison: 'x': unknown key; allowed: path, revision",
        change("models/tiny-llama/revison", "x"),
    ),
    Case(
        "key_workload",
        "unknown key: workload",
        "config: workloads.decode.bach: [1]: unknown key; allowed: ",
        change(f"{DECODE}/bach", [1]),
    ),
    Case(
        "key_engine",
        "unknown key: workload.engine",
        "config: workloads.decode.engine.seqs: 8: unknown key; allowed: max_model_len",
        change(f"{ENGINE}/seqs", 8),
    ),
    Case(
        "key_slo",
        "unknown key: slo",
        "config: workloads.load.slo.ttft: 9: unknown key; allowed: ttft_ms",
        serve("slo", {"ttft": 9}),
    ),
    Case(
        "key_exclude",
        "unknown key: exclude",
        "config: exclude.0.modle: 'x': unknown key; allowed: workload, gpu",
        change("exclude", [{"reason": "r", "modle": "x"}]),
    ),
    Case(
        "key_only",
        "unknown key: only",
        "config: only.modle: 'x': unknown key; allowed: workload, gpu",
        change("only", {"modle": "x"}),
    ),
    Case(
        "only_nothing",
        "`only` matches no cell",
        "config: only: {'tp': 3}: it matches no planned cell",
        change("only", {"tp": 3}),
    ),
)

VALUES = (
    Case(
        "batch_0",
        "batch 0",
        "config: workloads.decode.batch.0: 0: allowed: ",
        change(f"{DECODE}/batch", [0]),
    ),
    Case(
        "batch_negative",
        "batch -1",
        "workloads.decode.batch.1: -1: allowed: ",
        change(f"{DECODE}/batch", [1, -1]),
    ),
    Case(
        "batch_none",
        "no batch",
        "workloads.decode.batch: []: allowed: at least 1",
        change(f"{DECODE}/batch", []),
    ),
    Case(
        "number_as_text",
        "a number in quotes",
        "runs: '2': allowed: a valid integer",
        change("runs", "2"),
    ),
    Case(
        "no_mapping", "a list for a mapping", "models: []: allowed: a mapping", change("models", [])
    ),
    Case(
        "nan_utilization",
        "NaN",
        "gpu_memory_utilization: nan: allowed: ",
        change(f"{ENGINE}/gpu_memory_utilization", math.nan),
    ),
    Case(
        "nan_rate",
        "NaN as a rate",
        "config: workloads.load.request_rate.0: nan: allowed: ",
        serve("request_rate", [math.nan]),
    ),
    Case(
        "nan_slo",
        "NaN as a limit",
        "config: workloads.load.slo.ttft_ms: nan: allowed: ",
        serve("slo", {"ttft_ms": math.nan}),
    ),
    Case(
        "inf_slo",
        "infinity as a limit",
        "config: workloads.load.slo.ttft_ms: inf: allowed: a finite",
        serve("slo", {"ttft_ms": math.inf}),
    ),
    Case(
        "inf_runs",
        "infinity as a count",
        "config: runs: inf: allowed: a valid integer",
        change("runs", math.inf),
    ),
    Case(
        "nan_argument",
        "NaN in a variant",
        "'swap': nan}: allowed: finite",
        change("variants/eager/swap", math.nan),
    ),
    Case(
        "huge_runs", "a billion runs", "tpsweep: config: runs: 1000000000: ", change("runs", 10**9)
    ),
    Case(
        "huge_axes",
        "too many cells",
        "config: workloads.decode: 'its axes': allowed: up to 100000 cells",
        _many_cells,
    ),
)

FITS = (
    Case(
        "tp_3",
        "TP=3 for 4 heads",
        "config: tp: 3: it does not divide the model's 4 attention heads",
        change("tp", [1, 3]),
    ),
    Case(
        "too_long",
        "input + output longer than the context",
        "config: workloads.decode.input_len + output_len: 532: allowed: ",
        change(f"{DECODE}/input_len", [500]),
    ),
    Case(
        "context",
        "a context longer than the model's",
        "engine.max_model_len: 4096: allowed: up to the 2048",
        change(f"{ENGINE}/max_model_len", 4096),
    ),
    Case(
        "unknown_gpu",
        "a node class that the site does not have",
        "tpsweep: config: gpus: 'H2O0': allowed: classes of site local: here",
        change("gpus", ["H2O0"]),
    ),
    Case(
        "unknown_model",
        "a model that does not exist",
        "workloads.decode.models: 'huge': allowed: tiny-llama",
        change(f"{DECODE}/models", ["huge"]),
    ),
    Case(
        "host_in_a_variant",
        "a server's address in a variant, abbreviated",
        "variants.eager: {'hos': '0.0.0.0'}: 'hos' (host) is set by tpsweep ",
        change("variants/eager", {"hos": "0.0.0.0"}),
    ),
    Case(
        "owned_argument",
        "TP in a variant",
        "variants.eager: {'tensor_parallel_size': 2}: ",
        change("variants/eager", {"tensor_parallel_size": 2}),
    ),
)
CASES = (*FILES, *UNKNOWN_KEYS, *VALUES, *FITS)
