"""How to start an engine for good: vLLM's command line, and the batch script of a site."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from snakemake_executor_plugin_submitit.flags import slurm_parameters
from snakemake_executor_plugin_submitit.packing import SessionKey
from snakemake_executor_plugin_submitit.site import Site
from tpsweep.core.cell import Engine
from tpsweep.engine import vllm_api

DAY_MINUTES = 1440
PLACEHOLDER = "MODEL"
"""Where the model's name or folder goes, if rows do not tell it."""
_FOR_MEASURING = ("model", "enable_prefix_caching", "seed", "load_format", "served_model_name")


def vllm_serve(engine: Engine, model: str | None, name: str) -> str:
    """The command line, quoted for a shell; without what only a measurement needs.

    ``model``: what to load, None: not known. ``name``: what requests call it.
    """
    given = vllm_api.server_arguments(engine, name)
    arguments = {key: value for key, value in given.items() if key not in _FOR_MEASURING}
    loaded = model or PLACEHOLDER
    if loaded.startswith("-"):  # an option, for vLLM
        loaded = f"./{loaded}"
    if engine.nodes > 1:  # which find each other without Ray
        arguments |= {"nnodes": engine.nodes, "distributed_executor_backend": "mp"}
    options = vllm_api.command_line(arguments)
    return shlex.join(["vllm", "serve", loaded, *options, f"--served-model-name={name}"])


FIRST_NODE = " --node-rank=0 --master-addr=FIRST_NODE --master-port=PORT"
OTHER_NODES = "# On its other nodes the same with --node-rank=1 and so on, and --headless."
"""What the first of several nodes is told, and the others."""
_ADDRESS = """\
address() { scontrol show node "$1" | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2; }"""
_MEETING = f"""\
{_ADDRESS}
export MASTER=$(address "$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)")
export PORT=$((20000 + SLURM_JOB_ID % 10000))"""
"""Lines of a batch script: where the parts of a server meet."""
_PART = """\
{address}
export VLLM_HOST_IP=$(address "$SLURMD_NODENAME")
[ "$SLURM_PROCID" = 0 ] || headless=--headless
at=(--node-rank="$SLURM_PROCID" --master-addr="$MASTER" --master-port="$PORT")
exec {command} "${{at[@]}}" $headless"""
"""What each node runs; ``command`` is quoted."""


def environment_of(engine: Engine) -> dict[str, str]:
    """Variables that the engine was measured with: of its all-reduce backend and the site."""
    return {**vllm_api.ALLREDUCE[engine.allreduce_backend].env, **engine.environment}


def batch_script(
    engine: Engine, engines: int, command: str, site: Site, environ: Mapping[str, str]
) -> list[str]:
    """Lines of a script for sbatch that starts ``engines`` of them, each a job of its own.

    Raises ``SiteError``.
    """
    note = []
    if site.account_env and not environ.get(site.account_env):
        note = [f"# {site.account_env} is not set here: its value is the account"]
        environ = {**environ, site.account_env: f"${site.account_env}"}
    minutes = None if site.session_minutes(engine.gpu) else DAY_MINUTES
    key = SessionKey("", "", engine.gpu, engine.gpus, nodes=engine.nodes)
    asked = slurm_parameters(key, minutes, site, environ)
    flags = dict(asked.flags) | {"time": str(asked.minutes), "nodes": str(asked.nodes)}
    flags["ntasks-per-node"] = "1"
    flags["cpus-per-task"] = str(asked.cpus)
    if engines > 1:
        flags["array"] = f"0-{engines - 1}"
    lines = [f"--{name}" if value is True else f"--{name}={value}" for name, value in flags.items()]
    return [
        "#!/bin/bash",
        *note,
        *(f"#SBATCH {line}" for line in lines),
        *site.setup,
        *exports(environment_of(engine)),
        *_started(command, engine.nodes),
    ]


def _started(command: str, nodes: int) -> list[str]:
    if nodes == 1:
        return [command]
    part = shlex.quote(_PART.format(address=_ADDRESS, command=command))
    return [*_MEETING.splitlines(), f"srun --kill-on-bad-exit=1 bash -c {part}"]


def exports(environment: Mapping[str, str]) -> Iterator[str]:
    """Lines of a shell; a variable of the node in a value is filled in there."""
    for name, value in environment.items():
        quoted = f'"{value}"' if _is_variable(value) else shlex.quote(value)
        yield f"export {name}={quoted}"


def _is_variable(value: str) -> bool:
    """Whether it is ``$NAME`` with nothing that a shell would run."""
    rest = value.replace("$", "", 1)
    return value.startswith("$") and rest.replace("_", "").replace("/", "").isalnum()
