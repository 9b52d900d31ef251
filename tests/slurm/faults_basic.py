"""What clusters do to sessions, and users to Snakemake. See ``faults``."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

from tests.slurm.case import HELD, Case
from tests.slurm.fault import ENDED, fault
from tests.slurm.workflow import SITE, matrix


@fault
def one_cell_fails(case: Case) -> None:
    """one cell exits with 3"""
    (case.flow.root / f"fail-{HELD}").write_text("3")
    case.begin()
    assert case.finish() == 1
    case.user = case.saw(r"exit code 3 in session")
    case.slurm = case.state(case.job(HELD))
    case.cut_off = {HELD}
    (case.flow.root / f"fail-{HELD}").unlink()


@fault
def retries_are_for_what_may_pass(case: Case) -> None:
    """with --retries 2, one cell exits with 3 and one with 65 (it would fail again)"""
    for cell, code in ((HELD, 3), ("h200x4-1", 65)):
        (case.flow.root / f"fail-{cell}").write_text(str(code))
    case.begin("--retries", "2", hold=())
    assert case.finish() == 1
    begun = case.flow.count("begin")
    assert (begun[HELD], begun["h200x4-1"]) == (3, 1), begun
    case.user = f"3 attempts, and 1: {case.saw('exit code 65 in session')}"
    case.slurm = "COMPLETED"
    case.cut_off = {HELD, "h200x4-1"}
    for cell in (HELD, "h200x4-1"):
        (case.flow.root / f"fail-{cell}").unlink()


@fault
def cell_over_its_time(case: Case) -> None:
    """one cell runs over its runtime of 6 s"""
    cells = matrix()
    cells[HELD]["runtime"] = 0.1
    case.begin(cells=cells)
    assert case.wait() == 1
    case.user = case.saw(r"ended at its time limit in session")
    case.slurm = case.state(case.job(HELD))
    case.cut_off = {HELD}
    case.finish()


@fault
def session_over_its_time(case: Case) -> None:
    """a session reaches the time limit of its job (2 minutes)"""
    site = SITE.replace("max_minutes: 30", "max_minutes: 2")
    case.begin(site=site, limited=False)
    assert case.wait(240) == 1
    case.user, case.slurm = case.saw(ENDED), case.state(case.job(HELD))
    case.cut_off = {HELD}


@fault
def scancel_of_one(case: Case) -> None:
    """scancel of one session's job, with --retries 1 (not retried: somebody wanted it)"""
    case.begin("--retries", "1")
    job = case.job(HELD)
    case.call("scancel", job)
    assert case.wait() == 1
    case.user, case.slurm = case.saw(ENDED), case.state(job)
    assert case.flow.count("begin")[HELD] == 1
    case.cut_off = {HELD}


@fault
def scancel_of_one_element(case: Case) -> None:
    """scancel of one element of an array; its neighbours go on"""
    cells = {
        f"{s}-{k}": {"gpu": "h100", "gpus": 1, "session": s, "order": k}
        for s in ("first", "second", "third")
        for k in range(2)
    }
    case.begin(cells=cells, hold=["second-0", "third-0"])
    job = case.job("second-0")
    assert "_" in job
    case.call("scancel", job)
    case.flow.wait_for(lambda: re.search(ENDED, case.flow.said()))
    assert case.finish() == 1
    case.user, case.slurm = case.saw(ENDED), case.state(job)
    case.cut_off = {"second-0"}


@fault
def preempted_by_cancel(case: Case) -> None:
    """a job of a higher QOS takes the nodes (preemption by cancel), with --retries 1"""
    site = SITE + "qos: scavenge\nqos_limits: {scavenge: {}}\n"
    case.begin("--retries", "1", hold=["h200x4-1"], site=site)
    job = case.job("h200x4-1")
    urgent = case.call(
        *(
            [
                "sbatch",
                "--parsable",
                "--qos=urgent",
                "-p",
                "gpu-h200",
                "--gres=gpu:h200:4",
                "-t",
                "1",
            ]
        ),
        *("--mem=100M", "-o", "/dev/null", "--wrap", "sleep 5"),
    )
    case.flow.wait_for(lambda: case.flow.count("begin")["h200x4-1"] == 2)
    assert case.finish() == 0
    case.user = f"{case.saw(ENDED)}; retried by itself"
    case.slurm = f"{case.state(job)} for {urgent}"
    case.cut_off = {"h200x4-1"}


