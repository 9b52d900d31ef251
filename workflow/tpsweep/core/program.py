"""Where what imports vLLM runs: Snakemake's own Python, another one, or a container.

The daemon and the preflight need this library there, which goes along on ``PYTHONPATH``, and
``PACKAGES``. Standard library only: the launcher runs on the node before anything else.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tpsweep

APPTAINER = "apptainer"
LIBRARY = str(Path(tpsweep.__file__).resolve().parents[1])
OLDEST = (3, 11)
PACKAGES = {
    "numpy": "numpy",
    "psutil": "psutil",
    "pyarrow": "pyarrow",
    "yaml": "pyyaml",
    "vllm": "vllm",
}
"""What the daemon imports, and the package that has it."""
REMEDY = "allowed: `make install ENGINE=cuda` (or cpu), or `python` or `container` of the site file"
"""Where vLLM is missing, or is another build."""
ON_GPUS = {"pynvml": "nvidia-ml-py"}
_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")


class ProgramError(ValueError):
    """The interpreter or the container cannot be used on this node; one line."""


@dataclass(frozen=True)
class Program:
    """An interpreter that has vLLM, as the site file names it.

    ``python``: None for ``python3`` in the container ``image``. ``bind``: what of the node the site
    shows in it; ``paths``: what this sweep reads and writes. ``packages``: a folder of Python
    packages that the environment lacks. ``$NAME`` and ``~`` in any of them are the node's.
    """

    python: str | None = None
    image: str | None = None
    bind: tuple[str, ...] = ()
    packages: str | None = None
    has_gpus: bool = True
    paths: tuple[str, ...] = ()

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Program:
        """Inverse of ``to_json``."""
        data = json.loads(text)
        lists = {name: tuple(data[name]) for name in ("bind", "paths")}
        return cls(**{**data, **lists})

    @property
    def name(self) -> str:
        """What it is, for people."""
        python = self.python or "python3"
        return f"{python} in {self.image}" if self.image else python

    @property
    def needs(self) -> dict[str, str]:
        """The modules that must be there, and their packages."""
        return PACKAGES | (ON_GPUS if self.has_gpus else {})

    def argv(self, words: Sequence[str], environ: Mapping[str, str]) -> list[str]:
        """The command line, on this node, of its interpreter with ``words``.

        Raises ``ProgramError`` for a variable that is not set.
        """
        python = filled(self.python or "python3", environ)
        if self.image is None:
            return [python, *words]
        argv = [APPTAINER, "exec", *(["--nv"] if self.has_gpus else [])]
        for bind in self._binds(environ):
            argv += ["--bind", bind]
        return [*argv, "--pwd", str(Path.cwd()), filled(self.image, environ), python, *words]

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """``environ`` for that command line.

        In a container only what ``packages`` names is added: the node's own ``PYTHONPATH`` and
        ``~/.local`` are for another Python.
        """
        outer = environ.get("PYTHONPATH") if self.image is None else None
        folders = [LIBRARY, self.packages and filled(self.packages, environ), outer]
        changed = {"PYTHONPATH": os.pathsep.join(filter(None, folders))}
        if self.image is not None:
            changed["PYTHONNOUSERSITE"] = "1"
            # These win over what the image sets, and over a site's --cleanenv.
            changed |= {f"APPTAINERENV_{name}": value for name, value in changed.items()}
        elif self.python and os.sep in self.python:
            # What a Conda or virtual environment brings along: ninja, compilers.
            bin_ = str(Path(filled(self.python, environ)).absolute().parent)
            changed["PATH"] = os.pathsep.join([bin_, environ.get("PATH", os.defpath)])
        left_out = ("PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX")
        return {n: v for n, v in environ.items() if n not in left_out} | changed

    def _binds(self, environ: Mapping[str, str]) -> Iterator[str]:
        """The site's own, then what is not below one of the folders that are there already."""
        yield from (filled(bind, environ) for bind in self.bind)
        names = ("SESSION_DIR", "TMPDIR", "HF_HOME")
        paths = [str(Path.cwd()), LIBRARY, self.packages, *self.paths]
        paths += [environ.get(name) for name in names]
        if home := environ.get("HOME"):  # where models are without HF_HOME; sites may hide the home
            paths.append(str(Path(home, ".cache/huggingface")))
        seen: list[Path] = []
        for text in filter(None, paths):
            path = Path(filled(text, environ)).absolute()
            if path.exists() and not any(path.is_relative_to(folder) for folder in seen):
                if set(",:") & set(str(path)):
                    raise ProgramError(f"{path}: a path with , or : cannot be shown in a container")
                seen.append(path)
                yield str(path)


def filled(text: str, environ: Mapping[str, str]) -> str:
    """``text`` with the node's ``~`` and variables; raises ``ProgramError`` for an unknown one."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in environ:
            raise ProgramError(f"{text}: ${name} is not set on this node")
        return environ[name]

    home = environ.get("HOME", "~")
    return _VARIABLE.sub(value, f"{home}{text[1:]}" if text.startswith("~/") else text)


def same_version(asked: str, ran: str) -> bool:
    """Whether vLLM's version is the one asked; a local part (``+cpu``) may be left out."""
    return ran in (asked, asked.partition("+")[0]) or ran.partition("+")[0] == asked
