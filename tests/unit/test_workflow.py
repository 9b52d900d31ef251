"""The Snakefile with real Snakemake; all cells are excluded, so no engine is started."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]


def snakemake(folder: Path, sweep: str, *more: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "snakemake", "--profile", "cluster/local"]
    return subprocess.run(
        [*words, "--configfile", sweep, *more],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def project(folder: Path) -> Path:
    for part in ("workflow", "cluster", "scripts"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", folder)
    text = (ROOT / "cluster/local/sweep.yaml").read_text()
    site = folder / "cluster/local/site.yaml"
    for name in ("one", "two"):
        site.write_text(f"{site.read_text()}  {name}: {{card: CPU, per_node: 2}}\n")
        excluded = f"exclude: [{{gpu: {name}, reason: by a test}}]\n"
        (folder / f"{name}.yaml").write_text(text.replace("[here]", f"[{name}]") + excluded)
    return folder


def test_the_manifest_is_always_that_of_the_config(tmp_path: Path) -> None:
    folder = project(tmp_path / "original")
    for name in ("one", "two", "one"):
        done = snakemake(folder, f"{name}.yaml")
        assert done.returncode == 0, done.stderr[-2000:]
        assert set(pd.read_parquet(folder / "results/matrix.parquet").gpu) == {name}
    assert "Not measured" in (folder / "results/report.html").read_text()
    again = snakemake(folder, "one.yaml").stderr
    assert "Nothing to be done" in again
    assert "tpsweep: 0/0 cells measured, 31 excluded" in again
    planned = snakemake(folder, "one.yaml", "-n")
    assert "cells measured" not in planned.stdout + planned.stderr
    # A copy has nothing of Snakemake's own records: the manifest itself says whose it is.
    copy = project(tmp_path / "copy")
    shutil.copytree(folder / "results", copy / "results", copy_function=shutil.copyfile)
    assert snakemake(copy, "two.yaml").returncode == 0
    assert set(pd.read_parquet(copy / "results/matrix.parquet").gpu) == {"two"}


def test_a_wrong_config_is_one_line(tmp_path: Path) -> None:
    folder = project(tmp_path)
    bad = (folder / "one.yaml").read_text().replace("runs: 2", "runz: 2")
    (folder / "bad.yaml").write_text(bad)
    done = snakemake(folder, "bad.yaml")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("Using profile")]
    assert line.startswith("tpsweep: config: runz: 2: unknown key; allowed: results")


def test_only_on_the_command_line_keeps_the_profiles_site(tmp_path: Path) -> None:
    """Snakemake lets `--config` replace all of the profile's."""
    folder = project(tmp_path)
    sweep, part = "cluster/local/sweep.yaml", "only={workload: [latency, serve], tp: 2}"
    done = snakemake(folder, sweep, "-n", "--config", part)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "only: 10 of 31 planned cells are selected" in done.stderr


def test_a_failed_sweep_has_a_page_that_says_so(tmp_path: Path) -> None:
    folder = project(tmp_path)
    rules = folder / "workflow/rules/models.smk"
    rules.write_text(rules.read_text().replace("tpsweep model", "tpsweep model --no-such-flag"))
    done = snakemake(folder, "cluster/local/sweep.yaml")
    assert done.returncode != 0
    for made in ("report.html", "tables/tp_comparison.md"):
        assert "INCOMPLETE 0/" in (folder / "results" / made).read_text()
