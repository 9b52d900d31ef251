"""The requests of ``throughput`` and ``serve``: prompts as token ids, and how long the answers are.

A set depends on the config's dataset alone (and on the model's vocabulary or tokenizer), not on
TP, replicas, rate or run: every cell that is compared with another one sends the same requests.
The row has ``RequestSet.digest``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tpsweep.core.cell import Cell

_NUMBER = re.compile(r"0*[1-9][0-9]{0,8}", re.ASCII)
FORMAT = "allowed: a line per request with input tokens, output tokens, such as 220,190"


@dataclass(frozen=True)
class RequestSet:
    """``prompts``: token ids, one list per request; ``output_lens``: tokens requested."""

    prompts: list[list[int]]
    output_lens: list[int]

    @property
    def prompt_lens(self) -> list[int]:
        """Tokens of each prompt."""
        return [len(prompt) for prompt in self.prompts]

    @property
    def tokens(self) -> int:
        """Input and output tokens of the whole set."""
        return sum(self.prompt_lens) + sum(self.output_lens)

    @cached_property
    def digest(self) -> str:
        """sha256 of the prompts and lengths."""
        return hashlib.sha256(json.dumps([self.prompts, self.output_lens]).encode()).hexdigest()


ShareGpt = Callable[[Path, int], RequestSet]
"""Reads the first usable conversations of a file with the model's tokenizer."""


def of_cell(cell: Cell, dataset: Path | None, vocabulary: int, sharegpt: ShareGpt) -> RequestSet:
    """The request set of a cell; ``dataset`` is its file, None for random lengths.

    Raises ``ValueError``, one line, if the file is not the one that was planned with, or has
    fewer requests than ``num_prompts``.
    """
    count = cell.num_prompts or 0
    if cell.dataset == "random":
        lengths = [(cell.input_len or 0, cell.output_len or 0)] * count
        return _random(lengths, vocabulary)
    if dataset is None:
        raise ValueError(f"dataset {cell.dataset}: no file given")
    if file_digest(dataset) != cell.extra.get("dataset_digest"):
        raise ValueError(f"dataset_path: {dataset} is not the file that the cell was planned for")
    if cell.dataset == "lengths":
        return _random(read_lengths(dataset, count), vocabulary)
    return sharegpt(dataset, count)


def check_file(dataset: str, path: Path, count: int, longest: int) -> None:
    """What planning can tell of a dataset's file without a tokenizer, whatever its size.

    It must have ``count`` requests of at most ``longest`` tokens. Raises ``ValueError``, one
    line with what is allowed, and ``OSError`` if it cannot be read.
    """
    if dataset == "lengths":
        for number, (prompt, answer) in enumerate(read_lengths(path, count), 1):
            if prompt + answer > longest:
                raise ValueError(
                    f"request {number} has {prompt} + {answer} tokens; allowed: input + output up "
                    f"to engine.max_model_len = {longest}"
                )
        return
    with path.open("rb") as file:
        head = file.read(4096).lstrip()
        file.seek(max(0, path.stat().st_size - 4096))
        tail = file.read().rstrip()
    if not head.startswith(b"["):
        raise ValueError("it is not a list of conversations; allowed: JSON in ShareGPT's format")
    if not tail.endswith(b"]"):
        raise ValueError("truncated: its list does not end; allowed: a complete ShareGPT file")


def file_digest(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_lengths(path: Path, count: int) -> list[tuple[int, int]]:
    """The first ``count`` pairs (input tokens, output tokens) of a lengths file.

    A line per request, two whole numbers with a comma or blanks between; empty lines and those
    that begin with # are skipped. Raises ``ValueError``, one line, that names the line.
    """
    pairs: list[tuple[int, int]] = []
    text = path.read_text("utf-8-sig", errors="replace")  # a spreadsheet begins with a mark
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = line.replace(",", " ").split()
        if len(words) != 2 or not all(map(_NUMBER.fullmatch, words)):
            raise ValueError(f"line {number} is {line[:60]!r}; {FORMAT}")
        pairs.append((int(words[0]), int(words[1])))
    if len(pairs) < count:
        raise ValueError(f"it has {len(pairs)} requests, num_prompts asks for {count}; {FORMAT}")
    return pairs[:count]


def _random(lengths: list[tuple[int, int]], vocabulary: int) -> RequestSet:
    """Prompts of random token ids: the same for equal lengths and vocabularies, everywhere."""
    seed = hashlib.sha256(json.dumps([lengths, vocabulary]).encode()).digest()
    random = np.random.default_rng(int.from_bytes(seed[:8], "big"))
    prompts = [random.integers(0, vocabulary, size=prompt).tolist() for prompt, _ in lengths]
    return RequestSet(prompts, [answer for _, answer in lengths])
