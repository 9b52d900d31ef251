"""From a checked config and a site to every cell of the matrix, feasible or not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpsweep.config.load import Config, ConfigError
from tpsweep.config.settings import Capacity, Capture, RequestSet, Serve, WorkloadEntry
from tpsweep.core.axes import BACKENDS, CELL_AXES, ENGINE_AXES, LAYOUT
from tpsweep.core.cell import BF16, NSYS_ONLY, NSYS_OR_TORCH, Cell, Engine
from tpsweep.core.layout import Layout
from tpsweep.core.workloads import KINDS, SERVER
from tpsweep.perfmodel import memory
from tpsweep.perfmodel.layout_problem import layout_problem
from tpsweep.perfmodel.work import NoWorkError, work_of
from tpsweep.sweep import request_set

if TYPE_CHECKING:
    from snakemake_executor_plugin_submitit.site import GpuClass, Site


ON_ONE_NODE = ("custom", "symm_mem", "flashinfer")
"""All-reduce backends that reach GPUs of one node only."""


Slos = Mapping[str, Mapping[str, float]]
"""The config's SLOs: limits by the name of each."""


@dataclass(frozen=True)
class Dataset:
    """The digest of a workload's file of requests, if it has one, or why it is not there."""

    digest: str | None = None
    problem: str | None = None
    path: Path | None = None

    @property
    def identity(self) -> dict[str, str]:
        """Its part of a cell's ``extra``."""
        return {} if self.digest is None else {"dataset_digest": self.digest}


@dataclass(frozen=True)
class Planned:
    """A cell of the matrix. ``status`` is planned, infeasible or excluded, and
    ``reason`` says why if it is not planned. ``minutes`` is the cell's own time limit.

    ``entry`` is the workload's name in the config; labels are for people and change nothing.
    ``one_start``: the engine that is started for it may measure cells of other modes, too.
    """

    cell: Cell
    status: str
    reason: str | None
    minutes: int
    entry: str
    workload_label: str | None
    model_label: str | None
    one_start: bool = True

    @property
    def started(self) -> Engine:
        """The engine that is started for the cell, and for others that it can measure."""
        return self.cell.engine.shared if self.one_start else self.cell.engine


def expand(config: Config, site: Site) -> list[Planned]:
    """Every cell of the matrix, in the order of the config.

    Raises ``ConfigError`` if two workloads give the same cell or an exclusion matches none.
    """
    planned = []
    owners: dict[str, str] = {}
    exclusions = [exclusion.axes for exclusion in config.settings.exclude]
    unused = set(range(len(exclusions)))
    slos = {name: slo.limits for name, slo in config.settings.slos.items()}
    for name, entry in config.settings.workloads.items():
        dataset = _find_dataset(name, entry, config.base)
        for engine in _engines(entry, config, site):
            problem = _layout_problem(engine, config, site) or dataset.problem
            problem = problem or _server_problem(engine, config)
            problem = problem or _precision_problem(engine, config) or _drafts_problem(engine)
            for cell in _cells(entry, engine, dataset, slos):
                _claim(cell, name, owners)
                matching = [i for i, axes in enumerate(exclusions) if matches(axes, cell)]
                unused.difference_update(matching)
                reason = problem or _profiler_problem(cell) or _memory_problem(cell, config, site)
                status = "planned"
                if matching:
                    status, reason = "excluded", config.settings.exclude[matching[0]].reason
                elif reason:
                    status = "infeasible"
                labels = entry.label, config.models[engine.model.name].label
                planned.append(
                    Planned(
                        cell,
                        status,
                        reason,
                        entry.minutes,
                        name,
                        *labels,
                        config.settings.one_start,
                    )
                )
    for i in sorted(unused):
        raise ConfigError(f"exclude.{i}", exclusions[i], "it matches no cell of this sweep")
    return planned


