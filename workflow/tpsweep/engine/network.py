"""What joins the nodes of an engine, as one of them shows it."""

from __future__ import annotations

import socket
from collections import Counter
from pathlib import Path

import psutil

RDMA = Path("/sys/class/infiniband")
_SPEED = "Gb/s"


def link_of(address: str, rdma: Path = RDMA) -> str | None:
    """The network at the node's ``address``, in words; None if the node does not tell.

    Active RDMA ports (``4 x InfiniBand 200 Gb/s``), which NCCL takes where there are any; else the
    address's own interface (``Ethernet 25 Gb/s``); ``loopback`` if the nodes are one machine.
    """
    name = _interface(socket.gethostbyname(address))
    if name == "lo":
        return "loopback"
    if ports := Counter(_active_ports(rdma)):
        return ", ".join(f"{count} x {port}" for port, count in sorted(ports.items()))
    if name is None:
        return None
    stats = psutil.net_if_stats().get(name)
    speed = f" {stats.speed / 1000:g} {_SPEED}" if stats is not None and stats.speed else ""
    return f"Ethernet{speed}"


def _interface(address: str) -> str | None:
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == address for one in addresses):
            return name
    return None


def _active_ports(rdma: Path) -> list[str]:
    """``InfiniBand 200 Gb/s`` for each: the kernel says ``200 Gb/sec (4X HDR)``."""
    found = []
    for port in sorted(rdma.glob("*/ports/*")):
        try:
            state, rate, layer = (
                (port / name).read_text("utf-8").strip() for name in ("state", "rate", "link_layer")
            )
        except OSError:
            continue
        if state.endswith("ACTIVE"):
            found.append(f"{layer} {rate.partition(' ')[0]} {_SPEED}")
    return found
