"""How the runners of a session of several nodes agree: by files in its spool.

The session's runner is on the first node. It writes one order (``nodes-<attempt>.json``); each of
the other nodes reads it again and again, does what it says with its part of the session's command,
and writes what has become of that (``node-<k>-<attempt>.json``). A requeued job is another attempt:
runners of the one before may still live. Each file has one writer. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from .spool import Spool, write_atomically

POLL_S = 0.5
"""Between two looks at a file that may be on a far file system."""
ANSWER_S = 20.0
"""What another node needs to see an order, beside the time that its part may take to end."""
ASK_SLURM_S = 20.0
_ADDRESS = re.compile(r"\bNodeAddr=(\S+)")

T = TypeVar("T", "Order", "Report")


@dataclass(frozen=True)
class Order:
    """What all nodes must do with start ``number`` of the command: run it, or end it.

    ``token`` is the runner's (``Spool.owner``); ``host`` and ``port`` are where the parts may meet;
    ``over``: the session is.
    """

    token: str
    number: int = 0
    run: bool = False
    host: str = ""
    port: int = 0
    over: bool = False


@dataclass(frozen=True)
class Report:
    """What has become of start ``number`` on a node; ``why`` it ended if nobody told it to."""

    node: str
    number: int = 0
    running: bool = False
    why: str = ""


def order_in(spool: Spool) -> Order | None:
    """The order in force; None before any."""
    return _read(Order, _order_path(spool))


def give(order: Order, spool: Spool) -> None:
    """Have the other nodes know an order."""
    write_atomically(_order_path(spool), json.dumps(asdict(order)))


def tell(report: Report, node: int, spool: Spool) -> None:
    """Have the first node know what has become of its order."""
    write_atomically(_report_path(spool, node), json.dumps(asdict(report)))


def attempt_of(environ: Mapping[str, str]) -> str:
    """Which run of which job this is: equal on all of its nodes."""
    return f"{environ.get('SLURM_JOB_ID', '')}.{environ.get('SLURM_RESTART_COUNT', '0')}"


def node_of(environ: Mapping[str, str]) -> int:
    """Which of the job's nodes this is, from 0."""
    return int(environ.get("SLURM_NODEID", "0"))


def name_of(environ: Mapping[str, str]) -> str:
    """What Slurm calls this node."""
    return environ.get("SLURMD_NODENAME") or socket.gethostname()


def address_of(environ: Mapping[str, str]) -> str:
    """The address at which Slurm itself reaches this node; its name if Slurm does not tell."""
    name = name_of(environ)
    words = ["scontrol", "show", "node", "--oneliner", name]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=ASK_SLURM_S, check=False
        )
        if found := _ADDRESS.search(done.stdout):
            return found[1]
    return name


def variables(node: int, nodes: int, order: Order, address: str) -> dict[str, str]:
    """What a part of the command is told of its place."""
    return {
        "SESSION_NODE": str(node),
        "SESSION_NODES": str(nodes),
        "SESSION_HOST": order.host,
        "SESSION_PORT": str(order.port),
        "SESSION_ADDRESS": address,
    }


class OtherNodes:
    """The other nodes of a session, as its first node sees them."""

    def __init__(self, spool: Spool, nodes: int, token: str) -> None:
        self.spool = spool
        self.nodes = nodes
        self.order = Order(token)
        self.address = address_of(os.environ)
        self.next_look = 0.0

    def start(self) -> dict[str, str]:
        """Have each start its part; what the first node's part is told."""
        number, port = self.order.number + 1, _free_port()
        self.order = replace(self.order, number=number, run=True, host=self.address, port=port)
        give(self.order, self.spool)
        return variables(0, self.nodes, self.order, self.address)

    def trouble(self) -> str:
        """Which part has ended by itself, and why; "" if none has, as far as is known by now."""
        now = time.monotonic()
        if now < self.next_look or not self.order.run:
            return ""
        self.next_look = now + POLL_S
        for node in range(1, self.nodes):
            report = self._report(node)
            if report is not None and report.number == self.order.number and report.why:
                return f"node {node} ({report.node}): {report.why}"
        return ""

    def stop(self) -> None:
        """Have each end its part."""
        if self.order.run:
            ended = replace(self.order, run=False)
            give(ended, self.spool)  # if that fails, it is still to be given
            self.order = ended

    def wait_ended(self, limit_s: float) -> str:
        """Wait until each has ended its part, which may take ``limit_s``; who has not, for a
        message."""
        end = time.monotonic() + limit_s + ANSWER_S
        while (left := self._not_ended()) and time.monotonic() < end:
            time.sleep(POLL_S)
        return ", ".join(left)

    def unseen(self) -> str:
        """The nodes that have not said that they have begun, for a message; "" for none."""
        return ", ".join(f"node {k}" for k in range(1, self.nodes) if self._report(k) is None)

    def _not_ended(self) -> list[str]:
        """A part that was never begun is not waited for: its node would find the new order."""
        reports = {node: self._report(node) for node in range(1, self.nodes)}
        known = {node: report for node, report in reports.items() if report is not None}
        return [f"node {k} ({report.node})" for k, report in known.items() if report.running]

    def _report(self, node: int) -> Report | None:
        return _read(Report, _report_path(self.spool, node))


def dismiss(spool: Spool, token: str) -> None:
    """Tell the other nodes that the session is over, however it ended."""
    give(Order(token, over=True), spool)


def _free_port() -> int:
    """A port that nobody listens at now; the command's own part takes it a moment later."""
    with socket.create_server(("", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _order_path(spool: Spool) -> Path:
    return spool.folder / f"nodes-{attempt_of(os.environ)}.json"


def _report_path(spool: Spool, node: int) -> Path:
    return spool.folder / f"node-{node}-{attempt_of(os.environ)}.json"


def _read(kind: type[T], path: Path) -> T | None:
    try:
        return kind(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
