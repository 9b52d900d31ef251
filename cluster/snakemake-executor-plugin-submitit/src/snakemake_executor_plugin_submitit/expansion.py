"""Variables in the values of a site's ``environment``: filled in where the session runs.

A login node does not know the ``$TMPDIR`` of a job. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SYNTAX = "$NAME, ${NAME}, or $$ for a dollar sign"
_DOLLAR = re.compile(r"\$(?:(\$)|([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\}|)")


class ExpansionError(ValueError):
    """A value whose ``$`` cannot be filled in; one line."""


def check(value: str) -> None:
    """Raise ``ExpansionError`` if ``value`` has a ``$`` that is not of ``SYNTAX``.

    What a shell would also understand (``$(command)``, ``${NAME:-word}``) is refused: no shell
    reads it, so it would reach the program as it is.
    """
    if any(found[0] == "$" for found in _DOLLAR.finditer(value)):
        raise ExpansionError(f"allowed after $: {SYNTAX}")


def expand(name: str, value: str, environ: Mapping[str, str]) -> str:
    """``value`` of the variable ``name`` with those of ``environ`` filled in.

    Raises ``ExpansionError`` for one that is not set: a path with a hole in it would be another.
    """

    def fill(found: re.Match[str]) -> str:
        if found[1]:
            return "$"
        wanted = found[2] or found[3]
        if not wanted:
            raise ExpansionError(f"environment: {name}: {value!r}: allowed after $: {SYNTAX}")
        if wanted not in environ:
            raise ExpansionError(f"environment: {name}: {value!r}: ${wanted} is not set here")
        return environ[wanted]

    return _DOLLAR.sub(fill, value)
