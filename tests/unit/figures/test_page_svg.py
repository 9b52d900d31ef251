"""A figure in a page: the page's colours, ids of its own, and nobody's text touched."""

from __future__ import annotations

from html.parser import HTMLParser

from matplotlib.axes import Axes

from tpsweep.figures.page_svg import for_page
from tpsweep.figures.plot import PAGE, Curve, Picture, Point, draw, draw_curves

COLOURS = {"#a00000": "var(--series-0)", "#b00003": "var(--paper)"}
SVG = """<?xml version="1.0"?><!DOCTYPE svg>
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"
     viewBox="0 0 9 9" width="9pt"><metadata>who</metadata><defs><style>*{fill: red}</style></defs>
 <defs><pattern id="p"><rect fill="#b00003"/></pattern></defs>
 <path id="m" clip-path="url(#p)" style="fill: url(#p); stroke: #a00000; stroke-width: 2"/>
 <use xlink:href="#m"/><text style="fill: #000001">#a00000 &lt;b&gt;</text>
</svg>"""


def test_colours_ids_and_references() -> None:
    found = str(for_page(SVG, "f", 'says "x" & <y>', "wide", COLOURS))
    assert '<rect fill="var(--paper)" />' in found
    assert 'style="fill: url(#f-p); stroke: var(--series-0); stroke-width: 2"' in found
    assert 'id="f-m" clip-path="url(#f-p)"' in found and '<use href="#f-m" />' in found
    assert "metadata" not in found and "<style" not in found and 'width="9pt"' not in found
    start = '<svg viewBox="0 0 9 9" class="wide" role="img" aria-labelledby="f-desc">'
    assert found.startswith(f'{start}<desc id="f-desc">says "x" &amp; &lt;y&gt;</desc>')


def test_text_that_reads_as_a_colour_stays() -> None:
    found = str(for_page(SVG, "f", "", "wide", COLOURS))
    assert '<text style="fill: #000001">#a00000 &lt;b&gt;</text>' in found


def test_no_stand_in_is_left_in_a_figure() -> None:
    def panel(axes: Axes) -> None:
        curves = [
            Curve(str(at), [Point(1, at, at - 1, at + 1), Point(2, at, hollow=True)], at)
            for at in range(len(PAGE.series))
        ]
        draw_curves(axes, curves)

    found = Attributes(str(draw(Picture("f", "", "", (panel,))).svg))
    assert {f"var(--series-{at})" for at in range(len(PAGE.series))} <= found.words
    stand_ins = {PAGE.ink, PAGE.grid, PAGE.paper, *PAGE.series}
    assert not found.words & stand_ins and "var(--paper)" in found.words


class Attributes(HTMLParser):
    """The words of all attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for _, value in attrs:
            self.words.update((value or "").replace(";", " ").split())
