"""The link check: what it finds, and that the repository's own pages pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "docs", "cluster", "results")


def check(*names: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "check_links.py"), *names]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "other.md").write_text("# Other\n\n## What it *cannot* say: `x`, and why\n")
    (tmp_path / "page.html").write_text('<h2 id="here">Here</h2>')
    return tmp_path


def test_the_repository_has_no_broken_link() -> None:
    done = check(*PAGES)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        ("[a](gone.md)", "gone.md: no such file"),
        ("![a](gone.svg)", "gone.svg: no such file"),
        ("[a](other.md#gone)", "other.md#gone: no such anchor"),
        ("[a](#gone)", "#gone: no such anchor"),
        ("[a](page.html#gone)", "page.html#gone: no such anchor"),
    ],
)
def test_a_broken_link_is_named_with_its_line(folder: Path, link: str, problem: str) -> None:
    (folder / "page.md").write_text(f"# Page\n\nText {link}.\n")
    done = check("page.md", cwd=folder)
    assert done.returncode == 1
    assert done.stdout == f"page.md:3: {problem}\n"


@pytest.mark.parametrize(
    "link",
    [
        "[a](other.md)",
        "[a](other.md#what-it-cannot-say-x-and-why)",
        "[a](page.html#here)",
        "[a](#page)",
        "[a](https://example.invalid/gone)",
        "`[a](gone.md)`",
        "\n```\n[a](gone.md)\n```\n",
        "\n    [a](gone.md)\n",
    ],
)
def test_a_good_link_external_link_or_code_passes(folder: Path, link: str) -> None:
    (folder / "page.md").write_text(f"# Page\n\nText {link}\n")
    assert check("page.md", cwd=folder).returncode == 0


def test_without_a_file_nothing_passes(tmp_path: Path) -> None:
    assert check(cwd=tmp_path).returncode == 2
