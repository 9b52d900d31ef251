"""``tpsweep plan``: reads config and site, prints the plan; submits and writes nothing."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit.site import Site, SiteError, load_site
from tpsweep.config.load import load_config
from tpsweep.core.axes import LAYOUT
from tpsweep.core.errors import one_line
from tpsweep.core.layout import Layout
from tpsweep.perfmodel.model_folder import read_model
from tpsweep.perfmodel.model_shape import DTYPE_BYTES, Shape
from tpsweep.plan import explain as explanation
from tpsweep.plan import explain_text, spread_text
from tpsweep.plan.plan import make_plan
from tpsweep.plan.readiness import obstacles
from tpsweep.plan.scripts import make_scripts
from tpsweep.plan.spread import spread
from tpsweep.plan.text import text
from tpsweep.sweep.feasibility import refuse_times
from tpsweep.sweep.snakemake_profile import (
    configfile_of,
    enter_project,
    existing,
    read_mapping,
    read_sweep,
    site_of,
)
from tpsweep.sweep.sweep import Sweep


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--configfile", type=Path, help="the sweep; without it the profile's")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--profile", type=Path, help="a folder like cluster/<site>")
    where.add_argument("--site", type=Path, help="a site.yaml")
    parser.add_argument("--qos", help="a QOS of the site; default: the site's")
    parser.add_argument(
        "--explain",
        metavar="MODEL",
        help="show how TP, or another layout, splits this model instead; without a layout: each of"
        " the config's layouts",
    )
    for axis in LAYOUT:
        kind: dict[str, Any] = {"type": int} if axis.type is int else {"action": "store_true"}
        about = f"with --explain: {axis.doc.partition(';')[0]}"
        parser.add_argument(f"--{axis.name}", **kind, default=None, help=about)
    parser.add_argument("--batch", type=int, default=1, help="with --explain: sequences per step")
    parser.add_argument("--dtype", help="with --explain: weights' dtype; default: the model's")
    parser.add_argument(
        "--sbatch", action="store_true", help="print the scripts that would be submitted instead"
    )
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")


def call(options: argparse.Namespace) -> int:
    """Run the command on its arguments."""
    if options.explain is not None and options.sbatch:
        print("tpsweep plan: --sbatch: not with --explain", file=sys.stderr)
        return 2
    if options.explain is not None:
        asked = Asked(options.explain, _sizes(options), options.batch, options.dtype)
        site = site_of(options.profile) if options.profile else options.site
        return explain(asked, options.configfile, site, as_json=options.json)
    for name in _sizes(options):
        print(f"tpsweep: --{name}: only with --explain", file=sys.stderr)
        return 2
    where = Where(options.configfile, options.profile, options.site, options.qos)
    if options.sbatch:
        return sbatch(where, as_json=options.json)
    return run(where, as_json=options.json)


def _sizes(options: argparse.Namespace) -> dict[str, Any]:
    """The layout axes that the user gave."""
    given = {axis.name: getattr(options, axis.name) for axis in LAYOUT}
    return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Where:
    """What to plan: a config on a site. A profile names both; a site file has a profile beside it
    that names the config. ``qos``: another one of the site's."""

    configfile: Path | None
    profile: Path | None
    site: Path | None
    qos: str | None


def run(where: Where, *, as_json: bool) -> int:
    """Print the plan. Returns 0; 1 if a run would stop at once (lines on stderr say why); 2 (one
    line there) for unusable input."""
    try:
        sweep = _sweep(where)
        plan = make_plan(sweep)
        found = obstacles(sweep)
    except (OSError, ValueError) as error:
        print(f"tpsweep plan: {one_line(error)}", file=sys.stderr)
        return 2
    print(json.dumps(plan.as_json(), indent=1) if as_json else text(plan), end="")
    sys.stdout.flush()  # the plan first, where both go to one terminal or file
    for line in found.certain:
        print(f"tpsweep plan: not ready to run: {line}", file=sys.stderr)
    for line in found.warnings:
        print(f"tpsweep plan: {line}", file=sys.stderr)
    return 1 if found.certain else 0


def sbatch(where: Where, *, as_json: bool) -> int:
    """Print the batch scripts of a run. Returns 0, or 2 (one line on stderr) for unusable input."""
    try:
        scripts = make_scripts(_sweep(where), os.environ)
    except (OSError, ValueError) as error:
        print(f"tpsweep plan: {one_line(error)}", file=sys.stderr)
        return 2
    print(json.dumps(scripts.as_json(), indent=1) if as_json else scripts.as_text(), end="")
    return 0


def _sweep(where: Where) -> Sweep:
    if where.profile is not None:
        site, profile = site_of(where.profile), where.profile
    elif where.site is not None:
        site, profile = existing(where.site), where.site.parent
    else:
        raise ValueError(
            "--profile: missing, allowed: a folder like cluster/<site>, or --site FILE"
        )
    site, configfile = enter_project(site, where.configfile or configfile_of(profile))
    sweep = read_sweep(site, configfile)
    if where.qos is None:
        return sweep
    try:
        site_of_qos = sweep.site.with_qos(where.qos)
    except SiteError as error:
        raise ValueError(f"--{error}") from error
    refuse_times(sweep.config, site_of_qos, sweep.planned)
    return dataclasses.replace(sweep, site=site_of_qos)


