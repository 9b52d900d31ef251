"""A figure of matplotlib as a part of a page: its colours are the page's, its ids its own."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from markupsafe import Markup

_LEFT_OUT = ("metadata", "style")
"""Elements that are nothing to the page; a style would be the whole page's."""


def for_page(
    svg: str, name: str, description: str, width: str, colours: Mapping[str, str]
) -> Markup:
    """``svg`` as an element of HTML, of the class ``width`` and with a description in words.

    ``name`` keeps its ids apart from other figures', ``colours`` says what of the page (a CSS
    variable) stands for a colour that was drawn with. Texts are left as they are: a model may be
    called as a colour is.
    """
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in _LEFT_OUT:
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {
            _local(key): _value(_local(key), value, name, colours)
            for key, value in element.attrib.items()
        }
    said = Element("desc", {"id": f"{name}-desc"})
    said.text = description
    root.insert(0, said)
    about = {"class": width, "role": "img", "aria-labelledby": f"{name}-desc"}
    root.attrib = {"viewBox": root.get("viewBox", "")} | about
    # The serializer escapes every text and attribute.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    """In HTML the elements of an SVG need no namespace, and a link no ``xlink:``."""
    return name.rpartition("}")[2]


def _value(key: str, value: str, name: str, colours: Mapping[str, str]) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-", 1) if value.startswith("#") else value
    if key == "style":
        parts = (part.partition(":") for part in value.split(";"))
        found = {property_.strip(): of.strip() for property_, _, of in parts if of}
        return "; ".join(f"{p}: {_painted(of, name, colours)}" for p, of in found.items())
    return _painted(value, name, colours)


def _painted(value: str, name: str, colours: Mapping[str, str]) -> str:
    """A colour as the page's, a reference as the figure's own; anything else as it is."""
    if value.startswith("url(#"):
        return value.replace("url(#", f"url(#{name}-", 1)
    return colours.get(value, value)
