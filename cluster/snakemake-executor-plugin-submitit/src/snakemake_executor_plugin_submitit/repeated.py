"""Keys that a YAML mapping holds twice: YAML forbids it, PyYAML silently takes the later one."""

from __future__ import annotations

from collections.abc import Iterator

import yaml


def repeated_key(text: str) -> str | None:
    """The first key that is given twice, ``a.b: 'value': given twice, lines 3 and 7``; or None.

    Also None for text that is not YAML: whoever parses it reports that.
    """
    try:
        document = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError:
        return None
    return next(_repeated(document, "", set()), None) if document else None


def _repeated(node: yaml.Node, path: str, seen: set[int]) -> Iterator[str]:
    if id(node) in seen:  # an anchor may hold itself
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield from _repeated(item, f"{path}{i}.", seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            first = lines.setdefault((key.tag, str(key.value)), line)
            if first != line:
                shown = repr(value.value) if isinstance(value, yaml.ScalarNode) else "..."
                yield f"{path}{key.value}: {shown}: given twice, lines {first} and {line}"
            yield from _repeated(value, f"{path}{key.value}.", seen)
