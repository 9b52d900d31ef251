"""The documentation builds as a site, without a warning, and its links lead to files of it."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]


class Links(HTMLParser):
    """Targets of the links and images of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"a": "href", "img": "src", "link": "href", "script": "src"}
        self.found += [value for name, value in attrs if value and name == names.get(tag)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_link_of_the_site_leads_to_a_file_of_it(site: Path) -> None:
    pages = [path for path in site.rglob("*.html") if path.name not in ("404.html", "report.html")]
    broken = []
    for page in pages:
        links = Links()
        links.feed(page.read_text("utf-8"))
        for link in links.found:
            path = unquote(link.partition("#")[0])
            if path and not path.startswith(("http:", "https:", "mailto:", "data:")):
                target = page.parent / path
                if not (target.is_file() or (target / "index.html").is_file()):
                    broken.append(f"{page.relative_to(site)}: {link}")
    assert pages and not broken


def test_what_pages_link_to_outside_the_docs_is_there(site: Path) -> None:
    page = (site / "RESULTS.html").read_text("utf-8")
    assert 'href="repo/results/published/h200x2/report.html' in page
    assert (site / "repo/results/published/h200x2/report.html").is_file()


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        links = Links()
        links.feed(page.read_text("utf-8"))
        images = [link for link in links.found if link.endswith((".js", ".css", ".png", ".svg"))]
        assert not [link for link in images if link.startswith("http")], page
