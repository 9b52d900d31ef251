"""Rows are told apart by the machine that they ran on, whatever it is called. Rows are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.made_up import Record, Sweep
from tpsweep.analysis.compare import compare
from tpsweep.analysis.series import Source
from tpsweep.cli.main import main
from tpsweep.results.hosts import Host, find_hosts, label_hosts
from tpsweep.results.load import load

A, B, C, D = (f"GPU-{letter * 8}-0000" for letter in "abcd")


def row(name: str | None = "vm", *gpus: str, **more: Any) -> Record:
    nothing = {"site": "here", "slurm_job_id": None, "node_gpu_uuids": None}
    return {**nothing, "hostname": name, "gpu_uuids": list(gpus) or None, **more}


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        # A GPU that two rows share, or a row that saw both, ties them; nothing ties the third.
        ([row("vm", A), row("vm", A, B), row("vm", C)], ["vm (aaaaaaaa)"] * 2 + ["vm (cccccccc)"]),
        ([row("vm", A), row("vm", B), row("vm", A, B)], ["vm"] * 3),
        ([row("vm", B), row("vm", A)], ["vm (bbbbbbbb)", "vm (aaaaaaaa)"]),
        # The driver's list ties GPUs that no row used together.
        ([row("vm", A, node_gpu_uuids=[A, B]), row("vm", B)], ["vm"] * 2),
        # Chains, whatever the order.
        ([row("vm", A, B), row("vm", C, D), row("vm", B, C)], ["vm"] * 3),
        # A container's name changes, its GPU does not.
        ([row("pod-1", A), row("pod-2", A)], ["pod-1"] * 2),
        # Slurm's names are unique at a site, and only there.
        ([row("n1", A, slurm_job_id="1"), row("n1", B, slurm_job_id="2")], ["n1"] * 2),
        (
            [row("n1", A, slurm_job_id="1"), row("n1", B, slurm_job_id="1", site="there")],
            ["n1 (aaaaaaaa)", "n1 (bbbbbbbb)"],
        ),
        # Without GPUs there is only the name.
        ([row("pc"), row("pc"), row("mac")], ["pc", "pc", "mac"]),
        ([row("pc"), row("pc", site="there")], ["pc (here)", "pc (there)"]),
        ([row("vm", A), row("vm")], ["vm"] * 2),
        ([row("vm", A), row("vm", B), row("vm")], ["vm (aaaaaaaa)", "vm (bbbbbbbb)", "vm (here)"]),
        ([row(None), row(None, A), row("vm", A)], [None, None, "vm"]),
        ([], []),
    ],
)
def test_label(rows: list[Record], labels: list[str | None]) -> None:
    assert label_hosts(rows) == labels


def test_a_host_knows_its_gpus() -> None:
    (one, other) = find_hosts([row("vm", B, node_gpu_uuids=[B, A]), row("vm", A)])
    assert one == other == Host("here", "vm", (A, B))


def test_ten_thousand_rows_in_a_chain() -> None:
    """Every row shares a GPU with the one before only: the worst case of joining them."""
    rows = [row("vm", f"GPU-{n}", f"GPU-{n + 1}") for n in range(10_000)]
    assert set(label_hosts(rows)) == {"vm"}


@pytest.fixture
def two_hosts(tmp_path: Path) -> Sweep:
    """TP=1 ran on two hosts, TP=2 on one of them; all are called vm."""
    sweep = Sweep(tmp_path / "results")
    for tp, run, gpus in ((1, 1, [A]), (1, 2, [C]), (2, 1, [A, B])):
        ran = {"hostname": "vm", "gpu_uuids": gpus}
        sweep.add(tp, tpot=8.0 / tp, run=run, measured=ran)
    return sweep


def test_every_table_of_pairs_and_lines_says_so(two_hosts: Sweep) -> None:
    two_hosts.tables()
    said = "hosts differ: TP=1 on vm (aaaaaaaa) and vm (cccccccc), TP=2 on vm (aaaaaaaa)"
    assert {said in line["note"] for line in two_hosts.read("tp_comparison")} == {True}
    assert [said in line["note"] for line in two_hosts.read("tp_pairs")] == [True]
    (line,) = [one for one in two_hosts.read("validity") if one["subject"] == "host"]
    assert line["detail"] == "TP=1: vm (aaaaaaaa), vm (cccccccc); TP=2: vm (aaaaaaaa)"
    assert line["flagged"] and line["provenance"] == "host"


def test_machines_lists_hosts_and_gpus(two_hosts: Sweep) -> None:
    two_hosts.tables()
    one, two = two_hosts.read("machines")
    assert (one["site"], one["gpus"], one["hosts"]) == (
        "here",
        1,
        ["vm (aaaaaaaa)", "vm (cccccccc)"],
    )
    assert (one["hostname"], one["gpu_uuids"]) == (["vm"], [A, C])
    assert (two["gpus"], two["hosts"], two["gpu_uuids"]) == (2, ["vm (aaaaaaaa)"], [A, B])


def test_lines_on_the_same_hosts_have_no_note(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "results")
    for tp in (1, 2):
        for run, gpu in ((1, A), (2, C)):
            sweep.add(tp, tpot=8.0, run=run, measured={"hostname": "vm", "gpu_uuids": [gpu]})
    sweep.write_manifest()
    (series,) = Source(load(sweep.root)).series("latency")
    assert series.differences == []
    assert [line.hosts for line in series.lines] == [["vm (aaaaaaaa)", "vm (cccccccc)"]] * 2


def test_many_hosts_are_counted(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "results")
    for run in range(4):
        sweep.add(1, tpot=8.0, run=run, measured={"hostname": f"n{run}"})
    sweep.add(2, tpot=4.0, measured={"hostname": "n0"})
    sweep.write_manifest()
    (series,) = Source(load(sweep.root)).series("latency")
    assert series.differences == ["hosts differ: TP=1 on 4 hosts, TP=2 on n0"]


@pytest.mark.parametrize(("there", "same"), [(A, True), (C, False)])
def test_compare_tells_the_hosts_of_two_folders_apart(
    tmp_path: Path, there: str, same: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    for side, gpu in (("a", A), ("b", there)):
        sweep = Sweep(tmp_path / side)
        sweep.add(1, tpot=8.0, measured={"hostname": "vm", "gpu_uuids": [gpu]})
        sweep.write_manifest()
    (pair,) = compare(tmp_path / "a", tmp_path / "b").pairs
    assert (pair.hosts_a == pair.hosts_b) is same
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    text = capsys.readouterr().out
    assert ("Hosts of A: vm (aaaaaaaa)\nHosts of B: vm (cccccccc)" in text) is not same
    assert ("Unlike" in text) is not same


def test_machines_says_what_joins_nodes(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "results")
    sweep.add(1, tpot=8.0)
    ran = {"nodes": 2, "network": "4 x InfiniBand 200 Gb/s", "gpu_link": "NV12"}
    sweep.add(4, tpot=4.0, measured=ran)
    sweep.tables()
    one, two = sweep.read("machines")
    assert (one["nodes"], two["nodes"]) == (1, 2)
    assert (one["network"], two["network"]) == ([], ["4 x InfiniBand 200 Gb/s"])
    text = (sweep.root / "tables/machines.md").read_text("utf-8")
    assert "4 on 2 nodes" in text and "NV12; 4 x InfiniBand 200 Gb/s" in text
