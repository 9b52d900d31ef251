"""Errors that cross rooms, and how one becomes a line for people."""

from __future__ import annotations


def one_line(error: Exception, limit: int | None = None) -> str:
    """The text of an error in one line of at most ``limit`` characters; its type without text."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


class EngineDiedError(RuntimeError):
    """The engine's processes are gone; no further cell can be measured with it."""


class StartError(RuntimeError):
    """The engine cannot be started as asked; ``type`` is one of ``tpsweep.core.failure.TYPES``."""

    def __init__(self, type_: str, message: str) -> None:
        super().__init__(message)
        self.type = type_


class CaptureError(ValueError):
    """A capture that cannot be analysed: one line, what is wrong and what mends it."""