def _engines(entry: WorkloadEntry, config: Config, site: Site) -> Iterator[Engine]:
    """Every engine that a workload needs; one that exchanges nothing has one backend, ``none``."""
    settings = config.settings
    seen = set()
    for values in itertools.product(*_choices(entry, config)):
        chosen = {name: value for part in values for name, value in part.items()}
        layout = Layout.of(chosen)
        chosen["allreduce_backend"] = layout.backend(chosen["allreduce_backend"])
        if (key := tuple(chosen.values())) in seen:
            continue
        seen.add(key)
        gpu, variant = chosen["gpu"], chosen["variant"]
        known = site.gpus.get(gpu)
        card = known.card if known else "unknown"
        chosen["model"] = config.cell_models[chosen["model"]]
        for run in range(entry.runs or settings.runs):
            yield Engine(
                **chosen,
                site=site.name,
                gpu_card=card,
                vllm_version=settings.vllm_version,
                args={
                    **entry.engine.model_dump(),
                    **_prefix_caching(entry),
                    **settings.variants[variant],
                },
                mode=_mode(entry, card),
                run=run,
                environment=dict(site.environment),
                nodes=_nodes(layout, known),
            )


def _nodes(layout: Layout, known: GpuClass | None) -> int:
    """The fewest nodes of a class that hold a layout; 1 where that cannot be (``_node_problem``
    says why)."""
    if known is None:
        return 1
    nodes = layout.nodes_on(known.per_node)
    return nodes if nodes <= known.nodes and layout.gpus % nodes == 0 else 1


def _prefix_caching(entry: WorkloadEntry) -> dict[str, Any]:
    """Off for everyone else: a cached prompt has no prefill (``engine.vllm_api``)."""
    shares = isinstance(entry, Serve) and entry.prefix_len
    return {"enable_prefix_caching": True} if shares else {}


def _choices(entry: WorkloadEntry, config: Config) -> Iterator[list[dict[str, Any]]]:
    """What a workload's engines are the product of: the values of each axis, and the layouts."""
    for axis in ENGINE_AXES:
        if axis is LAYOUT[0]:
            yield [layout.sizes for layout in config.layouts(entry)]
        elif axis not in LAYOUT:
            yield [{axis.name: value} for value in config.of_workload(axis, entry)]


def _mode(entry: WorkloadEntry, card: str) -> str:
    if isinstance(entry, Capture) and entry.profiler != "torch" and card != "CPU":
        return NSYS_ONLY if entry.profiler == "nsys" else NSYS_OR_TORCH
    return KINDS[entry.kind].mode


def _cells(entry: WorkloadEntry, engine: Engine, dataset: Dataset, slos: Slos) -> Iterator[Cell]:
    """The cells that one engine measures for a workload."""
    listed = {axis.name: entry.listed(axis) or [axis.default] for axis in CELL_AXES}
    is_trace = isinstance(entry, Serve) and entry.dataset == "trace"
    if is_trace:
        listed["speed"] = entry.speed or [1.0]
    for values in itertools.product(*listed.values()):
        chosen = dict(zip(listed, values, strict=True))
        if is_trace and dataset.path is not None:
            recorded = request_set.recorded_rate(dataset.path, chosen["num_prompts"])
            chosen["request_rate"] = float(f"{recorded * chosen['speed']:.4g}")
        yield Cell(
            **chosen,
            workload=entry.kind,
            engine=engine,
            dataset=entry.dataset if isinstance(entry, RequestSet) else "random",
            warmups=entry.warmups,
            repeats=entry.repeats,
            extra=_extra(entry, dataset, slos),
        )


def _extra(entry: WorkloadEntry, dataset: Dataset, slos: Slos) -> dict[str, Any]:
    """What else of a workload can change a number."""
    if isinstance(entry, Capture):
        return {"profiler": entry.profiler}
    if isinstance(entry, Serve):
        return {**dataset.identity, "slo": entry.slo.model_dump(exclude_none=True)}
    if isinstance(entry, Capacity):
        keys = ("probe_s", "probe_requests", "max_request_rate", "max_probes")
        return {**dataset.identity, "slos": slos, **{key: getattr(entry, key) for key in keys}}
    return {**dataset.identity}


def _find_dataset(name: str, entry: WorkloadEntry, base: Path) -> Dataset:
    """A file of requests is identified by its content, wherever it lies."""
    if not isinstance(entry, RequestSet) or entry.dataset_path is None:
        return Dataset()
    path = base / entry.dataset_path
    try:
        request_set.check_file(
            entry.dataset, path, max(entry.num_prompts), entry.engine.max_model_len
        )
        return Dataset(request_set.file_digest(path), path=path)
    except OSError as error:
        return Dataset(problem=f"dataset_path {entry.dataset_path!r}: {error.strerror}")
    except ValueError as error:
        key = f"workloads.{name}.dataset_path"
        raise ConfigError(key, entry.dataset_path, str(error)) from None


