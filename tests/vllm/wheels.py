"""Single files out of published wheels, without downloading the wheels (each has 300 MB).

pip is asked where a wheel is (so that whatever index it is configured for is used), and only the
ranges of the wheel's zip that hold the wanted files are read. Files are kept in the user's cache:
a published version never changes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from remotezip import RemoteZip

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "tpsweep" / "wheels"


def wheel_files(name: str, version: str, paths: Iterable[str]) -> dict[str, str]:
    """Text of each file of a wheel, by its path in it; "" for a file that the wheel lacks.

    Raises ``subprocess.CalledProcessError`` if pip does not find the wheel.
    """
    folder = CACHE / f"{name}-{version}"
    wanted = {path: folder / path.replace("/", "__") for path in paths}
    missing = [path for path, kept in wanted.items() if not kept.exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        with RemoteZip(_url(name, version)) as wheel:
            there = set(wheel.namelist())
            for path in missing:
                text = wheel.read(path) if path in there else b""
                temporary = wanted[path].with_suffix(f".{os.getpid()}.tmp")
                temporary.write_bytes(text)
                temporary.replace(wanted[path])
    return {path: kept.read_text("utf-8") for path, kept in wanted.items()}


def _url(name: str, version: str) -> str:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps"]
    command += ["--ignore-installed", "--only-binary=:all:", "--use-feature=fast-deps"]
    command += ["--report", "-", f"{name}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    report = json.loads(done.stdout)
    return str(report["install"][0]["download_info"]["url"])
