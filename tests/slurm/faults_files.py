"""Ledger and results that are lost, damaged, or late. See ``faults``."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tests.slurm.case import HELD, Case
from tests.slurm.fault import fault
from tests.slurm.lag import lagging


def _find_without(case: Case, damage: Callable[[Path], None]) -> None:
    case.begin(hold=[HELD, "h200x4-1"])
    case.kill()
    case.flow.let_go(HELD)
    case.flow.wait_for(lambda: case.flow.count("done")["h100x1-2"])
    damage(case.logdir / "ledger.jsonl")
    case.process = case.flow.start()
    case.flow.wait_for(lambda: "reattached" in case.flow.said())
    assert case.finish() == 0
    case.user = case.saw(r"incomplete; \d+ arrays were found by their names in the queue")
    case.slurm = case.state(case.job("h200x4-1"))


@fault
def ledger_deleted(case: Case) -> None:
    """SIGKILL of Snakemake, its ledger is deleted while sessions run, the same command"""
    _find_without(case, Path.unlink)


@fault
def ledger_garbled(case: Case) -> None:
    """SIGKILL of Snakemake, all intents in its ledger are garbled, the same command"""

    def garble(path: Path) -> None:
        text = path.read_text().replace('"intent"', '"inte\\u0000nt').replace('"sessions": [', "[")
        path.write_text(text)

    _find_without(case, garble)


@fault
def ledger_not_writable(case: Case) -> None:
    """the ledger cannot be written any more while sessions run and end"""
    case.begin()
    ledger = case.logdir / "ledger.jsonl"
    ledger.unlink()
    ledger.mkdir()
    assert case.finish() == 0
    case.user = case.saw(r"ledger.jsonl: [^\n]*")
    case.slurm = case.state(case.job(HELD))
    ledger.rmdir()


@fault
def result_of_no_length(case: Case) -> None:
    """the file with a cell's result is empty, as after a power cut"""
    case.begin()
    case.kill()
    case.finish_alone()
    spool = case.logdir / case.session(HELD)
    second = json.loads((spool / "spec.json").read_text())["cells"][1]["id"]
    (spool / f"{second}.rc").write_text("")
    case.process = case.flow.start()
    assert case.finish() == 0
    case.outdated = {HELD}
    case.user, case.slurm = "that cell ran again, all others were kept", case.state(case.job(HELD))


@fault
def files_appear_late(case: Case) -> None:
    """all files that nodes and this host exchange appear 15 s late (24 cells in 8 sessions)"""
    cells = {
        f"s{s}-{k}": {"gpu": "h100", "gpus": 1, "session": f"s{s}", "order": k}
        for s in range(8)
        for k in range(3)
    }
    case.flow.write(cells)
    store = case.flow.root.with_name("late-store")
    exchanged = [case.logdir, case.flow.root / ".snakemake/incomplete", case.flow.root / "out"]
    with lagging(case.lab, exchanged, store, 15):
        case.process = case.flow.start("--latency-wait", "40")
        assert case.wait(400) == 0
        case.slurm = case.state(case.job("s0-0"))
        case.user = case.saw(r"is over \(COMPLETED\): waiting up to [^\n]*")
        time.sleep(16)


@fault
def output_disk_full(case: Case) -> None:
    """the file system of the outputs is full as a cell writes (root only)"""
    place = case.flow.root / "out"
    place.mkdir()
    case.shell("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place))
    try:
        case.begin()
        case.shell("dd", "if=/dev/zero", f"of={place}/filler", "bs=4k", fails=True)
        assert case.finish() == 1
        case.user = case.saw(r"exit code \d+ in session [^;\n]*; no space left on device")
        case.slurm = case.state(case.job(HELD))
        (place / "filler").unlink()
        case.cut_off = {HELD, "h100x1-2"}
        shutil.copytree(place, case.flow.root / "kept")
    finally:
        case.abandon()
        case.shell("umount", str(place))
    shutil.copytree(case.flow.root / "kept", place, dirs_exist_ok=True)