@fault
def preempted_by_requeue(case: Case) -> None:
    """the same where the QOS requeues: the session goes on where it was"""
    site = SITE.replace("slurm: {mem: 300M}", "slurm: {mem: 300M, requeue: true}")
    site += "qos: scavenge-requeue\nqos_limits: {scavenge-requeue: {}}\n"
    case.begin(hold=["h200x4-1"], site=site)
    session, job = case.session("h200x4-1"), case.job("h200x4-1")
    case.call(
        *(
            [
                "sbatch",
                "--parsable",
                "--qos=urgent",
                "-p",
                "gpu-h200",
                "--gres=gpu:h200:4",
                "-t",
                "1",
            ]
        ),
        *("--mem=100M", "-o", "/dev/null", "--wrap", "sleep 3"),
    )
    case.flow.wait_for(lambda: case.flow.count("begin")["h200x4-1"] == 2, 120)
    assert case.session("h200x4-1") == session
    assert case.finish() == 0
    records = case.call("sacct", "-nPXD", "-o", "State", "-j", job).split()
    case.slurm = ", ".join(records)
    case.user = "nothing: the session ran again and skipped what it had done"
    case.cut_off = {"h200x4-1"}


@fault
def node_lost(case: Case) -> None:
    """a node dies with all that runs on it, with --retries 1"""
    case.begin("--retries", "1")
    job, node = case.job(HELD), case.node(HELD)
    case.lab.kill_node(node, with_jobs=True)
    case.flow.wait_for(lambda: case.flow.count("begin")[HELD] == 2, 120)
    assert case.finish() == 0
    case.user, case.slurm = f"{case.saw(ENDED)}; retried by itself", case.state(job)
    case.cut_off = {HELD}
    case.lab.start_node(node)


@fault
def node_cut_off_while_its_jobs_live_on(case: Case) -> None:
    """slurmd dies, its jobs live on: they must not finish what is run elsewhere (--retries 1)"""
    case.begin("--retries", "1")
    job, node = case.job(HELD), case.node(HELD)
    case.lab.kill_node(node, with_jobs=False)
    case.flow.wait_for(lambda: case.flow.count("begin")[HELD] == 2, 120)
    assert case.finish() == 0
    case.user, case.slurm = f"{case.saw(ENDED)}; retried by itself", case.state(job)
    case.cut_off = {HELD}
    case.lab.start_node(node)


@fault
def out_of_host_memory(case: Case) -> None:
    """a cell takes 900 MB where 300 MB were asked, with --retries 1 (not retried)"""
    (case.flow.root / f"eat-{HELD}").touch()
    case.begin("--retries", "1", hold=())
    assert case.finish() == 1
    record = json.loads((case.flow.root / f"failures/{HELD}.json").read_text())
    assert record["type"] == "out_of_memory", record
    assert case.flow.count("begin")[HELD] == 1
    case.user, case.slurm = case.saw(ENDED), case.state(case.job(HELD))
    case.cut_off = {HELD}
    (case.flow.root / f"eat-{HELD}").unlink()


@fault
def accounting_down(case: Case) -> None:
    """slurmdbd is down while sessions run and end; one is cancelled meanwhile"""
    case.begin(hold=[HELD, "a100x1-1"])
    case.lab.stop_slurmdbd()
    job = case.job("a100x1-1")
    case.call("scancel", job)
    case.flow.wait_for(lambda: re.search(ENDED, case.flow.said()))
    assert case.finish() == 1
    case.user = case.saw(ENDED)
    case.lab.start_slurmdbd()
    case.slurm = f"sacct: no answer; later {case.state(job)}"
    case.cut_off = {"a100x1-1"}


@fault
def submitted_while_the_controller_is_down(case: Case) -> None:
    """sbatch finds no slurmctld: submitted once it is back"""
    case.flow.write(matrix())
    case.lab.stop_slurmctld(hard=False)
    case.process = case.flow.start()
    case.flow.wait_for(lambda: "sbatch: " in case.flow.said(), 90)
    case.slurm = case.saw(r"sbatch: error: [^;]*")[-90:]
    case.lab.start_slurmctld()
    assert case.finish() == 0
    case.user = case.saw(r"it may have been taken: [^.\n]*")