@dataclass(frozen=True)
class Asked:
    """What to explain: a model by its name in the config, of a shape that comes with tpsweep, or
    as a file; the layout's sizes; sequences of a decode step."""

    model: str
    sizes: dict[str, Any]
    batch: int
    dtype: str | None

    @property
    def layout(self) -> Layout | None:
        """The layout that was asked for; None if none was. Raises ``ValueError``."""
        if not self.sizes:
            return None
        for axis in LAYOUT:
            if axis.type is int and self.sizes.get(axis.name, axis.least) < axis.least:
                said = f"allowed: with --explain a number from {axis.least}"
                raise ValueError(f"--{axis.name}: {self.sizes[axis.name]}, {said}")
        return Layout(**{axis.name: self.sizes.get(axis.name, axis.unsaid) for axis in LAYOUT})


def explain(asked: Asked, configfile: Path | None, site: Path | None, *, as_json: bool) -> int:
    """Print how a layout, or each of the config's, splits a model, and on how many nodes of a site.

    Returns 0, or 2 (one line on stderr) for unusable input.
    """
    try:
        if asked.batch < 1:
            raise ValueError(f"--batch: {asked.batch}, allowed: 1 and more")
        known = load_site(site) if site else None
        layout = asked.layout
        if layout is None or not layout.is_tp_alone:
            layouts = [layout] if layout else _layouts(asked, configfile)
            shape, dtype = _model(asked, configfile)
            return _spread(asked, shape, dtype, layouts, known, as_json=as_json)
        shape, dtype = _model(asked, configfile)
        found = explanation.explain(shape, dtype, layout.tp, asked.batch)
        nodes = explanation.on_nodes(layout, known) if known else []
    except (OSError, ValueError) as error:
        print(f"tpsweep plan: {one_line(error)}", file=sys.stderr)
        return 2
    if as_json:
        totals = {name: getattr(found, name) for name in ("weight_bytes_per_gpu", "all_reduces")}
        told = {"model": asked.model, **dataclasses.asdict(found), **totals}
        if known:
            told["nodes"] = [dataclasses.asdict(one) for one in nodes]
        print(json.dumps(told, indent=1))
    else:
        print(explain_text.text(asked.model, found, nodes), end="")
    return 0


def _layouts(asked: Asked, configfile: Path | None) -> list[Layout]:
    """Every layout that a config has for the model. Raises ``ValueError`` if it has none."""
    path = configfile or Path("config.yaml")
    if not path.exists() or asked.model not in _models(path):
        raise ValueError(
            "--tp: None, allowed: with --explain a number of GPUs, or a model of the config"
        )
    data = read_mapping(path)
    config = load_config({k: v for k, v in data.items() if k not in ("site", "only")}, Path())
    entries = config.settings.workloads.values()
    found = {
        layout: None
        for entry in entries
        if asked.model in (entry.models or config.models)
        for layout in config.layouts(entry)
    }
    return sorted(found, key=lambda layout: layout.order)


def _spread(
    asked: Asked,
    shape: Shape,
    dtype: str,
    layouts: list[Layout],
    site: Site | None,
    *,
    as_json: bool,
) -> int:
    """Print what each layout spreads where. Of several, one that cannot be is a line."""
    texts, records = [], []
    for layout in layouts:
        try:
            found = spread(shape, dtype, layout, asked.batch)
        except ValueError as error:
            if len(layouts) == 1:
                raise
            texts.append(f"{asked.model} at {one_line(error)}\n")
            records.append({"layout": layout.label, "problem": one_line(error)})
            continue
        nodes = explanation.on_nodes(layout, site) if site else []
        texts.append(spread_text.text(asked.model, found, nodes))
        records.append(dataclasses.asdict(found) | {"nodes": list(map(dataclasses.asdict, nodes))})
    if as_json:
        print(json.dumps({"model": asked.model, "layouts": records}, indent=1))
    else:
        print("\n".join(texts), end="")
    return 0


def _model(asked: Asked, configfile: Path | None) -> tuple[Shape, str]:
    """Shape and dtype: of a file or folder, of the config's model, or of workflow/models."""
    path = Path(asked.model)
    if path.is_dir() or path.is_file():
        return _shape(path / "config.json" if path.is_dir() else path, asked.dtype)
    config = configfile or Path("config.yaml")
    models = _models(config) if configfile is not None or config.exists() else {}
    entry = models.get(asked.model)
    if isinstance(entry, dict):
        named = entry.get("shape") or Path(str(entry.get("path")), "config.json")
        return _shape(Path(named), asked.dtype or entry.get("dtype"))
    known = Path("workflow", "models", f"{asked.model}.json")
    if known.exists():
        return _shape(known, asked.dtype)
    names = ", ".join(models) or "none"
    raise ValueError(
        f"--explain: {asked.model!r}, allowed: a config.json, its folder, or a model of {config}:"
        f" {names}"
    )


def _models(config: Path) -> dict[str, object]:
    models = read_mapping(config).get("models")
    return models if isinstance(models, dict) else {}


def _shape(file: Path, dtype: object) -> tuple[Shape, str]:
    content = read_model(file)
    told = next((key for key in ("torch_dtype", "dtype") if content.get(key)), "dtype")
    chosen = str(dtype or content.get(told) or "bfloat16")
    if chosen not in DTYPE_BYTES:
        where = "--dtype" if dtype else f"{file}: {told}"
        more = "" if dtype else " (--dtype says another)"
        raise ValueError(f"{where}: {chosen!r}, allowed: {', '.join(DTYPE_BYTES)}{more}")
    return Shape.from_config(content), chosen
