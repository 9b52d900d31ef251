"""What goes wrong around a sweep: disks, damaged rows, a second Snakemake. No engine is started."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from tests.bad_input.case import Case, Project, Ran

NO_VLLM = '''"""Makes vLLM one that is not installed."""

import sys


class _NoVllm:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "vllm":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, _NoVllm())
'''


@contextlib.contextmanager
def mounted(project: Project, options: str) -> Iterator[None]:
    """A small file system at results/, with the rows that are there; unmounted at the end."""
    results, kept = project.results, project.folder / "kept"
    results.rename(kept)
    results.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(results)], check=True)
    try:
        subprocess.run(["cp", "-a", f"{kept}/.", str(results)], check=True)
        yield
        # What is there at the end is what counts: the mount goes away.
        subprocess.run(["rm", "-rf", str(kept)], check=True)
        subprocess.run(["cp", "-a", str(results), str(kept)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(results)], check=True)
        results.rmdir()
        kept.rename(results)


def _read_only(project: Project) -> Ran:
    with mounted(project, "size=8m"):
        subprocess.run(["mount", "-o", "remount,ro", str(project.results)], check=True)
        return project.run()


def _full(project: Project) -> Ran:
    with mounted(project, "size=8m"):
        fill(project)
        return project.run()


def fill(project: Project) -> None:
    """Leave no free byte on the file system of results/."""
    with (
        (project.results / "filler").open("wb", buffering=0) as file,
        contextlib.suppress(OSError),
    ):
        while file.write(b"x" * 4096):
            pass


def _file_in_place(project: Project) -> None:
    project.set("results", "taken")
    (project.folder / "taken").write_text("a file", "utf-8")


def damage(how: Callable[[bytes], bytes]) -> Callable[[Project], None]:
    """The first latency row's file with other content."""

    def prepare(project: Project) -> None:
        path = next(row for row in project.rows() if "/latency/" in str(row))
        path.write_bytes(how(path.read_bytes()))

    return prepare


def _flipped(content: bytes) -> bytes:
    """A few bytes of the first column's data are others; the end of the file is as it was."""
    return content[:40] + bytes(255 - byte for byte in content[40:48]) + content[48:]


def _planned(project: Project) -> Ran:
    """Planning measures that row again, and no other."""
    ran = project.run("-n")
    cells = set(re.findall(r"^latency +(\d+)$", ran.output, re.MULTILINE))
    return dataclasses.replace(ran, code=ran.code if cells == {"1"} else 99)


def _tables_then_planned(project: Project) -> Ran:
    """The first run reads the row for the tables and fails; the next one measures it again."""
    ran = project.run()
    return ran if _planned(project).code == 0 else dataclasses.replace(ran, code=99)


def _check(project: Project) -> Ran:
    """``tpsweep check``, after tables and manifest were made."""
    project.run()
    words = [sys.executable, "-m", "tpsweep", "check", "results"]
    environment = {**os.environ, **project.environment}
    done = subprocess.run(
        words, cwd=project.folder, env=environment, capture_output=True, text=True, check=False
    )
    return Ran(done.stdout, done.returncode)


def _two_at_once(project: Project) -> Ran:
    """A first Snakemake holds the folder while a second is typed."""
    first = project.start()
    end = time.monotonic() + 60
    while not list(project.folder.glob(".snakemake/submitit/lock")):
        assert first.poll() is None and time.monotonic() < end, "the first one has not begun"
        time.sleep(0.01)
    try:
        return project.run()
    finally:
        output, _ = first.communicate(timeout=60)
        assert first.returncode == 0, output


def _without_vllm(project: Project) -> None:
    folder = project.folder / "no_vllm"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(NO_VLLM, "utf-8")
    known = os.environ.get("PYTHONPATH", "")
    project.environment["PYTHONPATH"] = f"{folder}{os.pathsep}{known}".rstrip(os.pathsep)
    lose_first(project)


def lose_first(project: Project) -> None:
    """One row is still to be measured."""
    project.rows()[0].unlink()


CASES = (
    Case(
        "results_a_file",
        "a file in place of the results folder",
        "config: results: 'taken': allowed: a folder, or a free name",
        _file_in_place,
    ),
    Case(
        "read_only",
        "results/ on a read-only file system",
        "tpsweep: config: results: 'results': allowed: a writable folder",
        act=_read_only,
        needs_root=True,
    ),
    Case(
        "disk_full",
        "disk full",
        "[errno 28] No space left on device",
        act=_full,
        needs_root=True,
        is_running=True,
    ),
    Case(
        "row_cut_off",
        "a row's file is truncated (planned again at once)",
        "tpsweep: results/cells/latency/here/tiny-llama/tp1/",
        damage(lambda content: content[: len(content) // 2]),
        act=_planned,
        code=0,
        is_running=True,
    ),
    Case(
        "row_empty",
        "a row's file is empty (planned again at once)",
        "unreadable row, will be measured again",
        damage(lambda content: b""),
        act=_planned,
        code=0,
        is_running=True,
    ),
    Case(
        "row_damaged",
        "a row's data is damaged (the tables fail; the next run measures the cell again)",
        "unreadable row, counted as failed: ",
        damage(_flipped),
        act=_tables_then_planned,
        is_running=True,
    ),
    Case(
        "row_damaged_check",
        "a row's data is damaged (`tpsweep check`)",
        "unreadable files (without them the next run measures their cells again) (1):",
        damage(_flipped),
        act=_check,
        is_running=True,
    ),
    Case(
        "two_at_once",
        "a second snakemake while one runs",
        ".snakemake/submitit/lock: another snakemake is running here: process ",
        act=_two_at_once,
    ),
    Case(
        "no_vllm",
        "vLLM is not installed",
        "vllm: not installed",
        _without_vllm,
        is_running=True,
    ),
)
