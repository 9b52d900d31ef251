"""Faults on a real Slurm. Each is a function of a ``Case``; its docstring is its line in the table.

It starts a workflow, breaks something, and notes which cells were cut off unfinished
(``Case.cut_off``), what Slurm said and what the user saw. ``case.judge`` does the rest.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.slurm.case import HELD, Case, Fault
from tests.slurm.lag import lagging
from tests.slurm.workflow import SITE, matrix

FAULTS: dict[str, Fault] = {}


def fault(function: Fault) -> Fault:
    """Register a fault under its function's name."""
    FAULTS[function.__name__] = function
    return function


ENDED = r"ended before this job did: [^.\n]*"


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
    """a session reaches the time limit of its job (1 minute)"""
    site = SITE.replace("max_minutes: 30", "max_minutes: 1")
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
        assert case.process is not None
        if case.process.poll() is None:
            assert case.finish() == 0
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


def _with_values(value: str) -> dict[str, dict[str, Any]]:
    """The matrix, with a parameter and an input file."""
    return {c: {**known, "value": value, "input": ["input.txt"]} for c, known in matrix().items()}


def _begin_with_input(case: Case, *options: str, hold: list[str]) -> dict[str, dict[str, Any]]:
    (case.flow.root / "input.txt").write_text("old input")
    cells = _with_values("old")
    case.begin(*options, cells=cells, hold=hold)
    return cells


@fault
def input_changed_while_nobody_looked(case: Case) -> None:
    """SIGKILL of Snakemake, its session ends by itself, its input is changed, the same command"""
    cells = _begin_with_input(case, hold=[HELD])
    case.kill()
    job = case.job(HELD)
    case.finish_alone()
    (case.flow.root / "input.txt").write_text("new input")
    case.process = case.flow.start()
    assert case.finish() == 0
    assert {case.result(cell) for cell in cells} == {"old new input"}
    case.outdated = set(cells)
    case.user = case.saw(r"Updated input files: input.txt|Forced execution")
    case.slurm = case.state(job)


@fault
def parameter_changed_while_nobody_looked(case: Case) -> None:
    """SIGKILL of Snakemake, its session ends by itself, a parameter is changed, the same command"""
    cells = _begin_with_input(case, hold=[HELD])
    done = set(case.flow.count("done"))
    case.kill()
    job = case.job(HELD)
    case.finish_alone()
    case.rewrite(_with_values("new"))
    case.process = case.flow.start()
    assert case.finish() == 0
    assert {case.result(cell) for cell in cells} == {"new old input"}
    assert done < set(cells)
    case.outdated = set(cells)
    case.user, case.slurm = case.saw(r"Params have changed[^\n]*"), case.state(job)


@fault
def parameter_changed_while_it_runs(case: Case) -> None:
    """SIGKILL of Snakemake, a parameter is changed while its session runs, the same command"""
    cells = _begin_with_input(case, hold=[HELD])
    case.kill()
    job, session = case.job(HELD), case.session(HELD)
    case.rewrite(_with_values("new"))
    case.process = case.flow.start()
    case.flow.wait_for(lambda: case.flow.count("begin")[HELD] == 2)
    assert case.state(job) == "CANCELLED"
    assert case.session(HELD) != session
    assert case.finish() == 0
    assert {case.result(cell) for cell in cells} == {"new old input"}
    case.outdated = {cell for cell in cells if cell != "h100x1-2"}
    case.user, case.slurm = case.saw(r"does what is no longer wanted: [^\n]*"), case.state(job)


@fault
def all_forced_after_a_kill(case: Case) -> None:
    """SIGKILL of Snakemake, then the same command with --forceall while its session runs"""
    case.begin()
    case.kill()
    job = case.job(HELD)
    case.process = case.flow.start("--forceall")
    case.flow.wait_for(lambda: case.flow.count("begin")[HELD] == 2)
    assert case.finish() == 0
    case.outdated = {cell for cell in matrix() if cell != "h100x1-2"}
    case.user, case.slurm = case.saw(r"does what is no longer wanted: [^\n]*"), case.state(job)


