"""The profilers that a capture can be made with, each around a loaded vLLM engine.

``torch``: vLLM's own, in its workers, one trace per rank; any offline engine can do it. ``nsys``:
Nsight Systems around the whole daemon (``tpsweep.engine.nsys_session``), one report for all ranks.
"""

from __future__ import annotations

import importlib.metadata
import lzma
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Protocol

from tpsweep.engine import nsys_session, nsys_tools

_RANK = re.compile(r"rank_?(\d+)")
_LIMIT_S = 300.0
SETTLE_S = 1.0
"""nsys says that it has started before it records in every process: seen on 2x H200 with nsys
2025.3, the first milliseconds of one GPU or of both were missing."""


class Profiler(Protocol):
    """``name`` says program and version, ``config`` is vLLM's ``profiler_config`` for it."""

    name: str
    config: dict[str, Any]

    def start(self) -> None:
        """Just before vLLM is told to start its profile."""

    def stop(self) -> None:
        """Just after vLLM has stopped it."""

    def collect(self, stem: Path) -> list[Path]:
        """Move the last capture to files named ``<stem>.<suffix>``; they, the analysed ones first.

        Raises ``ValueError`` if the profiler left none.
        """


class TorchProfiler:
    """vLLM's torch profiler: traces appear in ``folder`` when vLLM stops it."""

    def __init__(self, folder: Path, version: str) -> None:
        self.name = f"torch {version}"
        self._folder = folder
        self.config: dict[str, Any] = {
            "profiler": "torch",
            "torch_profiler_dir": str(folder.resolve()),
            "torch_profiler_with_stack": False,  # stacks make traces ten times as large
            "torch_profiler_dump_cuda_time_total": False,  # a table nobody needs
            "ignore_frontend": True,  # only the workers' traces cover the GPUs
        }

    def start(self) -> None:
        """Forget what an earlier capture left."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def stop(self) -> None:
        """The traces are written when vLLM answers."""

    def collect(self, stem: Path) -> list[Path]:
        """``<stem>.rank<r>.pt.trace.json.gz`` of every rank."""
        traces = {}
        for path in sorted(self._folder.glob("*.pt.trace.json*")):
            ranks = _RANK.findall(path.name)
            if not ranks:
                raise ValueError(f"{path.name}: the trace's name has no rank")
            traces[int(ranks[-1])] = path
        if not traces:
            raise ValueError("vLLM's torch profiler left no trace")
        stem.parent.mkdir(parents=True, exist_ok=True)
        files = []
        for rank, path in sorted(traces.items()):
            suffix = ".pt.trace.json.gz" if path.suffix == ".gz" else ".pt.trace.json"
            files.append(_moved(path, stem.with_name(f"{stem.name}.rank{rank}{suffix}")))
        return files


class NsysProfiler:
    """Nsight Systems, under which this process runs as the session ``session``."""

    def __init__(self, nsys: Path, session: str, folder: Path) -> None:
        self.name = f"nsys {nsys_tools.version(nsys)}"
        # vLLM then marks every step by an NVTX range, with its requests and tokens.
        self.config: dict[str, Any] = {"profiler": "cuda"}
        self._nsys, self._session, self._folder = nsys, session, folder

    def start(self) -> None:
        """Begin to record. Raises ``ValueError`` with nsys's words if it does not."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self._call(
            "start",
            f"--output={self._folder / 'capture'}",
            "--force-overwrite=true",
            "--sample=none",
            "--cpuctxsw=none",
        )
        time.sleep(SETTLE_S)

    def stop(self) -> None:
        """End recording: nsys writes its report, or a .qdstrm if it lacks its importer."""
        time.sleep(SETTLE_S)
        self._call("stop")

    def collect(self, stem: Path) -> list[Path]:
        """``<stem>.sqlite.xz``, which is what gets analysed, and ``<stem>.nsys-rep`` for people."""
        report = self._folder / "capture.nsys-rep"
        raw = report.with_suffix(".qdstrm")
        if not report.is_file() and raw.is_file():
            nsys_tools.import_qdstrm(raw, report)
        if not report.is_file():
            raise ValueError("nsys left no report; is its disk full?")
        export = report.with_suffix(".sqlite")
        nsys_tools.export_sqlite(report, export)
        stem.parent.mkdir(parents=True, exist_ok=True)
        return [
            _moved(_packed(export), stem.with_name(f"{stem.name}.sqlite.xz")),
            _moved(report, stem.with_name(f"{stem.name}.nsys-rep")),
        ]

    def _call(self, verb: str, *options: str) -> None:
        command = [str(self._nsys), verb, f"--session={self._session}", *options]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
        if done.returncode:
            words = (done.stderr or done.stdout).split()
            raise ValueError(f"nsys {verb} failed: {' '.join(words)}")


def _packed(path: Path) -> Path:
    """A sixth of the size in half a second (8B, 32 steps: 12.7 MB, 1.9 MB)."""
    target = path.with_name(f"{path.name}.xz")
    with path.open("rb") as file, lzma.open(target, "wb", preset=0) as packed:
        shutil.copyfileobj(file, packed)
    return target


def _moved(path: Path, target: Path) -> Path:
    """Whole or not at all: a dot-file first, as another file system may lie between."""
    temporary = target.with_name(f".{target.name}.part")
    shutil.move(path, temporary)
    return temporary.replace(target)


def of_session(folder: Path) -> Profiler:
    """nsys where this process runs under it, else torch; ``folder`` is the session's."""
    session = nsys_session.session_of(os.environ)
    nsys = nsys_tools.find_nsys()
    if session and nsys:
        return NsysProfiler(nsys, session, folder / "profile")
    return TorchProfiler(folder / "profile", importlib.metadata.version("torch"))
