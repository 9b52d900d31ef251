"""A block of lines at the bottom of a terminal, below whatever else is written there.

The cursor stays at the beginning of the block's first line. So wiping it needs no memory of where
it is: what is below the cursor goes. That holds when the terminal was made narrower meanwhile, and
a whole line of another process is never wiped, though what it did not write over shows behind it.
No colours; nothing has to be put right in the terminal afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from typing import Any, TextIO

WIPE = "\r\x1b[J"
LARGEST = 8
FALLBACK = os.terminal_size((80, 24))


class Block:
    """The lines, and the streams above them; without ``install`` it writes what it is given only.

    Log handlers and ``sys.stderr`` write through it, so that their lines push the block down.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.lines: list[str] = []
        self.is_shown = False
        self.at_line_start = True
        self.lock = threading.RLock()
        self.handlers: list[logging.StreamHandler[Any]] = []

    def install(self, handler: logging.StreamHandler[Any]) -> None:
        """Have all that this process writes to the terminal go through the block."""
        handler.setStream(_Above(self, self.stream))
        self.handlers.append(handler)
        if sys.stderr.isatty():
            sys.stderr = _Above(self, sys.stderr)
        if sys.stdout.isatty():
            sys.stdout = _Above(self, sys.stdout)

    def remove(self) -> None:
        """Wipe the block and leave the streams as they were; may be called again."""
        self.show([])
        for handler in self.handlers:
            if isinstance(handler.stream, _Above):
                handler.setStream(handler.stream.stream)
        self.handlers.clear()
        if isinstance(sys.stderr, _Above):
            sys.stderr = sys.stderr.stream
        if isinstance(sys.stdout, _Above):
            sys.stdout = sys.stdout.stream

    def size(self) -> tuple[int, int]:
        """Columns and rows that the block may take."""
        size = FALLBACK
        with contextlib.suppress(OSError, ValueError):
            size = os.get_terminal_size(self.stream.fileno())
        columns, rows = (size.columns or FALLBACK.columns), (size.lines or FALLBACK.lines)
        # A full last column makes some terminals wrap; a full screen would scroll.
        return columns - 1, max(1, min(LARGEST, rows - 2))

    def show(self, lines: list[str]) -> None:
        """These lines instead of those before; none to wipe it."""
        with self.lock:
            self.lines = lines
            self.redraw()

    def redraw(self) -> None:
        """Draw the block, unless somebody is in the middle of a line."""
        with self.lock:
            if not self.at_line_start or not (self.lines or self.is_shown):
                return
            up = f"\r\x1b[{len(self.lines) - 1}A" if len(self.lines) > 1 else "\r"
            # A terminal that is gone, or takes no more, must not end a sweep.
            with contextlib.suppress(OSError, ValueError):
                self.stream.write(WIPE + "\n".join(self.lines) + up)
                self.stream.flush()
            self.is_shown = bool(self.lines)

    def write(self, stream: TextIO, text: str) -> int:
        """Write another's text in the block's place; the block comes back with ``redraw``."""
        with self.lock:
            if self.is_shown and text:
                self.is_shown = False
                self.stream.write(WIPE)
                self.stream.flush()
            written = stream.write(text)
            if text:
                self.at_line_start = text.endswith("\n")
            return written


class _Above:
    """A text stream whose lines stay above a block."""

    def __init__(self, block: Block, stream: TextIO) -> None:
        self.block = block
        self.stream = stream

    def write(self, text: str) -> int:
        return self.block.write(self.stream, text)

    def flush(self) -> None:
        with self.block.lock:
            self.stream.flush()
            self.block.redraw()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