@fault
def refused_for_submit_limit(case: Case) -> None:
    """a QOS takes 3 jobs at a time (MaxSubmitJobs), 8 sessions are ready"""
    cells = {
        f"s{s}-{k}": {"gpu": "h100", "gpus": 1, "session": f"s{s}", "order": k}
        for s in range(8)
        for k in range(2)
    }
    case.begin(cells=cells, hold=(), site=SITE + "qos: tiny\nqos_limits: {tiny: {}}\n")
    assert case.finish() == 0
    case.slurm = case.saw(r"QOSMaxSubmit\w+")
    case.user = case.saw(r"wait until there is room, or submit fewer at a time")


@fault
def refused_for_good(case: Case) -> None:
    """8 GPUs are asked of nodes that have 4: that session alone fails, with Slurm's words"""
    cells = matrix() | {"h100x8-0": {"gpu": "h100", "gpus": 8, "session": "h100x8"}}
    site = SITE.replace("FAKE H100, per_node: 4", "FAKE H100, per_node: 8")
    case.flow.write(cells, site)
    case.process = case.flow.start("--retries", "2")
    assert case.finish() == 1
    assert len(case.flow.count("done")) == len(matrix())
    case.slurm = case.saw(r"Requested node configuration is not available")
    case.user = case.saw(r"message: sbatch: error[^.\n]*")
    del cells["h100x8-0"]
    case.flow.write(cells, SITE)


@fault
def main_process_killed(case: Case) -> None:
    """SIGKILL of Snakemake with sessions running, then the same command"""
    case.begin(hold=[HELD, "h200x4-1"])
    case.kill()
    case.flow.let_go(HELD)
    case.flow.wait_for(lambda: case.flow.count("done")["h100x1-2"])
    case.process = case.flow.start(*case.options)
    case.flow.wait_for(lambda: "reattached" in case.flow.said())
    time.sleep(2)
    assert case.finish() == 0
    case.user, case.slurm = case.saw(r"reattached to [^\n]*"), case.state(case.job("h200x4-1"))


@fault
def main_process_killed_in_sbatch(case: Case) -> None:
    """SIGKILL of Snakemake after sbatch took an array and before anybody could note its id"""
    real = case.call("bash", "-c", "command -v sbatch")
    shims = case.flow.root / "shims"
    shims.mkdir()
    shim = shims / "sbatch"
    shim.write_text(f'#!/bin/bash\n{real} "$@" > taken\nkill -9 $PPID\n')
    shim.chmod(0o755)
    case.flow.write(matrix())
    case.flow.hold(HELD)
    calm = case.flow.environment
    case.flow.environment = {**calm, "PATH": f"{shims}:{calm['PATH']}"}
    case.process = case.flow.start()
    assert case.wait() == -signal.SIGKILL
    case.flow.environment = calm
    case.slurm = (case.flow.root / "taken").read_text().strip()
    case.process = case.flow.start()
    case.flow.wait_begun(HELD)
    assert case.finish() == 0
    case.user = case.saw(r"reattached to [^\n]*")


@fault
def ledger_cut_short(case: Case) -> None:
    """SIGKILL of Snakemake, and the last line of its ledger is cut in half"""
    case.begin()
    job = case.job(HELD)
    case.kill()
    ledger = case.logdir / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    keep = [line for line in lines if json.loads(line)["event"] != "closed"]
    ledger.write_bytes(b"".join(keep)[:-20])
    case.process = case.flow.start()
    case.flow.wait_for(lambda: "reattached" in case.flow.said())
    assert case.finish() == 0
    case.user, case.slurm = case.saw(r"reattached to [^\n]*"), case.state(job)


@fault
def ctrl_c(case: Case) -> None:
    """Ctrl-C: all sessions are cancelled"""
    case.begin()
    job = case.job(HELD)
    case.interrupt()
    assert case.wait(60) != 0
    case.slurm = case.state(job)
    assert case.call("squeue", "-h") == ""
    case.user = case.saw(r"Terminating processes on user request[^\n]*|Cancelling[^\n]*")
    case.cut_off = {HELD}


