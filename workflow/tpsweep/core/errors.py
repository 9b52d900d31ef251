"""Errors that cross rooms."""

from __future__ import annotations


class EngineDiedError(RuntimeError):
    """The engine's processes are gone; no further cell can be measured with it."""


class StartError(RuntimeError):
    """The engine cannot be started as asked; ``type`` is one of ``tpsweep.core.failure.TYPES``."""

    def __init__(self, type_: str, message: str) -> None:
        super().__init__(message)
        self.type = type_


class CaptureError(ValueError):
    """A capture that cannot be analysed: one line, what is wrong and what mends it."""
