"""The plugin as others get it: its wheel in a clean environment, without this folder."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
OLDEST = "9.16.0"
"""The oldest Snakemake that pyproject.toml claims; all other tests use the newest."""
SNAKEFILE = """
rule all:
    input: "plain.txt", "nested.txt"
rule plain:
    output: "plain.txt"
    resources: session="s", session_command="touch $SESSION_DIR/ready; sleep 60"
    shell: "echo $SESSION_STATE > {output}"
rule nested:
    output: "nested.txt"
    run: open(output[0], "w").write("ran")
"""


@pytest.mark.registry
@pytest.mark.parametrize("version", [OLDEST])
def test_the_wheel_in_a_clean_environment(tmp_path: Path, version: str) -> None:
    assert f"snakemake>={version.removesuffix('.0')}" in (PROJECT / "pyproject.toml").read_text()
    wheels = tmp_path / "wheels"
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), str(PROJECT))
    [wheel] = wheels.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv/bin/python")
    run(python, "-m", "pip", "install", "-q", str(wheel), f"snakemake=={version}")
    work = tmp_path / "work"
    work.mkdir()
    (work / "Snakefile").write_text(SNAKEFILE)
    (work / "site.yaml").write_text(
        "name: here\ncluster: local\ngpus: {cpu: {card: CPU, per_node: 2}}\n"
    )
    words = ["-m", "snakemake", "--executor", "submitit", "--submitit-site", "site.yaml"]
    said = run(python, *words, "--jobs", "10", "--scheduler", "first-fit", cwd=work)
    assert (work / "plain.txt").read_text() == "ready\n"
    assert (work / "nested.txt").read_text() == "ran"
    assert "3 of 3 steps" in said
    listed = run(python, "-m", "snakemake", "--help")
    assert "--submitit-dry-run" in listed


def run(*words: str, cwd: Path | None = None) -> str:
    """What a program prints; it must end well."""
    outside = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        words, cwd=cwd, env=outside, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
