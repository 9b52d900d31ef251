"""Conversations of a file of chat data as a request set, chosen by vLLM's own rules."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tpsweep.sweep import conversations
from tpsweep.sweep.request_set import RequestSet


def read(path: Path, count: int, tokenizer: Any) -> RequestSet:
    """The first ``count`` conversations, in an order shuffled by the seed 0, that vLLM keeps.

    A request is a conversation's first turn, its length that of the second (vLLM's
    ``ShareGPTDataset``: at least 4 tokens each, prompts up to 1024, both up to 2048 together).
    Other forms of chat data are brought into ShareGPT's first (``sweep.conversations``), where a
    system turn is part of the next one. Raises ``ValueError``, one line.
    """
    try:
        other = conversations.converted(path)
    except ValueError as error:
        raise ValueError(f"dataset_path: {path}: {error}") from error
    if other is None:
        return _read(path, path, count, tokenizer)
    with tempfile.TemporaryDirectory(prefix="tpsweep-") as folder:
        same = Path(folder, "conversations.json")
        same.write_text(json.dumps(other), "utf-8")
        return _read(same, path, count, tokenizer)


def _read(file: Path, path: Path, count: int, tokenizer: Any) -> RequestSet:
    """As ``read``, from ``file``, which has the conversations of ``path``."""
    from vllm.benchmarks.datasets import ShareGPTDataset

    try:
        dataset = ShareGPTDataset(dataset_path=str(file), random_seed=0)
        samples = dataset.sample(tokenizer=tokenizer, num_requests=count, no_oversample=True)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        said = f"{type(error).__name__}: {error}"
        raise ValueError(f"dataset_path: {path} is not in ShareGPT's format: {said}") from error
    if len(samples) < count:
        raise ValueError(
            f"num_prompts: {count}, allowed: up to {len(samples)}, the conversations of {path} "
            "whose lengths vLLM's benchmark keeps"
        )
    prompts = [list(tokenizer(sample.prompt).input_ids) for sample in samples]
    return RequestSet(prompts, [int(sample.expected_output_len) for sample in samples])
