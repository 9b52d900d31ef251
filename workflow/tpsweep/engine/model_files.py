"""Whether a model's folder can be loaded from this node, without loading it."""

from __future__ import annotations

import json
from pathlib import Path

TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "tekken.json",
    "vocab.json",
)
HEADER_LENGTH_BYTES = 8
"""A safetensors file starts with the length of its JSON header, little-endian."""


def look_at(folder: Path, *, has_weights: bool) -> int:
    """Open config, tokenizer and, if they are read, all weights; the number of files.

    Raises ``OSError`` for files that are missing or unreadable, ``ValueError`` if not a model.
    """
    names = ["config.json", _tokenizer(folder)]
    if has_weights:
        names += _weight_files(folder)
    for name in names:
        _look_into(folder / name)
    return len(names)


def _tokenizer(folder: Path) -> str:
    for name in TOKENIZERS:
        if (folder / name).exists():
            return name
    raise ValueError(
        f"no tokenizer ({', '.join(TOKENIZERS)}); allowed: one of them, or in place of `path`"
        " `shape: <its config.json>`, which makes one"
    )


def _weight_files(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            return sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{index.name}: not an index of weights") from error
    for pattern in ("*.safetensors", "*.bin"):
        if found := sorted(path.name for path in folder.glob(pattern)):
            return found
    raise ValueError("no weights (*.safetensors, *.bin)")


def _look_into(path: Path) -> None:
    """Read the start; of safetensors the header, which says how long the file must be."""
    with path.open("rb") as file:
        start = file.read(HEADER_LENGTH_BYTES)
        if path.suffix != ".safetensors":
            return
        size, length = path.stat().st_size, int.from_bytes(start, "little")
        if len(start) < HEADER_LENGTH_BYTES or length > size:
            raise ValueError(
                f"{path.name}: truncated, or not a safetensors file (a Git LFS pointer?)"
            )
        try:
            header = json.loads(file.read(length))
            ends = [tensor["data_offsets"][1] for tensor in header.values() if "dtype" in tensor]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{path.name}: not a safetensors header") from error
    wanted = HEADER_LENGTH_BYTES + length + max(ends, default=0)
    if size != wanted:
        raise ValueError(f"{path.name}: {size} bytes, {wanted} by its header: truncated?")
