"""docs/report.png can be made again from the committed page."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "results" / "smoke" / "report.html"

pytestmark = pytest.mark.browser


def take(*arguments: str) -> subprocess.CompletedProcess[str]:
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("no chromium and chromedriver; on Debian: install/browser.sh")
    command = [sys.executable, str(ROOT / "tools" / "page_picture.py"), str(PAGE), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_picture_is_as_wide_as_asked_and_ends_before_a_section(tmp_path: Path) -> None:
    heights = []
    for before in ("fast", "trust"):
        picture = tmp_path / f"{before}.png"
        assert take(str(picture), "--width", "800", "--before", before).returncode == 0
        data = picture.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert int.from_bytes(data[16:20], "big") == 800
        heights.append(int.from_bytes(data[20:24], "big"))
    assert 0 < heights[0] < heights[1]


def test_a_section_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    done = take(str(tmp_path / "x.png"), "--before", "gone")
    assert (done.returncode, done.stderr) == (1, f"page_picture: {PAGE}: no section 'gone'\n")
    assert not list(tmp_path.iterdir())