HOSTILE = {
    "SBATCH_ARRAY_INX": "0-3",
    "SBATCH_EXPORT": "NONE",
    "SBATCH_JOB_NAME": "mine",
    "SBATCH_TIMELIMIT": "1",
    "SBATCH_PARTITION": "nowhere",
    "SBATCH_OUTPUT": "/dev/null",
    "SLURM_MEM_PER_CPU": "100",
    "SLURM_MEM_PER_NODE": "100",
    "SCANCEL_STATE": "PENDING",
    "SQUEUE_STATES": "PENDING",
    "SLURM_CLUSTERS": "lab",
}
"""What does most harm; the variables that say which cluster and who asks are not among them."""
VARIABLES = Path(__file__).with_name("variables.txt")
NOT_TRIED = {"SLURM_CONF", "SLURM_JWT"}


def variables() -> list[str]:
    """All that the manual pages of Slurm's programs name."""
    lines = VARIABLES.read_text("utf-8").splitlines()
    return [line for line in lines if not line.startswith("#") and line not in NOT_TRIED]


@fault
def every_variable_is_set(case: Case) -> None:
    """every documented variable of Slurm's programs is set in the shell; then Ctrl-C"""
    case.with_variables(**{**dict.fromkeys(variables(), "1"), **HOSTILE})
    case.begin()
    job = case.job(HELD)
    limit = case.call("squeue", "-h", "-o", "%l", "-j", job)
    assert limit == "10:00", limit
    case.interrupt()
    assert case.wait(60) != 0
    case.user, case.slurm = case.saw(r"not given to Slurm[^,]*, [^,]*, [^,]*"), case.state(job)
    case.cut_off = {HELD}
    case.with_variables()


def _inside(case: Case, *words: str) -> None:
    case.flow.write(matrix())
    case.process = case.flow.start(inside=words)
    assert case.wait(150) == 0
    case.user = case.saw(r"\d+ variables of job \d+")
    case.slurm = case.state(case.job(HELD))


@fault
def inside_salloc(case: Case) -> None:
    """Snakemake is started inside salloc --mem-per-cpu"""
    _inside(case, "salloc", "--quiet", "-p", "gpu-h100", "--mem-per-cpu=700M", "-t", "9")


@fault
def inside_an_array_element(case: Case) -> None:
    """Snakemake is started inside an array element, with a job name and memory per CPU"""
    script = case.flow.root / "main.sh"
    script.write_text('#!/bin/bash\nexec "$@" >> said.log 2>&1\n')
    words = ["sbatch", "--quiet", "--wait", "--array=3", "-J", "mine", "-p", "gpu-h100"]
    words += ["--mem-per-cpu=700M", "-t", "9", "-o", "/dev/null", str(script)]
    _inside(case, *words)


