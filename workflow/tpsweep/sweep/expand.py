"""From a checked config and a site to every cell of the matrix, feasible or not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpsweep.config.load import Config, ConfigError
from tpsweep.config.settings import Capture, RequestSet, Serve, StaticBatch, WorkloadEntry
from tpsweep.core.cell import NSYS_ONLY, NSYS_OR_TORCH, Cell, Engine
from tpsweep.perfmodel import memory
from tpsweep.sweep import request_set

if TYPE_CHECKING:
    from snakemake_executor_plugin_submitit.site import Site


@dataclass(frozen=True)
class Dataset:
    """A request set's part of a cell's identity, or why it is not there."""

    identity: dict[str, Any]
    problem: str | None = None


@dataclass(frozen=True)
class Planned:
    """A cell of the matrix. ``status`` is planned, infeasible or excluded, and
    ``reason`` says why if it is not planned. ``minutes`` is the cell's own time limit.

    ``entry`` is the workload's name in the config; labels are for people and change nothing.
    """

    cell: Cell
    status: str
    reason: str | None
    minutes: int
    entry: str
    workload_label: str | None
    model_label: str | None


def expand(config: Config, site: Site) -> list[Planned]:
    """Every cell of the matrix, in the order of the config.

    Raises ``ConfigError`` if two workloads give the same cell or an exclusion matches none.
    """
    planned = []
    owners: dict[str, str] = {}
    exclusions = [exclusion.axes for exclusion in config.settings.exclude]
    unused = set(range(len(exclusions)))
    for name, entry in config.settings.workloads.items():
        dataset = _find_dataset(name, entry, config.base)
        for engine in _engines(entry, config, site):
            problem = _node_problem(engine, site) or dataset.problem
            for cell in _cells(entry, engine, dataset):
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
                planned.append(Planned(cell, status, reason, entry.minutes, name, *labels))
    for i in sorted(unused):
        raise ConfigError(f"exclude.{i}", exclusions[i], "it matches no cell of this config")
    return planned


def _engines(entry: WorkloadEntry, config: Config, site: Site) -> Iterator[Engine]:
    """Every engine that a workload needs; TP=1 has no all-reduce and so one backend, ``none``."""
    settings = config.settings
    for model, gpu, tp, variant in itertools.product(
        entry.models or settings.models,
        entry.gpus or settings.gpus,
        entry.tp or settings.tp,
        entry.variants or settings.variants,
    ):
        backends = entry.allreduce_backends or settings.allreduce_backends if tp > 1 else ["none"]
        card = site.gpus[gpu].card if gpu in site.gpus else "unknown"
        for backend, replicas, run in itertools.product(
            backends,
            entry.replicas if isinstance(entry, Serve) else [1],
            range(entry.runs or settings.runs),
        ):
            yield Engine(
                site=site.name,
                gpu=gpu,
                gpu_card=card,
                gpus=tp * replicas,
                model=config.cell_models[model],
                tp=tp,
                replicas=replicas,
                variant=variant,
                allreduce_backend=backend,
                vllm_version=settings.vllm_version,
                args={**entry.engine.model_dump(), **settings.variants[variant]},
                mode=_mode(entry, card),
                run=run,
                environment=dict(site.environment),
            )


def _mode(entry: WorkloadEntry, card: str) -> str:
    if isinstance(entry, Serve):
        return "server"
    if isinstance(entry, Capture) and entry.profiler != "torch" and card != "CPU":
        return NSYS_ONLY if entry.profiler == "nsys" else NSYS_OR_TORCH
    return "offline"


def _cells(entry: WorkloadEntry, engine: Engine, dataset: Dataset) -> Iterator[Cell]:
    """The cells that one engine measures for a workload."""
    common: dict[str, Any] = {
        "workload": entry.kind,
        "engine": engine,
        "warmups": entry.warmups,
        "repeats": entry.repeats,
    }
    extra: dict[str, Any]
    if isinstance(entry, StaticBatch):
        extra = {"profiler": entry.profiler} if isinstance(entry, Capture) else {}
        for input_len, output_len, batch in itertools.product(
            entry.input_len, entry.output_len, entry.batch
        ):
            yield Cell(
                dataset="random",
                input_len=input_len,
                output_len=output_len,
                batch=batch,
                extra=extra,
                **common,
            )
        return
    rates: Sequence[float | None] = [None]
    limits: Sequence[int | None] = [None]
    extra = dict(dataset.identity)
    if isinstance(entry, Serve):
        rates, limits = entry.request_rate, entry.max_concurrency
        extra["slo"] = entry.slo.model_dump(exclude_none=True)
    lengths: Sequence[tuple[int | None, int | None]] = [(None, None)]
    if entry.input_len and entry.output_len:
        lengths = list(itertools.product(entry.input_len, entry.output_len))
    for (prompt, answer), num_prompts, rate, limit in itertools.product(
        lengths, entry.num_prompts, rates, limits
    ):
        yield Cell(
            dataset=entry.dataset,
            input_len=prompt,
            output_len=answer,
            num_prompts=num_prompts,
            request_rate=rate,
            max_concurrency=limit,
            extra=extra,
            **common,
        )


def _find_dataset(name: str, entry: WorkloadEntry, base: Path) -> Dataset:
    """A file of requests is identified by its content, wherever it lies."""
    if not isinstance(entry, RequestSet) or entry.dataset_path is None:
        return Dataset({})
    path = base / entry.dataset_path
    try:
        request_set.check_file(
            entry.dataset, path, max(entry.num_prompts), entry.engine.max_model_len
        )
        return Dataset({"dataset_digest": request_set.file_digest(path)})
    except OSError as error:
        return Dataset({}, f"dataset_path {entry.dataset_path!r}: {error.strerror}")
    except ValueError as error:
        key = f"workloads.{name}.dataset_path"
        raise ConfigError(key, entry.dataset_path, str(error)) from None


def hold_problem(cell: Cell, config: Config, site: Site) -> str | None:
    """Why no node of the class can hold the cell, its memory included; None if one can."""
    return _node_problem(cell.engine, site) or _memory_problem(cell, config, site)


def _node_problem(engine: Engine, site: Site) -> str | None:
    """Why no node of the site can hold the engine; None if one can."""
    gpu = site.gpus.get(engine.gpu)
    if gpu is None:
        return f"site {site.name} has no {engine.gpu}; it has {', '.join(site.gpus)}"
    if engine.gpus > gpu.per_node:
        asked = f"tp {engine.tp} x replicas {engine.replicas} = {engine.gpus} GPUs"
        return f"{asked} > {gpu.per_node} on a node of {engine.gpu}"
    return None


def _profiler_problem(cell: Cell) -> str | None:
    """Why the asked profiler cannot see this class; None if it can."""
    if cell.extra.get("profiler") == "nsys" and cell.engine.gpu_card == "CPU":
        return "profiler nsys sees GPUs, and this class has none; allowed: torch or auto"
    return None


def _memory_problem(cell: Cell, config: Config, site: Site) -> str | None:
    """Why the engine and the cell's batch exceed a GPU's memory (``tpsweep.perfmodel.memory``)."""
    asked = memory_of(cell, config, site)
    if asked is None:
        return None
    engine = cell.engine
    most = site.gpus[engine.gpu].per_node // engine.replicas
    return memory.problem(*asked, engine.tp, gpu=engine.gpu, most=most)


def memory_of(cell: Cell, config: Config, site: Site) -> tuple[memory.Load, memory.Limits] | None:
    """What a cell's engine is to hold and its limits; None if shape or memory are not known."""
    engine = cell.engine
    gpu, shape = site.gpus.get(engine.gpu), config.shapes[engine.model.name]
    if gpu is None or gpu.memory_gib is None or shape is None:
        return None
    limits = memory.Limits(
        memory_gib=gpu.memory_gib,
        share=float(engine.args["gpu_memory_utilization"]),
        model_len=engine.args["max_model_len"],
        batched_tokens=engine.args["max_num_batched_tokens"],
        sequences=engine.args["max_num_seqs"],
    )
    batch, length = cell.batch or 0, (cell.input_len or 0) + (cell.output_len or 0)
    return memory.Load(shape, engine.model.dtype, _cache_dtype(engine), batch, length), limits


def _cache_dtype(engine: Engine) -> str:
    asked = str(engine.args.get("kv_cache_dtype", "auto"))
    return engine.model.dtype if asked == "auto" else asked


def _claim(cell: Cell, name: str, owners: dict[str, str]) -> None:
    """Each cell belongs to one workload of the config."""
    if cell.cell_id in owners:
        where = f"tp{cell.engine.tp} {cell.readable} on {cell.engine.gpu}"
        owner = owners[cell.cell_id]
        allowed = f"the same cell as in workloads.{owner}; allowed: each once, narrow one of them"
        raise ConfigError(f"workloads.{name}", where, allowed)
    owners[cell.cell_id] = name


def matches(axes: Mapping[str, Any], cell: Cell) -> bool:
    """Whether the cell agrees on every axis that is named."""
    values = {**cell.extra, **cell.columns()}
    return all(values.get(axis) == value for axis, value in axes.items())
