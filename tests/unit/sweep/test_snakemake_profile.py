"""What a command line says of the profile."""

from __future__ import annotations

from pathlib import Path

import pytest

from tpsweep.sweep.snakemake_profile import site_in_words, site_of

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("words", "site"),
    [
        (["--profile", "cluster/local", "--config", "only={tp: 1}"], "cluster/local/site.yaml"),
        (["-n", "--profile=cluster/pace"], "cluster/pace/site.yaml"),
        (["--profile", "cluster/local", "--profile", "cluster/pace"], "cluster/pace/site.yaml"),
        (["--profile", "no/such/folder"], None),
        (["--profile"], None),
        (["-n"], None),
    ],
)
def test_the_site_that_a_command_line_names(
    words: list[str], site: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert site_in_words(["snakemake", *words]) == site


def test_a_profile_without_a_site(tmp_path: Path) -> None:
    for content in ("executor: submitit\n", "config: [a=b]\n", "config: {a: b}\n"):
        (tmp_path / "config.yaml").write_text(content)
        assert site_in_words(["--profile", str(tmp_path)]) is None


def test_a_site_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "config.yaml").write_text("submitit-site: ~/site.yaml\n")
    assert site_of(tmp_path) == Path("/home/me/site.yaml")