@fault
def inside_sbatch_without_environment(case: Case) -> None:
    """Snakemake is started with SBATCH_EXPORT=NONE, at a site that submits with export: NONE"""
    case.with_variables(SBATCH_EXPORT="NONE")
    path = case.lab.env()["PATH"]
    site = SITE.replace("slurm: {mem: 300M}", "slurm: {mem: 300M, export: NONE}")
    site += f'environment: {{PATH: "{path}", TEST_WORKFLOW: "{case.flow.root}"}}\n'
    site += f'setup: ["export PYTHONPATH={os.environ.get("PYTHONPATH", "")}"]\n'
    case.begin(hold=(), site=site)
    assert case.finish() == 0
    case.user = case.saw(r"not given to Slurm[^\n]*")
    case.slurm = case.state(case.job(HELD))


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
def job_id_of_somebody_else(case: Case) -> None:
    """ids begin anew after a reset: another job of the user has the id of ours; then Ctrl-C"""
    case.begin()
    case.kill()
    job = case.job(HELD)
    case.call("scancel", job)
    case.state(job)
    words = ["sbatch", "--parsable", "-p", "gpu-a100", "-J", "foreign", "--mem=100M", "-t", "5"]
    foreign = case.call(*words, "-o", "/dev/null", "--wrap", "sleep 300")
    ledger = case.logdir / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace(f'["{job}"]', f'["{foreign}"]'))
    assert f'["{foreign}"]' in ledger.read_text()
    case.process = case.flow.start()
    case.flow.wait_for(lambda: "reattached" in case.flow.said())
    time.sleep(2)
    case.interrupt()
    assert case.wait(90) != 0
    state = case.call("squeue", "-h", "-o", "%T", "-j", foreign)
    assert state == "RUNNING", state
    case.call("scancel", foreign)
    case.user, case.slurm = "the other job was left alone", f"the other job {foreign}: {state}"
    case.cut_off = {HELD}


@fault
def chatty_sbatch(case: Case) -> None:
    """a site's sbatch prints a banner with numbers before the id, or the banner alone"""
    real = case.call("bash", "-c", "command -v sbatch")
    shims = case.flow.root / "shims"
    shims.mkdir()
    shim = shims / "sbatch"
    shim.write_text(
        "#!/bin/bash\necho Dear user, 17 jobs wait, yours is job 99\n"
        f'{real} "$@" > answer; code=$?\n[ -e quiet ] && cat answer; touch quiet\nexit $code\n'
    )
    shim.chmod(0o755)
    case.with_variables(PATH=f"{shims}:{case.lab.env()['PATH']}")
    case.begin(hold=())
    assert case.finish() == 0
    case.with_variables()
    case.user, case.slurm = "nothing: the first was found by its name", case.state(case.job(HELD))


@fault
def files_appear_late(case: Case) -> None:
    """files of nodes and of this host become visible 15 s late (24 cells in 8 sessions)"""
    cells = {
        f"s{s}-{k}": {"gpu": "h100", "gpus": 1, "session": f"s{s}", "order": k}
        for s in range(8)
        for k in range(3)
    }
    case.flow.write(cells)
    store = case.flow.root.with_name("late-store")
    with lagging(case.lab, [case.logdir, case.flow.root / "out"], store, 15):
        case.process = case.flow.start("--latency-wait", "40")
        assert case.wait(400) == 0
        case.slurm = case.state(case.job("s0-0"))
        case.user = case.saw(r"is over \(COMPLETED\): waiting up to [^\n]*")
        time.sleep(16)


@fault
def more_memory_in_the_next_attempt(case: Case) -> None:
    """a job without GPUs takes 900 MB of 300, and asks for 1500 in its second attempt"""
    case.flow.write({"m-0": {}})
    text = (case.flow.root / "Snakefile").read_text()
    start, end = text.index("    resources:"), text.index("    params:")
    resources = "    retries: 1\n    resources: mem_mb=lambda w, attempt: [300, 1500][attempt - 1], runtime=2\n"
    (case.flow.root / "Snakefile").write_text(text[:start] + resources + text[end:])
    (case.flow.root / "cell.sh").write_text(
        'mkdir -p out; echo begin $1 $SESSION_ID ${SLURM_JOB_ID} - - - $(date +%s.%N) >> cells.log\n'
        'python3 -c "import time; held = bytearray(900 << 20); time.sleep(4)" || exit 1\n'
        "echo > out/$1.txt; echo done $1 $SESSION_ID ${SLURM_JOB_ID} - - - $(date +%s.%N) >> cells.log\n"
    )
    case.process = case.flow.start()
    assert case.finish() == 0
    case.user, case.slurm = f"{case.saw(ENDED)}; retried with more", case.state(case.job("m-0"))
    case.cut_off = {"m-0"}


