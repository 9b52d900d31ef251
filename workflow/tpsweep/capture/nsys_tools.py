"""Nsight Systems' programs: where they are, and from what they record to what can be read."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tpsweep.capture.events import CaptureError

VARIABLE = "TPSWEEP_NSYS"
"""Environment variable with the path of nsys, where it is not on the PATH."""
_IMPORTER = "QdstrmImporter"
_IMPORTER_FOLDERS = ("host-linux-x64", "linux-desktop-glibc_2_11_3-x64")


def find_nsys() -> Path | None:
    """nsys by ``VARIABLE``, else on the PATH; None if there is none."""
    found = shutil.which(os.environ.get(VARIABLE) or "nsys")
    return Path(found) if found else None


def find_importer(nsys: Path | None) -> Path | None:
    """The importer on the PATH, else beside nsys; None if there is none."""
    if found := shutil.which(_IMPORTER):
        return Path(found)
    beside = nsys.resolve().parent.parent if nsys else Path("/nowhere")
    places = (beside / folder / _IMPORTER for folder in _IMPORTER_FOLDERS)
    return next((place for place in places if os.access(place, os.X_OK)), None)


def version(nsys: Path) -> str:
    """As in ``nsys --version``, three numbers. Raises ``CaptureError`` if it does not say."""
    said = _run([str(nsys), "--version"], f"{nsys} --version")
    found = re.search(r"version (\d+\.\d+\.\d+)", said)
    if not found:
        raise CaptureError(f"{nsys} --version: no version in {said.strip()!r}")
    return found[1]


def import_qdstrm(raw: Path, report: Path) -> None:
    """What nsys recorded as a report. Raises ``CaptureError`` if that cannot be made."""
    importer = find_importer(find_nsys())
    if importer is None:
        raise CaptureError(
            f"{raw}: not yet a report and there is no {_IMPORTER}; run "
            f"`{_IMPORTER} -i {raw.name}` where there is one (it is part of nsys)"
        )
    command = [str(importer), "-i", str(raw), "-o", str(report)]
    _run(command, f"{raw}: {_IMPORTER}")
    if not report.is_file():
        raise CaptureError(f"{raw}: {_IMPORTER} made no report")


def export_sqlite(report: Path, export: Path) -> None:
    """A report as SQLite, by nsys itself: nothing else can read it. Raises ``CaptureError``."""
    nsys = find_nsys()
    if nsys is None:
        raise CaptureError(
            f"{report}: only nsys can read it and nsys is not on the PATH (or in {VARIABLE}); run "
            "`nsys export --type sqlite` where it was made and give the .sqlite"
        )
    command = [str(nsys), "export", "--type=sqlite", "--force-overwrite=true"]
    _run([*command, f"--output={export}", str(report)], f"{report}: nsys export")
    if not export.is_file():
        raise CaptureError(f"{report}: nsys export made no file")


def _run(command: Sequence[str], what: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CaptureError(f"{what}: {error.strerror}") from error
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines() or [f"exit {done.returncode}"]
        raise CaptureError(f"{what} failed: {words[-1]}")
    return done.stdout
