"""What a terminal shows after some output: as much of one as the progress block and Snakemake need.

``python screen.py TYPESCRIPT TIMING SECOND...`` prints the screen at these seconds of a recording
made by ``script -O TYPESCRIPT -T TIMING``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

TOKEN = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n])")


class Screen:
    """Lines with scrollback; raises ``ValueError`` for a control sequence that it does not know."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.columns, self.rows = columns, rows
        self.lines: list[str] = [""]
        self.row = self.column = 0

    def feed(self, text: str) -> Screen:
        """Take output of a terminal's program, its newlines as ``\\r\\n``."""
        position = 0
        while position < len(text):
            token = TOKEN.match(text, position)
            if token is None:
                raise ValueError(f"unknown output: {text[position : position + 20]!r}")
            position = token.end()
            argument, command, carriage_return, newline, character = token.groups()
            if carriage_return:
                self.column = 0
            elif newline:
                self._down()
            elif character:
                self._put(character)
            elif command == "A":
                top = max(0, len(self.lines) - self.rows)
                self.row = max(top, self.row - int(argument or 1))
            elif command == "J" and argument in ("", "0"):
                self.lines[self.row] = self.lines[self.row][: self.column]
                del self.lines[self.row + 1 :]
            elif command != "m":
                raise ValueError(f"unknown control sequence: {token.group()!r}")
        return self

    @property
    def text(self) -> list[str]:
        """All lines, those that were scrolled away too, without blanks at the end."""
        return "\n".join(line.rstrip() for line in self.lines).rstrip().split("\n")

    def _put(self, character: str) -> None:
        if self.column == self.columns:
            self.column = 0
            self._down()
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
        self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")


def main(typescript: Path, timing: Path, *seconds: str) -> None:
    """Print the last lines of the screen at each of these seconds."""
    head, _, output = typescript.read_bytes().partition(b"\n")
    found = re.search(rb'COLUMNS="(\d+)"', head)
    screen = Screen(int(found.group(1)) if found else 100)
    at, wanted, position = 0.0, [float(second) for second in seconds], 0
    for line in timing.read_text("utf-8").splitlines():
        delay, size = line.split()[:2]
        at += float(delay)
        while wanted and at > wanted[0]:
            print(f"--- {wanted.pop(0):g} s", *screen.text[-12:], sep="\n")
        screen.feed(output[position : position + int(size)].decode())
        position += int(size)
    print("--- end", *screen.text, sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
