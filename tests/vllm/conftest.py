"""A copy of the project to run sweeps in: real Snakemake, real vLLM on the CPU."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PARTS = ["Snakefile", "workflow", "cluster", "scripts"]
LIMIT_S = 500


@dataclass(frozen=True)
class Project:
    """A copy of the workflow in a folder of its own, with one small sweep."""

    folder: Path

    @property
    def results(self) -> Path:
        """The sweep's results root."""
        return self.folder / "results"

    def configure(self, **changes: Any) -> None:
        """Write ``sweep.yaml``: that of cluster/local, smaller still, with ``changes``."""
        config = yaml.safe_load((self.folder / "cluster/local/sweep.yaml").read_text())
        entry = config["workloads"]["decode"] | {"batch": [1, 2], "warmups": 2, "repeats": 8}
        config |= {"runs": 1, "workloads": {"decode": entry}}
        entry |= changes.pop("decode", {})
        (self.folder / "sweep.yaml").write_text(yaml.safe_dump(config | changes))

    def command(self, *options: str) -> list[str]:
        """The sweep's Snakemake command."""
        words = [sys.executable, "-m", "snakemake", "--profile", "cluster/local"]
        return [*words, "--configfile", "sweep.yaml", *options]

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run the sweep to its end; stdout holds all that it printed."""
        return subprocess.run(
            self.command(*options),
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def engine_starts(self) -> int:
        """Engine starts so far, from the daemons' append-only log."""
        return len(self._lines(self.results / "engine_starts.jsonl"))

    def sessions(self) -> int:
        """Sessions that have ended so far, from the executor's record."""
        return len(self._lines(self.folder / ".snakemake/submitit/sessions.jsonl"))

    def rows(self) -> list[Path]:
        """The rows' files."""
        return sorted(self.results.glob("cells/**/*.parquet"))

    def failures(self) -> list[dict[str, Any]]:
        """The failure records."""
        return [json.loads(path.read_text()) for path in self.results.glob("failures/*.json")]

    def table(self, name: str) -> str:
        """A table as Markdown."""
        return (self.results / f"tables/{name}.md").read_text()

    @staticmethod
    def _lines(path: Path) -> list[str]:
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="session")
def need_vllm() -> None:
    """Skip where no vLLM is installed."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: make install")


@pytest.fixture(scope="session")
def new_project(need_vllm: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Project]:
    """Make a copy of the workflow without results."""

    def make() -> Project:
        folder = tmp_path_factory.mktemp("project")
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                ignore = shutil.ignore_patterns("__pycache__", "tests")
                shutil.copytree(source, folder / part, ignore=ignore)
            else:
                shutil.copy(source, folder / part)
        project = Project(folder)
        project.configure()
        return project

    return make
