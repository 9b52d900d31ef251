"""Which part of an engine this process starts: its node among those of the session.

Standard library only. The executor's runner says it in the environment of the session's command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Node ``node`` (from 0) of ``nodes``. All meet at ``port`` of ``host``, the first node;
    ``address`` is this node's own."""

    node: int
    nodes: int
    host: str
    port: int
    address: str

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Place | None:
        """That of a process of the session's command; None in a session of one node."""
        if "SESSION_NODES" not in environ:
            return None
        return cls(
            node=int(environ["SESSION_NODE"]),
            nodes=int(environ["SESSION_NODES"]),
            host=environ["SESSION_HOST"],
            port=int(environ["SESSION_PORT"]),
            address=environ["SESSION_ADDRESS"],
        )

    @property
    def is_first(self) -> bool:
        """Whether the engine itself, and all that talks to it, is here."""
        return self.node == 0
