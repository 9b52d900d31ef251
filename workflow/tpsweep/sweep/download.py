"""Bring a model's files to this machine before any cell needs them.

Runs where ``snakemake`` runs (a login node), once per model; the cells then load offline.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from tpsweep.core.atomic import replacing

WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")


class FetchError(RuntimeError):
    """A model cannot be obtained; the message is one line that says what to do."""


@dataclass(frozen=True)
class Request:
    """A model as the config names it. ``path`` is a folder or a hub name."""

    name: str
    path: str
    revision: str | None
    weights: str
    hf_home: str | None

    @classmethod
    def from_json(cls, text: str) -> Request:
        """Inverse of ``Sweep.fetch_request``."""
        return cls(**json.loads(text))


def fetch(request: Request) -> Path:
    """Folder with the model's files: the local one, or a snapshot in the Hugging Face cache.

    For dummy weights only config and tokenizer are fetched. The token comes from the environment
    (``HF_TOKEN``) or huggingface_hub's own login. Raises ``FetchError``.
    """
    if Path(request.path).is_dir():
        return Path(request.path)
    if request.hf_home:
        os.environ["HF_HOME"] = request.hf_home  # before the import, which reads it
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"models.{request.name}.path: {request.path!r}"
    ignored = list(WEIGHT_FILES) if request.weights == "dummy" else ["*.pt", "*.pth", "*.gguf"]
    try:
        folder = snapshot_download(
            request.path, revision=request.revision, ignore_patterns=[*ignored, "original/*"]
        )
    except GatedRepoError as error:
        raise FetchError(
            f"{where} is gated: accept its license on the hub and set HF_TOKEN in the environment"
        ) from error
    except RevisionNotFoundError as error:
        raise FetchError(
            f"models.{request.name}.revision: {request.revision!r} is not a revision of "
            f"{request.path!r}"
        ) from error
    except RepositoryNotFoundError as error:
        raise FetchError(
            f"{where} is not on the hub, or is private: check the name or set HF_TOKEN"
        ) from error
    except HFValidationError as error:
        raise FetchError(
            f"{where} is neither a folder on this machine nor a hub name, allowed: a folder that "
            "exists, or owner/name"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise FetchError(
            f"{where} is not in the cache and the hub cannot be reached from here "
            f"({type(error).__name__}); run on a host with network, or set hf_home to a cache "
            "that has it"
        ) from error
    return Path(folder)


def write_marker(request: Request, folder: Path, marker: Path) -> None:
    """Leave the file that the cells of this model wait for: what was fetched, and where it is."""
    said = {"path": request.path, "revision": request.revision, "folder": str(folder)}
    with replacing(marker) as temporary:
        temporary.write_text(json.dumps(said, indent=1) + "\n", "utf-8")
