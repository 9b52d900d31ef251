"""Check the relative links of Markdown files: the file is there, and so is the anchor.

    python tools/check_links.py README.md docs ...      (folders: every .md file below them)

Prints a line per broken link and exits with 1. External links are not looked up: lint needs no
network.
"""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

LINK = re.compile(r"(?<=\]\()[^)\s]+")
"""The target of an inline link or image, as the docs write them: without a title."""
CODE = re.compile(r"^ {0,3}```.*?^ {0,3}```|^(?: {4}).*?$|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def links_in(text: str) -> Iterator[re.Match[str]]:
    """Relative links of Markdown, with their place in it; nothing from code."""
    blank = CODE.sub(lambda code: re.sub(r"[^\n]", " ", code.group()), text)
    for link in LINK.finditer(blank):
        if not re.match(r"[a-z][a-z0-9+.-]*:", link.group(), re.IGNORECASE):
            yield link


@cache
def anchors(file: Path) -> frozenset[str]:
    """What ``#...`` can name in a file: ids in HTML, the slugs of the headings in Markdown."""
    text = file.read_text("utf-8")
    if file.suffix == ".html":
        return frozenset(html.unescape(name) for name in re.findall(r'\bid="([^"]+)"', text))
    headings = re.findall(r"^#+ (.+)$", re.sub(r"(?ms)^```.*?^```", "", text), re.MULTILINE)
    return frozenset(slug(heading) for heading in headings)


def slug(heading: str) -> str:
    """The anchor of a heading, the same on GitHub and on the site (``mkdocs.yml``, toc)."""
    return re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")


def problems(file: Path) -> Iterator[str]:
    """A line per broken link of a Markdown file."""
    text = file.read_text("utf-8")
    for link in links_in(text):
        path, _, anchor = link.group().partition("#")
        target = file.parent / unquote(path) if path else file
        place = f"{file}:{text.count(chr(10), 0, link.start()) + 1}: {link.group()}"
        if not target.exists():
            yield f"{place}: no such file"
        elif anchor and (target.suffix not in (".md", ".html") or anchor not in anchors(target)):
            yield f"{place}: no such anchor"


def pages(names: Iterable[str]) -> Iterator[Path]:
    """The Markdown files meant by the arguments."""
    for path in map(Path, names):
        yield from sorted(path.rglob("*.md")) if path.is_dir() else [path]


def main(names: list[str]) -> int:
    """Check the files. Returns 1 if a link is broken, 2 without files."""
    files = list(pages(names))
    if not files:
        print("check_links: no Markdown file given", file=sys.stderr)
        return 2
    broken = [problem for file in files for problem in problems(file)]
    print("\n".join(broken) if broken else f"links of {len(files)} files: all good")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
