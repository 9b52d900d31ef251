"""Config files of a command line that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.configfiles import missing


@pytest.mark.parametrize(
    ("words", "file"),
    [
        ("snakemake --configfile a.yaml -n", ""),
        ("snakemake -n", ""),
        ("snakemake --configfile a.yaml b.yaml --config c=d", "b.yaml"),
        ("snakemake --configfiles=b.yaml a.yaml", "b.yaml"),
        ("snakemake --configfile a.yaml -- b.yaml", ""),
        ("snakemake --configfile a.yaml --directory b", ""),
    ],
)
def test_the_first_that_is_missing_is_named(
    words: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").touch()
    said = missing(words.split())
    assert (f": {file}: no such file, allowed: " in said) if file else said == ""
