"""Mistakes in files of requests: ShareGPT's format, and lengths."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

from tests.bad_input.case import Case, Project, change

SHAREGPT = {
    "kind": "throughput",
    "num_prompts": [4],
    "dataset": "sharegpt",
    "dataset_path": "talks.json",
    "engine": {"max_model_len": 512},
}


LENGTHS = SHAREGPT | {"dataset": "lengths", "dataset_path": "lengths.csv", "num_prompts": [2]}


def request_file(entry: dict[str, Any], content: str) -> Callable[[Project], object]:
    """A workload over a file of requests that holds ``content``, with weights that are there."""

    def prepare(project: Project) -> None:
        (project.folder / str(entry["dataset_path"])).write_text(content)
        model = project.folder / "real"
        model.mkdir()
        shutil.copy(project.folder / "workflow/models/tiny-llama.json", model / "config.json")
        (model / "model.safetensors").write_bytes(b"looked at when it is loaded, not before")
        real = {"path": "./real", "dtype": "float32", "weights": "real"}
        project.set("models/tiny-real", real)
        project.set("workloads/load", entry | {"models": ["tiny-real"]})

    return prepare


CASES = (
    Case(
        "sharegpt_dummy",
        "ShareGPT with dummy weights",
        "config: workloads.load.dataset: 'sharegpt': not with tiny-llama",
        change("workloads/load", SHAREGPT),
    ),
    Case(
        "sharegpt_cut_off",
        "a truncated ShareGPT file",
        "config: workloads.load.dataset_path: 'talks.json': truncated: its list does not end",
        request_file(SHAREGPT, '[{"conversations": [{"from": "human", "value": "Hel'),
    ),
    Case(
        "lengths_no_number",
        "a lengths file with a word in it",
        "config: workloads.load.dataset_path: 'lengths.csv': line 2 is '30,long'",
        request_file(LENGTHS, "20,10\n30,long\n"),
    ),
    Case(
        "lengths_too_few",
        "a lengths file with fewer requests than num_prompts",
        "config: workloads.load.dataset_path: 'lengths.csv': it has 1 requests",
        request_file(LENGTHS, "20,10\n"),
    ),
    Case(
        "lengths_over_context",
        "a lengths file with a request longer than the context",
        "config: workloads.load.dataset_path: 'lengths.csv': request 2 has 500 + 100 tokens",
        request_file(LENGTHS, "20,10\n500,100\n"),
    ),
)
