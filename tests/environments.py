"""Python environments for tests that lack some packages of the one that runs the tests."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path


def make_environment(folder: Path, without: Sequence[str], paths: Sequence[Path] = ()) -> Path:
    """A virtual environment with this one's packages but ``without``; its interpreter.

    Names of files in site-packages match as in a shell. ``paths`` are importable, too. The packages
    are links: it takes a second and no space, and what is left out cannot be imported.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (target,) = folder.glob("lib/python3*/site-packages")
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not any(fnmatch(entry.name, pattern) for pattern in (*without, "_editable_*")):
            (target / entry.name).symlink_to(entry)
    (target / "of_the_test.pth").write_text("".join(f"{path}\n" for path in paths))
    return folder / "bin/python"
