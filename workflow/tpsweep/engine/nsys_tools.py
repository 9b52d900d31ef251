"""Nsight Systems' own programs: where they are, and what they make of a capture.

``nsys`` writes a stream (``.qdstrm``), ``QdstrmImporter`` turns it into a report (``.nsys-rep``),
``nsys export`` turns that into SQLite. nsys calls the importer itself where it finds it; packages
without the graphical half of Nsight Systems leave the stream.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tpsweep.core.atomic import replacing
from tpsweep.core.errors import CaptureError

VARIABLE = "TPSWEEP_NSYS"
"""Environment variable with the path of nsys, where it is not on the PATH."""

TIMEOUT_S = 1800
"""A program of Nsight Systems that takes longer than this hangs."""

_IMPORTER = "QdstrmImporter"
_BESIDE = ("host-linux-*", "linux-desktop-*")
"""Folders beside nsys' own that hold the importer (2022.4: the first, 2025.3: the second)."""


def find_nsys() -> Path | None:
    """nsys by ``VARIABLE``, else on the PATH; None if there is none."""
    found = shutil.which(os.environ.get(VARIABLE) or "nsys")
    return Path(found) if found else None


def version(nsys: Path) -> str:
    """As in ``nsys --version``, three numbers. Raises ``CaptureError`` if it does not say."""
    said = _run([str(nsys), "--version"], f"{nsys} --version").strip()
    found = re.search(r"version (\d+\.\d+\.\d+)", said)
    if not found:
        raise CaptureError(f"{nsys} --version: no version in {said!r}")
    return found[1]


def find_importer(nsys: Path | None) -> Path | None:
    """The importer on the PATH, else in the installation of nsys; None if there is none."""
    found = shutil.which(_IMPORTER)
    if found:
        return Path(found)
    for place in _links(nsys) if nsys else ():
        installation = place.parent.parent
        # Debian keeps the two halves apart: lib/<machine>/nsight-systems, lib/nsight-systems.
        for root in (installation, installation.parent.parent / "nsight-systems"):
            for pattern in _BESIDE:
                for file in sorted(root.glob(f"{pattern}/{_IMPORTER}")):
                    if os.access(file, os.X_OK):
                        return file
    return None


def import_qdstrm(raw: Path, report: Path) -> None:
    """What nsys recorded as a report, whole or not at all. Raises ``CaptureError``."""
    importer = find_importer(find_nsys())
    if importer is None:
        raise CaptureError(
            f"{raw}: not yet a report, and {_IMPORTER} is neither on the PATH nor with nsys; run "
            f"`{_IMPORTER} -i {raw.name}` on a host with a complete Nsight Systems and pass the "
            ".nsys-rep"
        )
    _make([str(importer), "-i", str(raw), "-o"], [], report, f"{raw}: {_IMPORTER}")


def export_sqlite(report: Path, export: Path) -> None:
    """A report as SQLite, whole or not at all, by nsys itself: nothing else can read it.

    Raises ``CaptureError``.
    """
    nsys = find_nsys()
    if nsys is None:
        named = os.environ.get(VARIABLE)
        where = f"{VARIABLE}: {named!r} is not a program" if named else "nsys is not on the PATH"
        raise CaptureError(
            f"{report}: only nsys can read it and {where}; run `nsys export --type sqlite` where "
            f"it was made and give the .sqlite, or set {VARIABLE} to the path of nsys"
        )
    command = [str(nsys), "export", "--type=sqlite", "--force-overwrite=true", "--output"]
    _make(command, [str(report)], export, f"{report}: nsys export")


def _make(before: Sequence[str], after: Sequence[str], target: Path, what: str) -> None:
    """Run a program that writes a file, whose path stands between ``before`` and ``after``."""
    # In the node's own folder for temporary files: SQLite needs locks, which a cluster's file
    # system may not have.
    with tempfile.TemporaryDirectory(prefix="tpsweep-nsys-") as folder:
        made = Path(folder) / target.name
        _run([*before, str(made), *after], what)
        if not made.is_file():
            raise CaptureError(f"{what} wrote no file")
        with replacing(target) as temporary:
            shutil.move(made, temporary)


def _run(command: Sequence[str], what: str) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise CaptureError(f"{what}: {error.strerror or error}") from error
    except subprocess.TimeoutExpired as error:
        raise CaptureError(f"{what} hung ({TIMEOUT_S} s) and was killed") from error
    if done.returncode:
        raise CaptureError(f"{what} failed: {_why(done)}")
    return done.stdout


def _why(done: subprocess.CompletedProcess[str]) -> str:
    words = (done.stderr.strip() or done.stdout.strip()).splitlines()
    why = words[-1].strip() if words else f"exit {done.returncode}"
    if "shared librar" in why:
        why += "; install that library, or add its folder to LD_LIBRARY_PATH"
    return why


def _links(path: Path) -> Iterator[Path]:
    """The path and each that its symbolic links lead to: packages spread their folders."""
    for _ in range(40):
        yield Path(os.path.abspath(path))  # noqa: PTH100 (resolve() follows all links)
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
    yield path.resolve()