def hold_problem(cell: Cell, config: Config, site: Site) -> str | None:
    """Why no node of the class can hold the cell, its memory included; None if one can."""
    engine = cell.engine
    return _layout_problem(engine, config, site) or _memory_problem(cell, config, site)


def _layout_problem(engine: Engine, config: Config, site: Site) -> str | None:
    """Why no node can have the engine's layout, or vLLM not run it; None if nothing is known."""
    problem = _node_problem(engine, site) or _cpu_problem(engine) or _executor_problem(engine)
    if problem:
        return problem
    shape = config.shapes[engine.model.name]
    found = layout_problem(engine, shape) if shape else None
    return found and f"{engine.model.name}: {found}"


def _node_problem(engine: Engine, site: Site) -> str | None:
    """Why no node of the site can hold the engine; None if one can."""
    gpu = site.gpus.get(engine.gpu)
    if gpu is None:
        return f"site {site.name} has no {engine.gpu}; it has {', '.join(site.gpus)}"
    if engine.gpus <= gpu.per_node:
        return None
    if gpu.nodes == 1:
        return f"{engine.product} > {gpu.per_node} on a node of {engine.gpu}"
    nodes = engine.nodes_on(gpu.per_node)
    if nodes > gpu.nodes:
        most = f"{gpu.nodes} nodes of {engine.gpu}, the most for a session"
        return f"{engine.product} > {gpu.most_gpus} on {most}"
    if nodes != engine.nodes:
        said = f"no equal parts on {nodes} nodes of {engine.gpu}; allowed: a multiple of {nodes}"
        return f"{engine.product}: {said}"
    if engine.engines > 1:
        # Their server starts them all on its own node.
        kind = "replicas" if engine.replicas > 1 else "engines with joined experts"
        said = f"{kind} share a node of {engine.gpu}; allowed: up to {gpu.per_node} GPUs"
        return f"{engine.product} > {gpu.per_node}: {said}"
    return _span_problem(engine)


def _executor_problem(engine: Engine) -> str | None:
    """Why vLLM's executor cannot start all ranks of an engine; None if it can."""
    ranks = engine.gpus // engine.engines
    if engine.args.get("distributed_executor_backend") == "uni" and ranks > 1:
        said = f"it runs one GPU, and an engine of {engine.label} has {ranks}; allowed: mp"
        return f"variant {engine.variant}: distributed_executor_backend uni: {said}"
    return None


def _span_problem(engine: Engine) -> str | None:
    """Why vLLM cannot run the engine over several nodes; None if it can."""
    if engine.tp_spans_nodes and engine.allreduce_backend in ON_ONE_NODE:
        allowed = ", ".join(name for name in BACKENDS if name not in ON_ONE_NODE)
        said = f"on {engine.nodes} nodes of {engine.gpu} a TP group is on several"
        return f"allreduce_backend {engine.allreduce_backend}: {said}; allowed: {allowed}"
    return None


def _server_problem(engine: Engine, config: Config) -> str | None:
    """Why the server of such a cell cannot span nodes (an engine of one start can); else None."""
    if engine.nodes == 1 or engine.mode != SERVER or config.settings.one_start:
        return None
    return f"{engine.nodes} nodes of {engine.gpu}: only with one_start: true"


def _precision_problem(engine: Engine, config: Config) -> str | None:
    """Why vLLM cannot run the model in this precision; None if it can."""
    shape = config.shapes[engine.model.name]
    if engine.precision == BF16:
        return None
    if engine.gpu_card == "CPU":
        said = "on a CPU vLLM has FP8 with AMX instructions only, which no site file tells"
        return f"precision {engine.precision}: {said}"
    if shape is not None and shape.quantization is not None:
        method = shape.quantization.method
        return f"precision {engine.precision}: vLLM quantizes plain weights only, not {method}"
    return None


