"""The private Slurm itself."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.lab import Lab, LabError, missing_programs
from tests.slurm.lab_config import LabConfig, Nodes
from tests.slurm.lab_processes import Daemons, is_alive

ROOT = Path(__file__).resolve().parents[2]
NewLab = Callable[[LabConfig], Lab]


@pytest.mark.slurm
def test_arrays_land_where_asked(lab: Lab, tmp_path: Path) -> None:
    gpus = {"h100": 2, "h200": 4, "a100": 1}
    arrays = {
        gpu: submit(
            *(lab, "--array=0-1", "-p", f"gpu-{gpu}", f"--gres=gpu:{gpu}:{n}"),
            wrap="echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES",
            output=f"{tmp_path}/{gpu}-%a",
        )
        for gpu, n in gpus.items()
    }
    for gpu, n in gpus.items():
        row = ["COMPLETED", f"gpu-{gpu}"]
        wait(lambda: [r[:2] for r in sacct(lab, arrays[gpu])] == [row, row])  # noqa: B023
        for state in sacct(lab, arrays[gpu]):
            assert f"gres/gpu:{gpu}={n}" in state[2].split(",")
        for k in range(2):
            node, devices = (tmp_path / f"{gpu}-{k}").read_text().split()
            assert node.startswith(f"{gpu}-")
            assert len(set(devices.split(","))) == n


@pytest.mark.slurm
@pytest.mark.parametrize(("qos", "ends"), [("scavenge", True), ("scavenge-requeue", False)])
def test_an_urgent_job_preempts(lab: Lab, qos: str, ends: bool) -> None:
    place = ["-p", "gpu-h200", "--gres=gpu:h200:4"]
    victim = submit(lab, *place, f"--qos={qos}", wrap="sleep 600")
    wait(lambda: queue(lab, victim) == "RUNNING")
    urgent = submit(lab, *place, "--qos=urgent", wrap="sleep 1")
    wait(lambda: [row[0] for row in sacct(lab, urgent)] == ["COMPLETED"])
    if ends:
        wait(lambda: [row[0] for row in sacct(lab, victim)] == ["PREEMPTED"])
        assert queue(lab, victim) in ("", "PREEMPTED")
    else:
        wait(lambda: queue(lab, victim) == "RUNNING", 180)
        assert "Restarts=1 " in lab.call("scontrol", "show", "job", victim)
        lab.scancel(victim)


@pytest.mark.slurm
def test_a_drained_node_takes_no_job(lab: Lab) -> None:
    lab.drain("h200-1")
    try:
        job = submit(lab, "-p", "gpu-h200", wrap="true")
        time.sleep(2)  # an idle node would have taken it within one
        assert queue(lab, job) == "PENDING"
    finally:
        lab.resume("h200-1")
    wait(lambda: [row[0] for row in sacct(lab, job)] == ["COMPLETED"])


@pytest.mark.slurm
def test_jobs_survive_the_controller(lab: Lab) -> None:
    job = submit(lab, "-p", "gpu-a100", wrap="sleep 2")
    wait(lambda: queue(lab, job) == "RUNNING")
    lab.stop_slurmctld(hard=False)
    assert not lab.daemons.runs("slurmctld")
    lab.start_slurmctld()
    wait(lambda: [row[0] for row in sacct(lab, job)] == ["COMPLETED"])
    lab.wait_idle()


@pytest.mark.slurm
def test_two_labs_at_once_and_nothing_left(lab: Lab, new_lab: NewLab, tmp_path: Path) -> None:
    second = new_lab(LabConfig(nodes=(Nodes("x1", 1, 2),)))
    assert second.port != lab.port
    for again in (False, True):
        if again:
            second.up()
        job = submit(
            *(second, "--gres=gpu:x1:2"),
            wrap=f"echo $CUDA_VISIBLE_DEVICES on $SLURMD_NODENAME {again}",
            output=f"{tmp_path}/out",
        )
        assert job == "1"  # nothing is known of the time before
        # Not by `sbatch --wait`, which looks every half minute in the end.
        wait(lambda: queue(second, "1") in ("", "COMPLETED"), 180)
        assert (tmp_path / "out").read_text() == f"0,1 on x1-1 {again}\n"
        submit(second, wrap="sleep 600")
        pids = second.daemons.pids()
        assert len(pids) == 5
        second.down()
        assert [pid for pid in pids if is_alive(pid)] == []
        assert using(second.folder) == []
        assert not second.folder.exists()
    assert lab.daemons.runs("slurmctld")


def test_a_path_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    with pytest.raises(LabError, match="too long for Slurm's sockets"):
        Lab(folder).up()
    assert not folder.exists()


@pytest.mark.slurm
def test_a_lost_node_is_noticed(lab: Lab) -> None:
    job = submit(lab, "--no-requeue", "-p", "gpu-h200", wrap="sleep 600")
    wait(lambda: queue(lab, job) == "RUNNING")
    lab.kill_node("h200-1")
    wait(lambda: [row[0] for row in sacct(lab, job)] == ["NODE_FAIL"], 300)
    lab.start_node("h200-1")
    lab.wait_idle()


@pytest.mark.slurm
def test_as_another_user() -> None:
    """As ``nobody`` where root runs the tests; all other tests are another user's otherwise."""
    if missing_programs():
        pytest.skip("no Slurm: install/slurm.sh installs it")
    # Neither pytest's folders nor this project's own Python can be read by everybody.
    python = shutil.which("python3", path="/usr/bin:/bin") if os.geteuid() == 0 else sys.executable
    assert python is not None
    user = pwd.getpwnam("nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)
    folder = Path(tempfile.mkdtemp(prefix="lab-of-nobody-"))
    shutil.copytree(ROOT / "tests/slurm", folder / "tests/slurm")
    os.chown(folder, user.pw_uid, user.pw_gid)
    program = (
        "import sys; from pathlib import Path; from tests.slurm.lab import Lab\n"
        "with Lab(Path(sys.argv[1]) / 'lab') as lab: "
        "print(lab.call('srun', '-p', 'gpu-h200', '--gres=gpu:h200:3', '--mem=100M', "
        "'sh', '-c', 'echo $CUDA_VISIBLE_DEVICES; id -un'))"
    )
    own = {"PYTHONPATH": str(folder), "HOME": str(folder)}
    who = {"USER": user.pw_name, "LOGNAME": user.pw_name}
    becomes = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    try:
        done = subprocess.run(
            [python, "-c", program, str(folder)],
            env={**os.environ, **own, **who},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **(becomes if os.geteuid() == 0 else {}),  # type: ignore[call-overload]
        )
        assert done.stdout.split() == ["0,1,2", user.pw_name], done.stderr
        assert using(folder) == []
    finally:
        shutil.rmtree(folder)


def test_a_lab_that_cannot_start_says_why_and_leaves_nothing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if missing_programs():
        with pytest.raises(LabError, match=r"missing: .*install/slurm\.sh"):
            Lab(tmp_path_factory.mktemp("lab") / "lab").up()
        return
    broken = Lab(tmp_path_factory.mktemp("lab") / "lab", LabConfig(auth="nonsense"))
    with pytest.raises(LabError, match="nonsense"):
        broken.up()
    assert broken.daemons.names() == []
    assert using(broken.folder) == []


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for action in (Lab(tmp_path).up, Lab(tmp_path).down):
        with pytest.raises(LabError, match=str(tmp_path)):
            action()
    assert (tmp_path / "bin").exists()


def test_a_pid_that_is_somebody_elses_now_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    daemons = Daemons(tmp_path)
    daemons.start("sleeper", ["sleep", "60"], os.environ)
    (pid,) = daemons.pids()
    record = daemons.record.read_text()
    try:
        assert daemons.runs("sleeper")
        daemons.record.write_text(f'{{"sleeper": [{pid}, "1"]}}')  # began when the machine did
        daemons.stop("sleeper", number=signal.SIGKILL)
        assert is_alive(pid)
        assert daemons.names() == []
    finally:
        daemons.record.write_text(record)
        daemons.stop("sleeper")
    assert not is_alive(pid)


def submit(lab: Lab, *words: str, wrap: str, output: str = "/dev/null") -> str:
    """Submit a small job; its id."""
    small = ["--parsable", "-t", "5", "--mem=100M", "-o", output, "--wrap", wrap]
    return lab.call("sbatch", *words, *small).strip()


def sacct(lab: Lab, job: str) -> list[list[str]]:
    """State, partition and TRES of all that accounting knows of a job."""
    return lab.sacct(job, "State,Partition,AllocTRES")


def queue(lab: Lab, job: str) -> str:
    """A job's state in the queue, empty if it is not there."""
    return lab.call("squeue", "-h", "-t", "all", "-o", "%T", "-j", job).strip()


def using(folder: Path) -> list[int]:
    """Processes with a file open below ``folder``."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            files = [str(fd.readlink()) for fd in (entry / "fd").iterdir()]
        except OSError:
            continue
        if any(file.startswith(f"{folder}/") for file in files):
            found.append(int(entry.name))
    return found


def wait(condition: Callable[[], object], limit_s: float = 120) -> None:
    """Until a condition holds, or fail."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)