@fault
def ctrl_c_detached(case: Case) -> None:
    """Ctrl-C with --submitit-detach: sessions go on, the same command follows them again"""
    case.begin("--submitit-detach")
    job = case.job(HELD)
    case.interrupt()
    assert case.wait(60) != 0
    case.user = case.saw(r"\d+ sessions? go on[^\n]*")
    case.flow.let_go(HELD)
    case.process = case.flow.start(*case.options)
    assert case.finish() == 0
    case.slurm = case.state(job)


@fault
def session_command_fails(case: Case) -> None:
    """the session's command cannot start: its cells fail one by one, the others run"""
    cells = matrix()
    for cell in cells.values():
        if cell["session"] == "h100x1":
            cell["command"] = "exit 7"
    case.flow.write(cells)
    case.process = case.flow.start()
    assert case.finish() == 1
    case.user = case.saw(r"exit code 9 in session")
    case.slurm = case.state(case.job(HELD))
    case.cut_off = {f"h100x1-{k}" for k in range(3)}
    for cell in cells.values():
        cell.pop("command", None)
    case.flow.write(cells)


@fault
def disk_full(case: Case) -> None:
    """the file system of .snakemake is full for 8 s while a cell ends (root only)"""
    place = case.flow.root / ".snakemake"
    place.mkdir()
    case.shell("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place))
    try:
        case.begin()
        case.flow.wait_for(lambda: "10 of 13 steps" in case.flow.said())
        case.shell("dd", "if=/dev/zero", f"of={place}/filler", "bs=4k", fails=True)
        case.flow.hold("h100x1-2")
        case.flow.let_go(HELD)
        case.flow.wait_for(lambda: case.flow.count("done")[HELD])
        time.sleep(8)
        (place / "filler").unlink()
        if case.finish() == 0:
            case.user = "nothing"
        else:
            # Snakemake itself does not go on without its records; it cancelled the session.
            case.user = case.saw(r"[^\n]*No space left on device")
            begun, done = case.flow.count("begin"), case.flow.count("done")
            case.cut_off = set(begun) - set(done)
        case.slurm = case.state(case.job(HELD))
        shutil.copytree(place, case.flow.root / "kept", symlinks=True)
    finally:
        case.abandon()
        case.shell("umount", str(place))
    shutil.copytree(case.flow.root / "kept", place, symlinks=True, dirs_exist_ok=True)


@fault
def runner_killed(case: Case) -> None:
    """SIGKILL of a session's runner and its worker on the node (--retries 1)"""
    case.begin("--retries", "1")
    pid = int((case.logdir / case.session(HELD) / "runner.pid").read_text())
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    job = case.job(HELD)
    for number in [pid, *map(int, children)]:
        os.kill(number, signal.SIGKILL)
    case.flow.wait_for(lambda: case.flow.count("begin")[HELD] == 2)
    assert case.finish() == 0
    case.user, case.slurm = f"{case.saw(ENDED)}; retried by itself", case.state(job)
    case.cut_off = {HELD}


@fault
def controller_restarted(case: Case) -> None:
    """slurmctld is killed for 8 s while sessions run, and comes back"""
    case.begin()
    job = case.job(HELD)
    case.lab.stop_slurmctld()
    time.sleep(8)
    case.lab.start_slurmctld()
    time.sleep(2)
    assert case.finish() == 0
    case.user = "nothing: squeue waited for it"
    found = case.call("sacct", "-nPX", "-o", "State", "-j", job)
    case.slurm = found or "nothing: it was killed before it had saved the job"


@fault
def forgotten_by_everybody(case: Case) -> None:
    """slurmctld forgets all jobs while accounting is down: lost, not waited for (--retries 1)"""
    case.begin("--retries", "1")
    job = case.job(HELD)
    case.lab.stop_slurmctld()
    case.lab.forget_jobs()
    case.lab.start_slurmctld()
    case.lab.stop_slurmdbd()
    case.flow.wait_for(lambda: "neither squeue nor sacct" in case.flow.said(), 120)
    case.lab.start_slurmdbd()
    case.flow.wait_for(lambda: case.flow.count("begin")[HELD] == 2, 120)
    assert case.finish() == 0
    case.user, case.slurm = f"{case.saw(ENDED)}; retried by itself", f"job {job}: no such job"
    case.cut_off = {HELD}
