"""Faults that take a real engine: vLLM on this machine's CPU. A few engine starts, so few cases."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import time

import psutil

from tests.bad_input.case import LIMIT_S, Case, Project, Ran, finish
from tests.bad_input.name_cases import awkward


def small(project: Project, *batch: int, repeats: int = 3) -> None:
    """TP 1 and one workload. Rows that are there stay: nobody plans them any more."""
    config = project.config()
    decode = config["workloads"]["decode"] | {"batch": list(batch), "warmups": 1}
    project.set("workloads", {"decode": decode | {"repeats": repeats}})
    project.set("tp", [1])


def _argument(project: Project) -> None:
    small(project, 1)
    project.set("variants", {"eager": {"enforce_eager": True, "no_such_argument": 1}})


def _version(project: Project) -> None:
    small(project, 1)
    project.set("vllm_version", "0.0.1")


def _names(project: Project) -> None:
    small(project, 1)
    awkward(project)


PORT_IN_USE = """
import os, socket, sys
if "tpsweep.measure.daemon" in sys.orig_argv:  # not vLLM's own processes
    socket.socket.getsockname = lambda self: ("127.0.0.1", int(os.environ["PORT_IN_USE"]))
"""


def _port_in_use(project: Project) -> Ran:
    """Every look for a free port finds one that somebody listens on a moment later.

    Of a server of its own: one that shares its engine holds its port from the start.
    """
    project.set("one_start", False)
    config = project.config()
    serve = config["workloads"]["serve"] | {"request_rate": [9.0]}
    project.set("workloads", {"serve": serve})
    project.set("tp", [1])
    (project.folder / "site").mkdir()
    (project.folder / "site/sitecustomize.py").write_text(PORT_IN_USE)
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        paths = [str(project.folder / "site"), os.environ.get("PYTHONPATH", "")]
        environment = {"PYTHONPATH": os.pathsep.join(paths)}
        environment["PORT_IN_USE"] = str(somebody.getsockname()[1])
        return dataclasses.replace(project, environment=environment).run()


def _cells(project: Project) -> None:
    """Three cells of one session, of which the first is done already."""
    small(project, 3, 4, 5, repeats=15)
    project.set("workloads/decode/batch", [3])
    finish(project)
    project.set("workloads/decode/batch", [3, 4, 5])


def _in_the_second(project: Project) -> subprocess.Popen[str]:
    """The sweep, once the session's first row has come and its second cell is being measured."""
    rows = len(project.rows())
    process = project.start()
    end = time.monotonic() + LIMIT_S
    while len(project.rows()) == rows:
        assert process.poll() is None and time.monotonic() < end, "no row came"
        time.sleep(0.02)
    time.sleep(0.5)
    return process


def _ended(process: subprocess.Popen[str], code: int | None = None) -> Ran:
    output, _ = process.communicate(timeout=LIMIT_S)
    return Ran(output, process.returncode if code is None else code)


def _ctrl_c(project: Project) -> Ran:
    process = _in_the_second(project)
    below = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    ran = _ended(process)
    alive = [child for child in below if child.is_running()]
    return dataclasses.replace(ran, code=99) if alive else ran


def _killed_engine(project: Project) -> Ran:
    process = _in_the_second(project)
    for child in psutil.Process(process.pid).children(recursive=True):
        if "EngineCore" in " ".join(child.cmdline()):
            child.kill()
    return _ended(process)


CASES = (
    Case(
        "unknown_argument",
        "a variant with an argument that vLLM does not know",
        "no_such_argument",
        _argument,
        is_running=True,
        needs_vllm=True,
    ),
    Case(
        "wrong_version",
        "the installed vLLM is not the configured version",
        "tpsweep: vllm_version: '0.0.1', allowed: '",
        _version,
        needs_vllm=True,
    ),
    Case(
        "port_in_use",
        "another process takes the server's port before it listens, repeatedly",
        "ends: engine_start: port: ",
        act=_port_in_use,
        is_running=True,
        needs_vllm=True,
    ),
    Case(
        "ctrl_c",
        "Ctrl-C while a cell is measured",
        "; the same command continues",
        _cells,
        act=_ctrl_c,
        is_running=True,
        needs_vllm=True,
    ),
    Case(
        "engine_killed",
        "SIGKILL of the engine while a cell is measured",
        "ends: crash: ",
        _cells,
        act=_killed_engine,
        is_running=True,
        needs_vllm=True,
        tested_in="tests/vllm/test_deaths.py::test_each_death_is_one_line",
    ),
    Case(
        "names_measured",
        "quotes, $( ), {x}, unicode and spaces in names of models, variants and paths (measured)",
        "tpsweep tables: 1/1 cells measured",
        _names,
        code=0,
        is_running=True,
        needs_vllm=True,
        tested_in="tests/vllm/test_serve.py::test_names_are_taken_as_they_are",
    ),
)
