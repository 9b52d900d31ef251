"""The manifest holds every cell with its status, and is written whole or not at all."""

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from snakemake_executor_plugin_submitit.site import load_site
from tpsweep.config.load import load_config
from tpsweep.core.manifest import SCHEMA
from tpsweep.core.schema import IDENTITY_NAMES
from tpsweep.sweep.expand import Planned, expand
from tpsweep.sweep.manifest import write_manifest

ROOT = Path(__file__).parents[3]
SITE = """
name: testbed
cluster: local
gpus:
  H100: {card: NVIDIA H100 80GB HBM3, memory_gib: 80, per_node: 8}
  A100: {card: NVIDIA A100 80GB PCIe, memory_gib: 80, per_node: 2}
"""


@pytest.fixture
def planned(tmp_path: Path) -> list[Planned]:
    """The committed sweep on a made-up site."""
    (tmp_path / "site.yaml").write_text(SITE)
    data = yaml.safe_load((ROOT / "config.yaml").read_text("utf-8"))
    return expand(load_config(data, ROOT), load_site(tmp_path / "site.yaml"))


def test_every_cell_comes_back(planned: list[Planned], tmp_path: Path) -> None:
    path = tmp_path / "results" / "matrix.parquet"
    write_manifest(planned, path)
    frame = pd.read_parquet(path)
    assert list(frame["cell_id"]) == [item.cell.cell_id for item in planned]
    assert list(frame["path"]) == [item.cell.path for item in planned]
    assert list(frame["session"]) == [item.started.session for item in planned]
    assert set(frame["status"]) == {"planned", "infeasible"}
    assert set(IDENTITY_NAMES) <= set(frame.columns)
    unused = {"max_concurrency", "speed", "prefix_len", "prefix_share"}
    assert all(frame[name].notna().any() for name in {*IDENTITY_NAMES} - unused)
    assert frame.loc[frame["status"] == "planned", "reason"].isna().all()
    assert frame.loc[frame["status"] != "planned", "reason"].notna().all()
    assert set(frame["model_label"]) == {"Llama-3.1-8B-Instruct", "Llama-3.1-70B-Instruct"}
    first, item = frame.iloc[0], planned[0]
    assert (first["tp"], first["gpus"], first["batch"]) == (1, 1, item.cell.batch)
    assert first["gpu_card"] == "NVIDIA H100 80GB HBM3"
    assert pd.isna(frame.loc[frame["workload"] == "serve", "batch"]).all()


def test_an_empty_matrix_has_the_columns(tmp_path: Path) -> None:
    write_manifest([], tmp_path / "matrix.parquet")
    assert list(pd.read_parquet(tmp_path / "matrix.parquet").columns) == SCHEMA.names


def test_a_failed_write_leaves_the_old_file(
    planned: list[Planned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "matrix.parquet"
    write_manifest(planned[:1], path)

    def full(table: object, target: str, **_: object) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        write_manifest(planned, path)
    monkeypatch.undo()
    assert len(pd.read_parquet(path)) == 1
    assert [file.name for file in tmp_path.glob(".*")] == []
