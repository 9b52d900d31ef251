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
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from tpsweep.core.cell import Cell
from tpsweep.sweep import arrivals, conversations

_NUMBER = re.compile(r"0*[1-9][0-9]{0,8}", re.ASCII)
FORMAT = "allowed: a line per request with input tokens, output tokens, such as 220,190"


@dataclass(frozen=True)
class Prefix:
    """The first ``length`` tokens of the prompts in ``shared`` are the same; ``vocabulary`` is
    what the rest is drawn from."""

    length: int
    shared: frozenset[int]
    vocabulary: int


@dataclass(frozen=True)
class RequestSet:
    """``prompts``: token ids, one list per request; ``output_lens``: tokens requested.

    ``arrivals_s``: when each is sent, from the first on, in the order of the set; None where a
    rate says it. ``prefix``: what prompts share, for engines that cache prefixes.
    """

    prompts: list[list[int]]
    output_lens: list[int]
    arrivals_s: list[float] | None = None
    prefix: Prefix | None = None

    def for_seed(self, seed: int) -> RequestSet:
        """The set as it is sent for a seed: the same, but that nothing except a shared prefix may
        be in an engine's cache from another seed."""
        if self.prefix is None:
            return self
        lengths = [
            len(prompt) - self._kept(place, self.prefix)
            for place, prompt in enumerate(self.prompts)
        ]
        fresh = _draw([self.digest, seed], lengths, self.prefix.vocabulary)
        prompts = [
            prompt[: self._kept(place, self.prefix)] + rest
            for place, (prompt, rest) in enumerate(zip(self.prompts, fresh, strict=True))
        ]
        return replace(self, prompts=prompts)

    @staticmethod
    def _kept(place: int, prefix: Prefix) -> int:
        return prefix.length if place in prefix.shared else 0

    @property
    def most_hits(self) -> int:
        """Prompt tokens that an engine may find in its prefix cache, each time the set is sent."""
        return self.prefix.length * len(self.prefix.shared) if self.prefix else 0

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
        """sha256 of prompts, lengths and arrivals."""
        parts: list[object] = [self.prompts, self.output_lens]
        parts += [self.arrivals_s] if self.arrivals_s is not None else []
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


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
        found = _random(lengths, vocabulary)
        if cell.prefix_len and cell.prefix_share:
            return _sharing(found, cell.prefix_len, cell.prefix_share, vocabulary)
        return found
    if dataset is None:
        raise ValueError(f"dataset {cell.dataset}: no file given")
    if file_digest(dataset) != cell.extra.get("dataset_digest"):
        raise ValueError(f"dataset_path: {dataset} is not the file that the cell was planned for")
    if cell.dataset == "lengths":
        return _random(read_lengths(dataset, count), vocabulary)
    if cell.dataset == "trace":
        trace = arrivals.read(dataset, count)
        times = [one.time_s / (cell.speed or 1.0) for one in trace]
        lengths = [(one.input_len, one.output_len) for one in trace]
        return replace(_random(lengths, vocabulary), arrivals_s=times)
    return sharegpt(dataset, count)


def recorded_rate(path: Path, count: int) -> float:
    """Requests/s of a trace's first ``count``, as recorded; ``inf`` if all come at once."""
    found = arrivals.read(path, count)
    span = found[-1].time_s
    return (count - 1) / span if span else float("inf")


def check_file(dataset: str, path: Path, count: int, longest: int) -> None:
    """What planning can tell of a dataset's file without a tokenizer, whatever its size.

    It must have ``count`` requests of at most ``longest`` tokens. Raises ``ValueError``, one
    line with what is allowed, and ``OSError`` if it cannot be read.
    """
    if dataset == "sharegpt":
        conversations.check(path, count)
        return
    if dataset == "lengths":
        pairs = read_lengths(path, count)
    else:
        pairs = [(one.input_len, one.output_len) for one in arrivals.read(path, count)]
    for number, (prompt, answer) in enumerate(pairs, 1):
        if prompt + answer > longest:
            raise ValueError(
                f"request {number} has {prompt} + {answer} tokens; allowed: input + output up "
                f"to engine.max_model_len = {longest}"
            )


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
    prompts = _draw([lengths, vocabulary], [prompt for prompt, _ in lengths], vocabulary)
    return RequestSet(prompts, [answer for _, answer in lengths])


def _draw(source: list[object], lengths: list[int], vocabulary: int) -> list[list[int]]:
    """Random token ids, the same for an equal ``source``."""
    seed = hashlib.sha256(json.dumps(source).encode()).digest()
    random = np.random.default_rng(int.from_bytes(seed[:8], "big"))
    return [random.integers(0, vocabulary, size=length).tolist() for length in lengths]


def _sharing(found: RequestSet, length: int, share: float, vocabulary: int) -> RequestSet:
    """The set with one prefix for a share of its requests, spread evenly over it."""
    count = len(found.prompts)
    members = round(share * count)
    shared = frozenset(place * count // members for place in range(members))
    head = found.prompts[0][:length]
    prompts = [
        head + prompt[length:] if place in shared else prompt
        for place, prompt in enumerate(found.prompts)
    ]
    return replace(found, prompts=prompts, prefix=Prefix(length, shared, vocabulary))
