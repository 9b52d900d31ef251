"""Command lines of another Python and of a container: what is built, word by word."""

from __future__ import annotations

from pathlib import Path

import pytest

from tpsweep.core.program import LIBRARY, Program, ProgramError

WORDS = ["-m", "tpsweep.measure.daemon", "--engine", '{"model": "it\'s $HOME; {x} `id`"}']


def test_another_interpreter(tmp_path: Path) -> None:
    environ = {"HOME": "/home/me", "CONDA": "/opt/conda", "PATH": "/bin", "PYTHONPATH": "/mine"}
    program = Program(python="$CONDA/envs/vllm/bin/python", packages="~/more")
    assert program.argv(WORDS, environ) == ["/opt/conda/envs/vllm/bin/python", *WORDS]
    environment = program.environment({**environ, "PYTHONHOME": "/x", "VIRTUAL_ENV": "/y"})
    assert environment["PYTHONPATH"] == f"{LIBRARY}:/home/me/more:/mine"
    assert environment["PATH"] == "/opt/conda/envs/vllm/bin:/bin"
    assert not environment.keys() & {"PYTHONHOME", "VIRTUAL_ENV"}
    # A module's python3 is found by what the module did to the PATH.
    assert Program(python="python3").environment(environ)["PATH"] == "/bin"


def test_a_container_sees_what_the_sweep_uses_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, session, data = (tmp_path / name for name in ("work", "session", "da ta"))
    for folder in (work / "results", session, data):
        folder.mkdir(parents=True)
    monkeypatch.chdir(work)
    environ = {"SESSION_DIR": str(session), "SCRATCH": "/scratch/me", "PYTHONPATH": "/mine"}
    program = Program(
        image="$SCRATCH/vllm.sif",
        bind=("$SCRATCH", "/opt/data:/data:ro"),
        paths=("results", str(data), "no/such/folder"),
    )
    expected = [
        "apptainer",
        "exec",
        "--nv",
        "--bind",
        "/scratch/me",
        "--bind",
        "/opt/data:/data:ro",
    ]
    expected += ["--bind", str(work), "--bind", LIBRARY, "--bind", str(data)]
    expected += ["--bind", str(session), "--pwd", str(work), "/scratch/me/vllm.sif", "python3"]
    assert program.argv(WORDS, environ) == [*expected, *WORDS]
    environment = program.environment(environ)
    assert environment["PYTHONPATH"] == environment["APPTAINERENV_PYTHONPATH"] == LIBRARY
    assert environment["PYTHONNOUSERSITE"] == environment["APPTAINERENV_PYTHONNOUSERSITE"] == "1"
    # Its interpreter is one in the container.
    inside = Program(python="/opt/venv/bin/python", image="a.sif", has_gpus=False)
    argv = inside.argv(["-c", "1"], {})
    assert argv[-4:] == ["a.sif", "/opt/venv/bin/python", "-c", "1"] and "--nv" not in argv
    assert inside.environment({"PATH": "/bin"})["PATH"] == "/bin"


def test_what_a_node_cannot_show_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProgramError, match=r"\$NOWHERE/vllm.sif: \$NOWHERE is not set on this"):
        Program(image="$NOWHERE/vllm.sif").argv([], {})
    work, data = tmp_path / "work", tmp_path / "a,b"
    for folder in (work, data):
        folder.mkdir()
    monkeypatch.chdir(work)
    with pytest.raises(ProgramError, match="a,b: a path with , or : cannot be shown"):
        Program(image="a.sif", paths=(str(data),)).argv([], {})


def test_json_is_its_own_inverse() -> None:
    program = Program("p", "i.sif", ("a", "b:c"), "more", False, ("results",))
    assert Program.from_json(program.to_json()) == program
