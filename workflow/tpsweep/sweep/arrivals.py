"""Arrival traces: when requests came and how long they were, as providers publish them.

BurstGPT's and Azure's CSV, Mooncake's JSON lines. Prompts are not published; what Mooncake tells of
shared prefixes (``hash_ids``) is not used.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

_COLUMNS = {
    "timestamp": ("timestamp", "time", "arrival_time"),
    "input": ("request tokens", "contexttokens", "input_length", "num_prefill_tokens"),
    "output": ("response tokens", "generatedtokens", "output_length", "num_decode_tokens"),
}
FORMAT = (
    "allowed: CSV with Timestamp, Request tokens, Response tokens (BurstGPT) or TIMESTAMP, "
    "ContextTokens, GeneratedTokens (Azure), or JSON lines with timestamp, input_length, "
    "output_length (Mooncake)"
)
LONGEST = 10**9
"""Tokens: more is no length."""


@dataclass(frozen=True)
class Arrival:
    """One request: seconds after the first one, tokens of prompt and answer."""

    time_s: float
    input_len: int
    output_len: int


def read(path: Path, count: int) -> list[Arrival]:
    """The first ``count`` requests of a trace; those without prompt or answer (failed ones) are
    skipped. Raises ``ValueError``, one line, that names the line, and ``OSError``."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        first = file.readline()
        file.seek(0)
        lines = _json_lines(file) if first.lstrip().startswith("{") else _csv_lines(file)
        usable = (one for one in lines if one.input_len and one.output_len)
        found = list(islice(usable, count))
    if len(found) < count:
        raise ValueError(
            f"it has {len(found)} requests with prompt and answer, num_prompts asks for {count}"
        )
    start = found[0].time_s
    for before, after in pairwise(found):
        if after.time_s < before.time_s:
            raise ValueError(
                "its timestamps go back (after "
                f"{before.time_s - start:g} s); allowed: requests in the order of their arrival"
            )
    return [replace(one, time_s=one.time_s - start) for one in found]


def _csv_lines(file: Any) -> Iterator[Arrival]:
    reader = csv.reader(file)
    head = [name.strip().lower() for name in next(reader, [])]
    places = [
        next((head.index(name) for name in names if name in head), None)
        for names in _COLUMNS.values()
    ]
    if None in places:
        raise ValueError(f"its columns are {', '.join(head)[:80] or 'none'}; {FORMAT}")
    for number, words in enumerate(reader, 2):
        if not any(words):
            continue
        try:
            time, prompt, answer = (words[place] for place in places if place is not None)
            yield Arrival(_seconds(time), _tokens(prompt), _tokens(answer))
        except (IndexError, ValueError):
            raise ValueError(f"line {number} is {','.join(words)[:60]!r}; {FORMAT}") from None


def _json_lines(file: Any) -> Iterator[Arrival]:
    """Mooncake's timestamps are milliseconds."""
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            time, prompt, answer = (
                values[key] for key in ("timestamp", "input_length", "output_length")
            )
            yield Arrival(_seconds(str(time)) / 1e3, _tokens(str(prompt)), _tokens(str(answer)))
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"line {number} is {line.strip()[:60]!r}; {FORMAT}") from None


def _seconds(text: str) -> float:
    """A number of seconds, or a date and time."""
    try:
        found = float(text)
    except ValueError:
        found = datetime.fromisoformat(text.strip()).timestamp()
    if not math.isfinite(found):
        raise ValueError(text)
    return found


def _tokens(text: str) -> int:
    number = float(text)
    if not number.is_integer() or not 0 <= number < LONGEST:
        raise ValueError(text)
    return int(number)
