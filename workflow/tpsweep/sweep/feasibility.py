"""What a site can never do for a sweep: refused before anything runs, in one line.

Single cells that cannot run are not a mistake (a matrix has corners): they are in the manifest with
their reason. A model that no class can hold, a TP that no session has GPUs for, or a time that no
QOS allows, is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from snakemake_executor_plugin_submitit.site import Site
from tpsweep.config.errors import ConfigError
from tpsweep.config.load import Config
from tpsweep.core.axes import BY_NAME
from tpsweep.perfmodel.layout_problem import layout_problem
from tpsweep.perfmodel.memory import FITS_FROM
from tpsweep.sweep.expand import Planned, hold_problem


def refuse(config: Config, site: Site, planned: Sequence[Planned]) -> None:
    """Raise ``ConfigError`` for what the site can never do."""
    _refuse_gpus(site, planned)
    _refuse_tp(site, planned)
    _refuse_layouts(config, planned)
    _refuse_models(config, site, planned)
    _refuse_times(config, {site.qos or "": site, **_others(site)}, planned)


def refuse_times(config: Config, site: Site, planned: Sequence[Planned]) -> None:
    """Raise ``ConfigError`` for a cell that takes longer than the site's QOS allows."""
    _refuse_times(config, {site.qos or "": site}, planned)


def _refuse_gpus(site: Site, planned: Sequence[Planned]) -> None:
    """Only if the site has none of them: one config is for sites that have other classes."""
    asked = dict.fromkeys(item.cell.engine.gpu for item in planned)
    if asked and not asked.keys() & site.gpus.keys():
        allowed = f"allowed: classes of site {site.name}: {', '.join(site.gpus)}"
        raise ConfigError("gpus", ", ".join(asked), allowed)


def _refuse_tp(site: Site, planned: Sequence[Planned]) -> None:
    """Only where the site file says how many GPUs a node has: a host is what it is, and the same
    config is for several."""
    largest = max(site.gpus.values(), key=lambda gpu: gpu.most_gpus)
    most = largest.most_gpus
    for item in planned:
        tp = item.cell.engine.tp
        if site.cluster == "slurm" and tp > most and item.status != "excluded":
            on = "the largest node" if largest.nodes == 1 else f"{largest.nodes} nodes"
            allowed = f"allowed: up to {most}, the GPUs of {on} of site {site.name}"
            raise ConfigError("tp", tp, allowed)


def _refuse_layouts(config: Config, planned: Sequence[Planned]) -> None:
    """A layout that vLLM can have of none of its models, on any site: an entry of ``layouts``, or
    all that a model is asked in (of a product of lists, single layouts are corners)."""
    by: dict[str, list[Planned]] = {}
    listed = config.settings.layouts is not None
    for item in planned:
        engine = item.cell.engine
        if item.status != "excluded":
            by.setdefault(engine.label if listed else engine.model.name, []).append(item)
    for items in by.values():
        problems = [_of_model(item, config) for item in items]
        if problem := next(iter(problems)) if all(problems) else None:
            engine = items[0].cell.engine
            named, _, said = problem.partition(": ")
            axis = BY_NAME[named.split()[0]]
            key, value = str(axis.config_key), getattr(engine, axis.name)
            if listed:
                key, value, said = "layouts", engine.label, problem
            raise ConfigError(key, value, f"{engine.model.name}: {said}")


def _of_model(item: Planned, config: Config) -> str | None:
    """What vLLM refuses of the item's layout, for its model; None if nothing is known."""
    shape = config.shapes[item.cell.engine.model.name]
    return layout_problem(item.cell.engine, shape) if shape else None


def _refuse_models(config: Config, site: Site, planned: Sequence[Planned]) -> None:
    """A model none of whose cells runs, on classes that the site has, for nodes or memory."""
    problems: dict[str, list[str]] = {}
    runs = set()
    for item in planned:
        engine = item.cell.engine
        name = engine.model.name
        if item.status != "infeasible" or engine.gpu not in site.gpus:
            runs.add(name)
        elif name not in runs:
            problem = hold_problem(item.cell, config, site)
            if problem is None:
                runs.add(name)
            else:
                problems.setdefault(name, []).append(problem)
    for name, found in problems.items():
        if name not in runs:
            telling = next((said for said in found if FITS_FROM in said), found[0])
            allowed = f"no class of site {site.name} that it is requested on can hold it: {telling}"
            raise ConfigError("models", name, allowed)


def _others(site: Site) -> dict[str, Site]:
    """The site under each of its QOS: which one a run takes is not known here."""
    return {name: site.with_qos(name) for name in site.qos_limits}


def _refuse_times(config: Config, sites: Mapping[str, Site], planned: Sequence[Planned]) -> None:
    start = config.engine_start_minutes
    known: set[tuple[str, str]] = set()
    for item in planned:
        gpu = item.cell.engine.gpu
        if item.status != "planned" or (item.entry, gpu) in known:
            continue
        known.add((item.entry, gpu))
        limits = {qos: site.work_minutes(gpu) for qos, site in sites.items()}
        longest = max((-1 if n is None else n for n in limits.values()), default=-1)
        if None in limits.values() or start + item.minutes <= longest:
            continue
        where = f"{gpu} of site {next(iter(sites.values())).name}"
        named = f" (QOS {', '.join(filter(None, limits))})" if any(limits) else ""
        key = f"workloads.{item.entry}.minutes + engine_start_minutes"
        allowed = f"allowed: up to {longest} minutes on {where}{named}"
        raise ConfigError(key, start + item.minutes, allowed)
