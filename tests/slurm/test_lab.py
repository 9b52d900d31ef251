"""The private Slurm itself."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.slurm.lab import Lab, LabError, missing_programs
from tests.slurm.lab_config import LabConfig, Nodes

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slurm
def test_two_labs_at_once_and_nothing_left(lab: Lab, tmp_path: Path) -> None:
    small = LabConfig(nodes=(Nodes("x1", 1, 2),))
    with Lab(tmp_path / "second", small) as second:
        assert second.port != lab.port
        words = ["sbatch", "--wait", "--gres=gpu:x1:2", "-o", f"{tmp_path}/out", "-t", "1"]
        second.call(
            *words, "--mem=100M", "--wrap", "echo $CUDA_VISIBLE_DEVICES on $SLURMD_NODENAME"
        )
        assert (tmp_path / "out").read_text() == "0,1 on x1-1\n"
        pids = list(second._pids().values())
        assert len(pids) == 5
    assert [pid for pid in pids if Path(f"/proc/{pid}/stat").exists()] == []
    assert not (tmp_path / "second").exists()


@pytest.mark.slurm
def test_a_lost_node_is_noticed(tmp_path: Path) -> None:
    if missing_programs():
        pytest.skip("no Slurm: install/slurm.sh installs it")
    with Lab(tmp_path / "lab", LabConfig(nodes=(Nodes("x1", 1, 1),), slurmd_timeout=5)) as lab:
        words = ["sbatch", "--parsable", "--no-requeue", "-t", "5", "--mem=100M"]
        job = lab.call(*words, "-o", "/dev/null", "--wrap", "sleep 600").strip()
        wait(lambda: lab.call("squeue", "-h", "-o", "%T") == "RUNNING\n")
        lab.kill_node("x1-1")
        wait(lambda: [job, "NODE_FAIL"] in lab.sacct(job, "JobID,State"), 60)
        lab.start_node("x1-1")
        lab.wait_idle()


@pytest.mark.slurm
def test_as_another_user(tmp_path: Path) -> None:
    if missing_programs():
        pytest.skip("no Slurm: install/slurm.sh installs it")
    if os.geteuid() != 0:
        pytest.skip("only root can become another user; this run is not root's")
    nobody, group = pwd.getpwnam("nobody")[2:4]
    folder = Path("/tmp") / f"tpsweep-lab-of-nobody-{os.getpid()}"
    shutil.copytree(ROOT / "tests/slurm", folder / "tests/slurm")
    os.chown(folder, nobody, group)
    # This project's own Python may be where nobody else may look.
    python = shutil.which("python3", path="/usr/bin:/bin")
    assert python is not None
    program = (
        "import sys; from pathlib import Path; from tests.slurm.lab import Lab\n"
        "with Lab(Path(sys.argv[1]) / 'lab') as lab: "
        "print(lab.call('srun', '-p', 'gpu-h200', '--gres=gpu:h200:3', '--mem=100M', "
        "'sh', '-c', 'echo $CUDA_VISIBLE_DEVICES; id -un'))"
    )
    try:
        done = subprocess.run(
            [python, "-c", program, str(folder)],
            env={**os.environ, "PYTHONPATH": str(folder), "HOME": str(folder), "USER": "nobody"}
            | {"LOGNAME": "nobody"},
            user=nobody,
            group=group,
            extra_groups=[],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.stdout.split() == ["0,1,2", "nobody"], done.stderr
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_a_lab_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    if missing_programs():
        with pytest.raises(LabError, match=r"missing: .*install/slurm\.sh"):
            Lab(tmp_path / "lab").up()
        return
    broken = Lab(tmp_path / "lab", LabConfig(auth="nonsense"))
    with pytest.raises(LabError, match="nonsense"):
        broken.up()
    assert broken._pids() == {}


def wait(condition: object, limit_s: float = 30) -> None:
    end = time.monotonic() + limit_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.2)
