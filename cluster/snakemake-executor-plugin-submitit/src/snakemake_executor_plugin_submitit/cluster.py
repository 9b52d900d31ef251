"""Where sessions run, as the executor sees it."""

from __future__ import annotations

from typing import Protocol

from .outcome import Outcome
from .packing import Request, Session


class Cluster(Protocol):
    """Where sessions run: on this host, or on Slurm."""

    def check(self, request: Request) -> None:
        """Raise ``PackingError`` for what can never run here."""

    def reattach(self, request: Request) -> bool:
        """Whether to wait for a session of an earlier main process.

        Its outcome comes from there; or the job is ``released`` when that session has ended.
        """

    def released(self) -> list[Request]:
        """Jobs that waited for the end of an earlier session, and can be submitted now."""

    def recorded(self, cell_id: str) -> None:
        """Snakemake has recorded how a job ended."""

    def submit(self, sessions: list[Session]) -> None:
        """Take sessions over; they start with an ``advance``."""

    def advance(self) -> None:
        """One round: see what has ended, start what can start."""

    def has_news(self) -> bool:
        """Whether an ``advance`` would find something that has ended; cheap, and may be wrong."""

    def outcome(self, cell_id: str) -> Outcome | None:
        """How a cell ended, given once; None until it has ended."""

    def stop_waiting(self) -> None:
        """Have what has not begun end as cancelled; what runs goes on."""

    def end(self) -> None:
        """End all sessions and what they started; return when they have."""

    def detach(self) -> None:
        """Let sessions go on without a main process."""
