"""The profilers and nsys's session; the nsys here is a mock that notes what it is asked.

A real one is on no test machine. With nsys 2025.3 on 2x H200 the same calls make real captures:
results/smoke.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cells import engine
from tpsweep.core.errors import StartError
from tpsweep.engine import nsys_session, nsys_tools, profiler
from tpsweep.engine.profiler import NsysProfiler, TorchProfiler

MOCK = r"""#!/bin/sh
echo "$@" >> "$(dirname "$0")/asked"
case "$1" in
  --version) echo "NVIDIA Nsight Systems version 2025.3.1.90-253135822126v0" ;;
  launch) while [ "${1#-}" != "$1" ] || [ "$1" = launch ]; do shift; done; exec "$@" ;;
  start) for word in "$@"; do case "$word" in --output=*) base="${word#--output=}" ;; esac; done
    [ -e "$(dirname "$0")/refuse" ] && { echo "Another session is
 running" >&2; exit 1; }
    echo report > "$base.nsys-rep" ;;
  stop) ;;
  export) for word in "$@"; do last="$word"; case "$previous" in --output|-o) out="$word" ;; esac
    case "$word" in --output=*) out="${word#--output=}" ;; esac; previous="$word"; done
    echo export > "$out" ;;
esac
"""


@pytest.fixture
def nsys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "tools" / "nsys"
    program.parent.mkdir()
    program.write_text(MOCK)
    program.chmod(0o755)
    monkeypatch.setenv(nsys_tools.VARIABLE, str(program))
    monkeypatch.setattr(profiler, "SETTLE_S", 0.0)
    return program


def test_torch_traces_are_named_by_their_rank(tmp_path: Path) -> None:
    folder = tmp_path / "profile"
    torch = TorchProfiler(folder, "2.13.0+cpu")
    assert (torch.name, torch.config["profiler"]) == ("torch 2.13.0+cpu", "torch")
    assert torch.config["torch_profiler_dir"] == str(folder)
    folder.mkdir()
    for name in ("dp0_pp0_tp1_dcp0_ep1_rank1.17.pt.trace.json.gz", "tp0_rank0.9.pt.trace.json.gz"):
        (folder / name).write_text(name)
    files = torch.collect(tmp_path / "results" / "b1")
    assert [file.name for file in files] == [f"b1.rank{r}.pt.trace.json.gz" for r in (0, 1)]
    assert files[1].read_text().startswith("dp0_pp0_tp1")
    assert sorted(p.name for p in files[0].parent.iterdir()) == [file.name for file in files]
    with pytest.raises(ValueError, match="left no trace"):
        torch.collect(tmp_path / "results" / "b1")


def test_what_an_earlier_capture_left_is_not_the_next_ones(tmp_path: Path) -> None:
    torch = TorchProfiler(tmp_path / "profile", "2")
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "rank0.pt.trace.json.gz").touch()
    torch.start()
    with pytest.raises(ValueError, match="left no trace"):
        torch.collect(tmp_path / "b1")


def test_nsys_records_between_start_and_stop(nsys: Path, tmp_path: Path) -> None:
    one = NsysProfiler(nsys, "s1", tmp_path / "profile")
    assert one.name == "nsys 2025.3.1"
    assert one.config == {"profiler": "cuda"}
    one.start()
    one.stop()
    files = one.collect(tmp_path / "out" / "b1")
    assert [file.name for file in files] == ["b1.sqlite.xz", "b1.nsys-rep"]
    asked = (nsys.parent / "asked").read_text().splitlines()
    assert [line.split()[0] for line in asked] == ["--version", "start", "stop", "export"]
    assert all("--session=s1" in line for line in asked[1:3])


def test_nsys_says_why_it_does_not_start(nsys: Path, tmp_path: Path) -> None:
    (nsys.parent / "refuse").touch()
    with pytest.raises(ValueError, match=r"nsys start failed: Another session is running$"):
        NsysProfiler(nsys, "s1", tmp_path / "profile").start()


def test_a_session_has_the_profiler_that_it_runs_under(
    nsys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(profiler.of_session(tmp_path), TorchProfiler)
    monkeypatch.setenv("TPSWEEP_NSYS_SESSION", "s1")
    assert isinstance(profiler.of_session(tmp_path), NsysProfiler)


def test_an_engine_starts_itself_anew_under_nsys(nsys: Path) -> None:
    program = (
        "import os, sys; from tpsweep.engine import nsys_session; "
        "from tests.unit.cells import engine; "
        "nsys_session.enter(engine(mode='nsys')); print(os.getpid(), sys.argv[1:], "
        "nsys_session.session_of(os.environ))"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", program, "--engine", "{a b}"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    said, _ = started.communicate(timeout=60)
    # The same process all along: whoever started it can end it.
    assert said == f"{started.pid} ['--engine', '{{a b}}'] tpsweep-{started.pid}\n"
    asked = (nsys.parent / "asked").read_text()
    for option in ("--trace=cuda,nvtx", "--cuda-graph-trace=node", "--trace-fork-before-exec=true"):
        assert option in asked


@pytest.mark.parametrize("mode", ["offline", "server", "nsys-or-torch"])
def test_without_nsys_other_engines_go_on(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(nsys_tools.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    nsys_session.enter(engine(mode=mode))


def test_nsys_that_was_asked_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(nsys_tools.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StartError, match=r"nsys is not on this node; allowed: .*TPSWEEP_NSYS"):
        nsys_session.enter(engine(mode="nsys"))


def test_the_session_is_no_part_of_the_command_line() -> None:
    words = nsys_session.command(Path("/opt/nsys"), "s1", ["python", "-m", "x", json.dumps({})])
    assert words[:3] == ["/opt/nsys", "launch", "--session-new=s1"]
    assert words[-4:] == ["python", "-m", "x", "{}"]
