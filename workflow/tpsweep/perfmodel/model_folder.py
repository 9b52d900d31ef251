"""A model's files: its config.json as vLLM sees it, what identifies it, and a folder that has no
weights but is enough to run its shape."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tpsweep.core.atomic import replacing
from tpsweep.perfmodel.architectures import longest_context, size, text_of

SIDECAR = "hf_quant_config.json"
"""Where ModelOpt says how a checkpoint is quantized, if config.json does not."""


def read_config(path: Path) -> dict[str, Any]:
    """Content of a config.json (or of a shape file, which is one). Raises ``ValueError``, one
    line, for a file that is not there or is not a JSON object."""
    try:
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: not a JSON object")
    return config


def read_model(path: Path) -> dict[str, Any]:
    """Content of a config.json as vLLM sees it: if it does not say how the weights are quantized,
    ``hf_quant_config.json`` beside it may. Raises ``ValueError`` as ``read_config`` does."""
    config, sidecar = read_config(path), _sidecar(path)
    if sidecar is None or config.get("quantization_config") is not None:
        return config
    return {**config, "quantization_config": sidecar}


def _sidecar(path: Path) -> dict[str, Any] | None:
    place = path.with_name(SIDECAR)
    return read_config(place) if path.name == "config.json" and place.is_file() else None


def file_digest(path: Path) -> str:
    """Digest of a config.json with ``hf_quant_config.json`` beside it, if there is one."""
    digest, sidecar = config_digest(read_config(path)), _sidecar(path)
    if sidecar is None:
        return digest
    return hashlib.sha256(_canonical([digest, config_digest(sidecar)]).encode()).hexdigest()


def config_digest(config: dict[str, Any]) -> str:
    """sha256 of the canonical config; keys that begin with ``_`` are comments and do not count."""
    return hashlib.sha256(_canonical(_without_comments(config)).encode()).hexdigest()


def folder_digest(folder: Path, weights: str) -> str:
    """Digest of a model folder: its config.json (``file_digest``) and, for real weights, its
    safetensors files' names and sizes (reading terabytes of weights for a plan takes too long)."""
    digest = file_digest(folder / "config.json")
    if weights != "real":
        return digest
    files = {file.name: file.stat().st_size for file in folder.glob("*.safetensors")}
    return hashlib.sha256(_canonical([digest, files]).encode()).hexdigest()


def make_model_folder(shape_file: Path, folder: Path) -> None:
    """Write a model folder without weights: what vLLM needs to run the shape with dummy weights.

    ``config.json`` comes last: where it is, the folder is whole. The tokenizer is word-level
    (token i is the word ``w<i>``): right for random lengths, meaningless for text.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    config = _without_comments(read_model(shape_file))
    text = text_of(config)[1]
    words = {f"w{i}": i for i in range(size(text, "vocab_size"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {name: config[name] for name in ("bos_token_id", "eos_token_id") if name in config}
    tokens = {name.removesuffix("_id"): f"w{_first(value)}" for name, value in special.items()}
    about_tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": longest_context(text),
        **tokens,
    }
    _write(folder / "tokenizer.json", tokenizer.to_str())
    _write(folder / "tokenizer_config.json", _pretty(about_tokenizer))
    _write(folder / "generation_config.json", _pretty(special))
    _write(folder / "config.json", _pretty(config))


def _without_comments(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _first(value: int | list[int]) -> int:
    return value[0] if isinstance(value, list) else value


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")
