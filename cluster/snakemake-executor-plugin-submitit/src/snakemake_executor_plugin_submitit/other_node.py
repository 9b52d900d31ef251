"""The part of a session's command on a node that is not its first. Standard library only."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

from .nodes import (
    POLL_S,
    Order,
    Report,
    address_of,
    name_of,
    order_in,
    tell,
    variables,
)
from .spec import SessionSpec
from .spool import REVOKED
from .task import Task, empty, exit_text

LAST_BYTES = 20_000
"""Of a log: where its last line is looked for."""


class OtherNode(Task):
    """Does what the first node says (see ``nodes``), and runs no cells."""

    def __init__(self, spec: SessionSpec, folder: Path, supervisor: int, node: int) -> None:
        super().__init__(spec, folder, supervisor, None, spec.spool.log_of(node))
        self.node = node
        self.name = name_of(os.environ)
        self.address = address_of(os.environ)
        self.number = 0
        self.left_at: float | None = None
        self.untold: Report | None = None
        self.log_begin = 0
        """Where the log of this start begins; an earlier one has its lines before."""

    def run(self) -> int:
        """Until the session is over, is another's, or this node is taken away; 0."""
        self._guard()
        try:
            self._tell(self._report())
            while not self._must_leave():
                self._tell(self.untold)
                order = order_in(self.spec.spool)
                if order is not None:
                    if order.over:
                        break
                    self.token = order.token
                    self._follow(order)
                time.sleep(POLL_S)
        finally:
            self._end_command()
            if self.number:
                self._tell(self._report())
            shutil.rmtree(self.folder, ignore_errors=True)
        return 0

    def _follow(self, order: Order) -> None:
        if self.command is not None and not (order.run and order.number == self.number):
            self._end_command()
            self._tell(self._report())
        if order.run and order.number != self.number:
            self._start(order)
        elif self.command is not None and self.command.poll() is not None:
            why = f"session command {exit_text(self.command.returncode)}{self._last_words()}"
            self._tell(self._report(why, running=True))  # ending takes time
            self._end_command()
            self._tell(self._report(why))

    def _start(self, order: Order) -> None:
        self.number = order.number
        assert self.spec.command is not None
        self.log_begin = self.log.stat().st_size if self.log.exists() else 0
        empty(self.folder)
        self._tell(self._report(running=True))
        place = variables(self.node, self.spec.nodes, order, self.address)
        try:
            self.command = self._popen(["bash", "-c", self.spec.command], self.log, place)
        except OSError as error:
            self._tell(self._report(f"session command cannot start: {error}"))

    def _tell(self, report: Report | None) -> None:
        """Have the first node know. What cannot be written (a full disk) is told at the next look:
        for lack of it nobody ends a session that goes on."""
        self.untold = report
        if report is not None:
            with contextlib.suppress(OSError):
                tell(report, self.node, self.spec.spool)
                self.untold = None

    def _report(self, why: str = "", *, running: bool = False) -> Report:
        return Report(self.name, self.number, running, why)

    def _must_leave(self) -> bool:
        """Told by a signal, it leaves the first node the time to end its cell in order."""
        if not self._must_stop():
            return False
        now = self.clock.now()
        self.left_at = now + self.spec.grace_s if self.left_at is None else self.left_at
        return self.stopped == REVOKED or now > self.left_at

    def _last_words(self) -> str:
        """The last line that this start has logged, for a message; "" if there is none."""
        text = ""
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            log.seek(max(self.log_begin, log.seek(0, os.SEEK_END) - LAST_BYTES))
            text = log.read().decode("utf-8", "replace")
        last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
        return f"; its log ends: {last[:300]}" if last else ""
