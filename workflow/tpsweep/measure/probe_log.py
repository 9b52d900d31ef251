"""The probes of a search on disk: one line each, so that a killed search goes on at the next one.

The first line says whose they are (cell, method, machine, software) and where the search started.
Probes of anything else are not believed: the file is begun again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tpsweep.core.atomic import replacing

Line = dict[str, Any]


class ProbeLog:
    """The file at ``path``; ``about``: whose probes it may hold.

    Raises ``OSError`` where it cannot be written.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self._about = dict(about)

    def read(self) -> tuple[float | None, list[Line]]:
        """Where the search started and its probes; None without one that is ours.

        A line that was cut off by a kill, and what follows it, is left out.
        """
        lines = []
        try:
            for text in self.path.read_text("utf-8").splitlines(keepends=True):
                if not text.endswith("\n"):
                    break
                lines.append(json.loads(text))
        except FileNotFoundError:
            return None, []
        except ValueError:
            pass  # what came before it is whole
        if not lines or not isinstance(lines[0], dict) or lines[0].get("about") != self._about:
            return None, []
        return float(lines[0]["start_request_s"]), lines[1:]

    def begin(self, start_request_s: float, probes: list[Line]) -> None:
        """Write it anew, with the probes that are believed."""
        head = {"about": self._about, "start_request_s": start_request_s}
        with replacing(self.path) as temporary:
            temporary.write_text("".join(map(_line, [head, *probes])), "utf-8")

    def append(self, probe: Line) -> None:
        """Add one, in one write that is on the disk when this returns."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, _line(probe).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content) + "\n"
