"""Model folders that cannot be loaded are told apart from those that can."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tpsweep.engine.model_files import look_at


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def safetensors(path: Path, data: int = 8) -> None:
    """A file of one synthetic tensor, as the format has it."""
    tensor = {"dtype": "F32", "shape": [data // 4], "data_offsets": [0, data]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": tensor}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * data)


def test_made_up_weights_need_config_and_tokenizer(folder: Path) -> None:
    assert look_at(folder, has_weights=False) == 2
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="no tokenizer"):
        look_at(folder, has_weights=False)


def test_every_shard_of_the_index_is_opened(folder: Path) -> None:
    with pytest.raises(ValueError, match="no weights"):
        look_at(folder, has_weights=True)
    shards = ["a.safetensors", "b.safetensors"]
    index = {"weight_map": {"x": shards[0], "y": shards[1], "z": shards[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    safetensors(folder / shards[0])
    with pytest.raises(FileNotFoundError, match=r"b\.safetensors"):
        look_at(folder, has_weights=True)
    safetensors(folder / shards[1])
    assert look_at(folder, has_weights=True) == 4


def test_a_cut_off_shard_and_a_pointer_are_noticed(folder: Path) -> None:
    file = folder / "model.safetensors"
    safetensors(file)
    assert look_at(folder, has_weights=True) == 3
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated"):
        look_at(folder, has_weights=True)
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(ValueError, match="Git LFS pointer"):
        look_at(folder, has_weights=True)
