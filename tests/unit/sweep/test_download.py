"""Fetching models where no hub is reached: each refusal is one line that says what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tpsweep.sweep.download import WEIGHT_FILES, FetchError, Request, fetch, write_marker

NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens
REVISION = "0" * 40


def request(**changes: Any) -> Request:
    fields: dict[str, Any] = {
        "name": "eight",
        "path": "org/model",
        "revision": None,
        "weights": "real",
        "hf_home": None,
    }
    return Request(**{**fields, **changes})


def fetch_command(
    asked: Request, marker: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """``tpsweep fetch``, in a process of its own: huggingface_hub reads its environment once."""
    words = [sys.executable, "-m", "tpsweep", "fetch", json.dumps(asked.__dict__), str(marker)]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE"))}
    return subprocess.run(
        words,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_local_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    asked = request(path=str(tmp_path))
    assert fetch(asked) == tmp_path
    write_marker(asked, fetch(asked), tmp_path / "models" / "available.json")
    said = json.loads((tmp_path / "models" / "available.json").read_text("utf-8"))
    assert said == {"path": str(tmp_path), "revision": None, "folder": str(tmp_path)}


@pytest.mark.parametrize(
    "environment",
    [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": NOWHERE}],
    ids=["offline", "unreachable"],
)
def test_what_cannot_be_had_is_one_line(tmp_path: Path, environment: dict[str, str]) -> None:
    marker = tmp_path / "available.json"
    done = fetch_command(request(), marker, HF_HOME=str(tmp_path / "hf"), **environment)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("tpsweep: models.eight.path: 'org/model' is not in the cache")
    assert "run on a host with network, or set hf_" in line
    assert not marker.exists()


def test_the_cache_of_hf_home_is_used(tmp_path: Path) -> None:
    """A cache in the hub's own layout, made by hand; the environment's cache is another, empty."""
    repository = tmp_path / "cache" / "hub" / "models--org--model"
    snapshot = repository / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}", "utf-8")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION, "utf-8")
    marker = tmp_path / "available.json"
    done = fetch_command(
        request(hf_home=str(tmp_path / "cache")),
        marker,
        HF_HUB_OFFLINE="1",
        HF_HOME=str(tmp_path / "empty"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(marker.read_text("utf-8"))["folder"] == str(snapshot)


@pytest.mark.parametrize("path", ["/no/such/folder", "models/of/ours", "two words"])
def test_a_path_that_is_no_folder_and_no_hub_name(path: str) -> None:
    with pytest.raises(FetchError, match="neither a folder") as caught:
        fetch(request(path=path))
    assert f"models.eight.path: {path!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


def mock_snapshot_download(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> list[dict[str, Any]]:
    """A mock of the hub: raises ``outcome``, or returns it; the list has what was asked."""
    asked: list[dict[str, Any]] = []

    def snapshot_download(path: str, **options: Any) -> str:
        asked.append({"path": path, **options})
        if isinstance(outcome, Exception):
            raise outcome
        return str(outcome)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (GatedRepoError, ("models.eight.path: 'org/model' is gated", "accept", "HF_TOKEN")),
        (RepositoryNotFoundError, ("models.eight.path: 'org/model' is not on the hub", "HF_TOKEN")),
        (RevisionNotFoundError, ("models.eight.revision: 'v9' is not a revision of 'org/model'",)),
        (HfHubHTTPError, ("models.eight.path: 'org/model'", "cannot be reached", "HfHubHTTPError")),
    ],
)
def test_the_hubs_refusals_with_a_mock_of_the_hub(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], words: tuple[str, ...]
) -> None:
    raised = error.__new__(error, "403\nof the hub,\nin several lines")  # needs no response so
    mock_snapshot_download(monkeypatch, raised)
    with pytest.raises(FetchError) as caught:
        fetch(request(revision="v9"))
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_dummy_weights_are_not_downloaded_with_a_mock_of_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = mock_snapshot_download(monkeypatch, tmp_path)
    assert fetch(request(weights="dummy")) == fetch(request(revision="v1")) == tmp_path
    dummy, real = asked
    assert set(WEIGHT_FILES) <= set(dummy["ignore_patterns"])
    assert "*.safetensors" not in real["ignore_patterns"]
    assert (real["path"], real["revision"], dummy["revision"]) == ("org/model", "v1", None)