@fault
def held_by_an_admin(case: Case) -> None:
    """a pending session is held: said once a minute, given up after the site's stuck_minutes"""
    cells = {f"s{s}-0": {"gpu": "h200", "gpus": 4, "session": f"s{s}"} for s in range(2)}
    site = SITE.replace("lost_minutes: 0.2", "lost_minutes: 0.2\nstuck_minutes: 0.1")
    case.begin(cells=cells, hold=["s0-0"], site=site.replace("parallel: 8", "parallel: 2"))
    pending = case.call("squeue", "-h", "-r", "-t", "PD", "-o", "%i")
    case.call("scontrol", "hold", pending)
    case.flow.wait_for(lambda: "given up" in case.flow.said() or "stuck" in case.flow.said())
    case.user = case.saw(r"waiting for JobHeld[^\n]*") + "; " + case.saw(ENDED)
    case.slurm = case.state(pending)
    assert case.finish() == 1


@fault
def suspended_by_an_admin(case: Case) -> None:
    """a session is suspended for 20 s while a cell with a runtime of 15 s runs"""
    cells = matrix()
    cells[HELD]["runtime"] = 0.25
    case.begin(cells=cells)
    job = case.job(HELD)
    case.call("scontrol", "suspend", job)
    case.flow.wait_for(lambda: "SUSPENDED" in case.flow.said())
    time.sleep(20)
    case.call("scontrol", "resume", job)
    time.sleep(2)
    assert case.finish() == 0
    case.user, case.slurm = case.saw(r"waiting for SUSPENDED[^\n]*"), case.state(job)


@fault
def prolog_fails(case: Case) -> None:
    """the prolog fails on one of two nodes, with --retries 1: the session runs on the other"""
    for node in ("h100-1", "a100-1"):
        (case.lab.folder / f"bad-{node}").touch()
    case.flow.write(matrix())
    case.process = case.flow.start("--retries", "1")
    assert case.finish() == 0
    for node in ("h100-1", "a100-1"):
        (case.lab.folder / f"bad-{node}").unlink()
        case.lab.resume(node)
    case.user, case.slurm = f"{case.saw(ENDED)}; retried by itself", "CANCELLED by 0; node drained"


@fault
def told_to_stop(case: Case) -> None:
    """SIGTERM of Snakemake: what runs goes on, what waits is cancelled, the same command continues"""
    cells = {f"s{s}-0": {"gpu": "h200", "gpus": 4, "session": f"s{s}"} for s in range(3)}
    case.begin(cells=cells, hold=["s0-0"])
    assert case.process is not None
    case.process.terminate()
    case.flow.wait_for(lambda: "Will exit after" in case.flow.said())
    case.flow.wait_for(lambda: len(case.call("squeue", "-h", "-r", "-o", "%i").split()) == 1)
    assert case.finish() == 1
    case.user, case.slurm = case.saw(r"stopped by you: [^\n]*"), case.state(case.job("s0-0"))


@fault
def arrays_of_one(case: Case) -> None:
    """MaxArraySize is 1: sessions are submitted as jobs"""
    case.begin(hold=(), site=SITE + "max_array_size: 1\n")
    assert case.finish() == 0
    case.user, case.slurm = "nothing", case.state(case.job(HELD))
    assert "_" not in case.job(HELD)


@fault
def requeued_by_an_admin(case: Case) -> None:
    """scontrol requeue of a session that runs, and of one that has finished"""
    site = SITE.replace("slurm: {mem: 300M}", "slurm: {mem: 300M, requeue: true}")
    case.begin(site=site)
    job, finished = case.job(HELD), case.job("h200x4-0")
    case.call("scontrol", "requeue", job)
    case.call("scontrol", "requeue", finished)
    case.flow.wait_for(lambda: case.flow.count("begin")[HELD] == 2, 120)
    assert case.finish() == 0
    case.user, case.slurm = "nothing: the session went on where it was", case.state(job)
    case.cut_off = {HELD}
