"""What can go wrong with an engine, as its session's daemon tells it apart."""

from __future__ import annotations


class EngineDiedError(RuntimeError):
    """The engine's processes are gone; no further cell can be measured with it."""


class StartError(RuntimeError):
    """The engine cannot be started as asked; ``type`` is one of ``tpsweep.failure.TYPES``."""

    def __init__(self, type_: str, message: str) -> None:
        super().__init__(message)
        self.type = type_
