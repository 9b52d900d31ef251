"""What joins nodes, by what the kernel says of ports."""

from __future__ import annotations

from pathlib import Path

import pytest

from tpsweep.engine import network


def port(rdma: Path, name: str, state: str, rate: str, layer: str) -> None:
    folder = rdma / name / "ports" / "1"
    folder.mkdir(parents=True)
    for file, text in (("state", state), ("rate", rate), ("link_layer", layer)):
        (folder / file).write_text(f"{text}\n")


def test_nodes_on_one_machine_say_so(tmp_path: Path) -> None:
    port(tmp_path, "mlx5_0", "4: ACTIVE", "200 Gb/sec (4X HDR)", "InfiniBand")
    assert network.link_of("127.0.0.1", tmp_path) == "loopback"


def test_active_rdma_ports_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_interface", lambda address: "ib0")
    port(tmp_path, "mlx5_0", "4: ACTIVE", "200 Gb/sec (4X HDR)", "InfiniBand")
    port(tmp_path, "mlx5_1", "4: ACTIVE", "200 Gb/sec (4X HDR)", "InfiniBand")
    port(tmp_path, "mlx5_2", "1: DOWN", "40 Gb/sec (4X QDR)", "InfiniBand")
    port(tmp_path, "mlx5_3", "4: ACTIVE", "25 Gb/sec (1X EDR)", "Ethernet")
    said = network.link_of("10.0.0.1", tmp_path)
    assert said == "1 x Ethernet 25 Gb/s, 2 x InfiniBand 200 Gb/s"


def test_without_rdma_it_is_the_interface_of_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stats:
        speed = 25000

    monkeypatch.setattr(network, "_interface", lambda address: "ens1")
    monkeypatch.setattr(network.psutil, "net_if_stats", lambda: {"ens1": Stats()})
    assert network.link_of("10.0.0.1", tmp_path) == "Ethernet 25 Gb/s"
    monkeypatch.setattr(network, "_interface", lambda address: None)
    assert network.link_of("10.0.0.1", tmp_path) is None
