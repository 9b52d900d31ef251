"""Results that Snakemake has been told of, but has not recorded yet."""

from __future__ import annotations

from queue import SimpleQueue

from ..ledger import Ledger


class Unrecorded:
    """Keeps a session in the ledger until Snakemake has recorded what it has done.

    A main process that is killed in between leaves the results to the next one.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._cells: dict[str, set[str]] = {}  # session -> cells
        self._sessions: dict[str, str] = {}  # cell -> session
        self._over: set[str] = set()
        self._new: SimpleQueue[str] = SimpleQueue()  # from Snakemake's own thread

    def took(self, cell: str, session: str) -> None:
        """A result of ``session`` was taken."""
        self._sessions[cell] = session
        self._cells.setdefault(session, set()).add(cell)

    def recorded(self, cell: str) -> None:
        """Snakemake has recorded how a job ended; from any thread, it waits for nothing."""
        self._new.put(cell)

    def look(self) -> None:
        """Write down what was recorded since the last look."""
        while not self._new.empty():
            self._forget(self._new.get())

    def _forget(self, cell: str) -> None:
        session = self._sessions.pop(cell, "")
        cells = self._cells.get(session, set())
        cells.discard(cell)
        if session in self._over and not cells:
            self._close(session)

    def over(self, session: str) -> None:
        """No more results of ``session`` will come."""
        self._over.add(session)
        if not self._cells.get(session):
            self._close(session)

    def _close(self, session: str) -> None:
        self._over.discard(session)
        self._cells.pop(session, None)
        self._ledger.close(session)