def _cpu_problem(engine: Engine) -> str | None:
    """Why vLLM's CPU engine cannot have the layout, as it was tried; None if it can."""
    if engine.gpu_card != "CPU":
        return None
    if engine.pp > 1:
        return f"pp {engine.pp}: vLLM's CPU engine ends at the first step of a pipeline"
    if engine.ep:
        return "ep true: vLLM's CPU engine has no expert parallelism"
    if engine.dp > 1:
        return f"dp {engine.dp}: vLLM's CPU engine cannot exchange tokens between joined experts"
    if engine.dcp > 1:
        return f"dcp {engine.dcp}: vLLM's attention on CPUs has no decode context parallelism"
    return None


def _drafts_problem(engine: Engine) -> str | None:
    """Why draft tokens of this engine would say nothing, or do not run; None if they may."""
    config = engine.args.get("speculative_config")
    if not isinstance(config, Mapping):
        return None
    is_synthetic = config.get("rejection_sample_method") == "synthetic"
    if is_synthetic and engine.gpu_card == "CPU":
        return "speculative_config: vLLM has no synthetic acceptance on a CPU"
    if engine.model.weights == "dummy" and not is_synthetic:
        said = (
            "with dummy weights, acceptance is random; allowed: rejection_sample_method: synthetic"
        )
        return f"speculative_config: {said}"
    return None


def _profiler_problem(cell: Cell) -> str | None:
    """Why the asked profiler cannot see this class; None if it can."""
    if KINDS[cell.workload].is_profiled and cell.engine.nodes > 1:
        return f"{cell.workload} on {cell.engine.nodes} nodes: a profiler sees one node's ranks"
    if cell.extra.get("profiler") == "nsys" and cell.engine.gpu_card == "CPU":
        return "profiler nsys needs GPUs, and this class has none; allowed: torch, auto"
    return None


def _memory_problem(cell: Cell, config: Config, site: Site) -> str | None:
    """Why the engine and the cell's batch exceed a GPU's memory (``tpsweep.perfmodel.memory``)."""
    asked = memory_of(cell, config, site)
    if asked is None:
        return None
    engine = cell.engine
    known = site.gpus[engine.gpu]
    return memory.problem(
        *asked, engine.layout, gpu=engine.gpu, per_node=known.per_node, nodes=known.nodes
    )


def memory_of(cell: Cell, config: Config, site: Site) -> tuple[memory.Load, memory.Limits] | None:
    """What a cell's engine must hold, at least, and its limits; None if either is unknown."""
    engine = cell.engine
    gpu, shape = site.gpus.get(engine.gpu), config.shapes[engine.model.name]
    if gpu is None or gpu.memory_gib is None or shape is None:
        return None
    try:
        work = work_of(engine, shape)
    except NoWorkError:
        return None
    limits = memory.Limits.of(engine.args, gpu.memory_gib)
    load = memory.Load(
        work.shape,
        work.dtype,
        work.cache_dtype,
        batch=cell.batch or 0,
        length=(cell.input_len or 0) + (cell.output_len or 0),
        offloaded=work.offloaded,
    )
    return load, limits


def unchecked(engine: Engine, config: Config) -> str | None:
    """What of an engine's memory, TP and times nothing is known of, and why; None if all is."""
    name = engine.model.name
    if name in config.unknown:
        return f"{name}: {config.unknown[name]}: fit and TP are not checked, no floors"
    shape, named = config.shapes[name], f"{name}, variant {engine.variant}"
    try:
        work = None if shape is None else work_of(engine, shape)
    except NoWorkError as error:
        return f"{named}: {error}: fit and TP are not checked, no floors"
    return f"{named}: {work.no_fit}: only the lower bound fits" if work and work.no_fit else None


def _claim(cell: Cell, name: str, owners: dict[str, str]) -> None:
    """Each cell belongs to one workload of the config."""
    if cell.cell_id in owners:
        where = f"tp{cell.engine.tp} {cell.readable} on {cell.engine.gpu}"
        owner = owners[cell.cell_id]
        allowed = f"the same cell as in workloads.{owner}; allowed: each cell once; narrow one"
        raise ConfigError(f"workloads.{name}", where, allowed)
    owners[cell.cell_id] = name


def matches(axes: Mapping[str, Any], cell: Cell) -> bool:
    """Whether the cell agrees on every axis that is named."""
    values = {**cell.extra, **cell.columns()}
    return all(values.get(axis) == value for axis, value in axes.items())
