"""Jobs held, suspended, refused or confused with others; memory; SIGTERM. See ``faults``."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from tests.slurm.case import HELD, Case
from tests.slurm.fault import ENDED, fault
from tests.slurm.workflow import SITE, matrix


@fault
def job_id_of_somebody_else(case: Case) -> None:
    """a reset makes job ids start again: another job of the user gets one of ours; then Ctrl-C"""
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


EATER = """
mkdir -p out
say() { echo "$1 $2 $SESSION_ID $SLURM_JOB_ID - - - $EPOCHREALTIME" >> cells.log; }
say begin "$1"
python3 -c "import time; held = bytearray(900 << 20); time.sleep(4)" || exit 1
echo > "$2"
say done "$1"
"""


@fault
def more_memory_in_the_next_attempt(case: Case) -> None:
    """a job without GPUs takes 900 MB of 300, and asks for 1500 in its second attempt"""
    case.flow.write({"m-0": {}})
    text = (case.flow.root / "Snakefile").read_text()
    start, end = text.index("    resources:"), text.index("    params:")
    resources = "    retries: 1\n    resources:\n        runtime=2,\n"
    resources += "        mem_mb=lambda w, attempt: [300, 1500][attempt - 1]\n"
    (case.flow.root / "Snakefile").write_text(text[:start] + resources + text[end:])
    (case.flow.root / "cell.sh").write_text(EATER)
    case.process = case.flow.start()
    assert case.finish() == 0
    case.user, case.slurm = f"{case.saw(ENDED)}; retried with more", case.state(case.job("m-0"))
    case.cut_off = {"m-0"}


def _begin_one(case: Case, cells: dict[str, dict[str, Any]], site: str) -> None:
    """Start a sweep of one-cell sessions on nodes that have room for one of them."""
    case.flow.write(cells, site)
    case.flow.hold(*cells)
    case.process = case.flow.start()
    case.flow.wait_for(lambda: case.flow.count("begin"))


@fault
def held_by_an_admin(case: Case) -> None:
    """a pending session is held: said once a minute, given up after the site's stuck_minutes"""
    cells = {f"s{s}-0": {"gpu": "h200", "gpus": 4, "session": f"s{s}"} for s in range(2)}
    site = SITE.replace("lost_minutes: 0.2", "lost_minutes: 0.2\nstuck_minutes: 0.1")
    _begin_one(case, cells, site)
    pending = case.call("squeue", "-h", "-r", "-t", "PD", "-o", "%i")
    case.call("scontrol", "hold", pending)
    case.flow.wait_for(lambda: "given up" in case.flow.said() or "stuck" in case.flow.said())
    case.user = case.saw(r"waiting for JobHeld[^\n]*") + "; " + case.saw(ENDED)
    case.slurm = case.state(pending)
    assert case.finish() == 1


@fault
def suspended_by_an_admin(case: Case) -> None:
    """a session is suspended for 65 s while a cell with a runtime of a minute runs"""
    cells = matrix()
    cells[HELD]["runtime"] = 1
    case.begin(cells=cells)
    job = case.job(HELD)
    case.call("scontrol", "suspend", job)
    case.flow.wait_for(lambda: "SUSPENDED" in case.flow.said())
    time.sleep(65)
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
    """SIGTERM of Snakemake: what runs goes on, what waits is cancelled"""
    cells = {f"s{s}-0": {"gpu": "h200", "gpus": 4, "session": f"s{s}"} for s in range(3)}
    _begin_one(case, cells, SITE)
    assert case.process is not None
    case.process.terminate()
    case.flow.wait_for(lambda: "Will exit after" in case.flow.said())
    case.flow.wait_for(lambda: len(case.call("squeue", "-h", "-r", "-o", "%i").split()) == 1)
    assert case.finish() == 1
    case.user, case.slurm = (
        case.saw(r"stopped by you: [^\n]*"),
        case.state(case.flow.events()[0].job),
    )


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


@fault
def arrays_smaller_than_the_sweep(case: Case) -> None:
    """MaxArraySize is 4, 8 sessions are ready: three arrays"""
    cells = {f"s{s}-0": {"gpu": "h100", "gpus": 1, "session": f"s{s}"} for s in range(8)}
    case.begin(cells=cells, hold=(), site=SITE + "max_array_size: 4\n")
    assert case.finish() == 0
    assert case.flow.said().count("submitted ") == 3
    case.user, case.slurm = "three arrays", case.state(case.job("s7-0"))


@fault
def two_thousand_cells(case: Case) -> None:
    """2,000 cells in 10 sessions: calls of Slurm's programs are counted"""
    # Of 0.1 minutes: 200 fit into the time of one session.
    cells = {
        f"s{s}-{k}": {"gpu": "h100", "gpus": 1, "session": f"s{s}", "order": k, "runtime": 0.1}
        for s in range(10)
        for k in range(200)
    }
    shims = case.flow.root / "shims"
    shims.mkdir()
    for program in ("sbatch", "squeue", "sacct"):
        real = case.call("bash", "-c", f"command -v {program}")
        shim = shims / program
        shim.write_text(
            f'#!/bin/bash\necho {program} >> {case.flow.root}/calls\nexec {real} "$@"\n'
        )
        shim.chmod(0o755)
    case.with_variables(PATH=f"{shims}:{case.lab.env()['PATH']}")
    case.flow.write(cells, SITE.replace("status_seconds: 1\n", "status_seconds: 10\n"))
    began = time.monotonic()
    options = ["--jobs", "100000", "--scheduler", "first-fit"]
    case.process = case.flow.start(*options, "--max-jobs-per-timespan", "100000/1s")
    assert case.finish(500) == 0
    minutes = (time.monotonic() - began) / 60
    case.with_variables()
    assert len({event.session for event in case.flow.events()}) == 10
    calls = Counter((case.flow.root / "calls").read_text().split())
    counts = ", ".join(f"{calls[program]} {program}" for program in ("sbatch", "squeue", "sacct"))
    case.user = f"{counts} in {minutes:.1f} minutes"
    case.slurm = case.state(case.job("s9-0"))


@fault
def preempted_while_the_controller_is_down(case: Case) -> None:
    """a session is preempted, and the controller is down as Snakemake asks (--retries 1)"""
    site = SITE + "qos: scavenge\nqos_limits: {scavenge: {}}\n"
    case.begin("--retries", "1", hold=["h200x4-1"], site=site)
    job = case.job("h200x4-1")
    case.submit_urgent(5)
    case.flow.wait_for(
        lambda: "R" not in case.call("squeue", "-h", "-t", "R", "-o", "%t", "-j", job)
    )
    case.lab.stop_slurmctld(hard=False)
    time.sleep(5)
    case.lab.start_slurmctld()
    case.flow.wait_for(lambda: case.flow.count("begin")["h200x4-1"] == 2, 120)
    assert case.finish() == 0
    case.user, case.slurm = f"{case.saw(ENDED)}; retried by itself", case.state(job)
    case.cut_off = {"h200x4-1"}
