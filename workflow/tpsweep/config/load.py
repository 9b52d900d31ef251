"""Read config.yaml: the schema's checks, the models' files, and what holds between keys.

Every error is a ``ConfigError`` of one line: the key, its value, what is allowed.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tpsweep.config.errors import ConfigError, of_pydantic
from tpsweep.config.settings import (
    Capacity,
    LayoutEntry,
    ModelEntry,
    RequestSet,
    Serve,
    Settings,
    SloLimits,
    StaticBatch,
    WorkloadEntry,
)
from tpsweep.core import cell
from tpsweep.core.axes import LAYOUT, LISTED, REQUIRED, SWEEP, Axis
from tpsweep.core.layout import Layout
from tpsweep.core.slo_counts import PER_TOKEN
from tpsweep.perfmodel.model_folder import file_digest, folder_digest, read_model
from tpsweep.perfmodel.model_shape import Shape, UnknownShapeError
from tpsweep.perfmodel.work import NoWorkError, Work, work_under

__all__ = ["Config", "ConfigError", "ModelEntry", "load_config"]

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
WIDE = tuple(axis for axis in LISTED if axis.is_sweep_wide)
MOST_CELLS = 100_000
"""Cells of a matrix: each is a file and a Snakemake job, and all are in memory."""
LONGEST_NAME = 255
"""Bytes of a file name on the usual file systems."""
PERIODIC = re.compile(r"(.+)\1{19}$")
"""Snakemake takes such a file name for a rule that calls itself without end."""


@dataclass(frozen=True)
class Config:
    """A checked config.yaml. Paths in it are relative to ``base``, where Snakemake runs.

    ``cell_models`` and ``shapes`` have the models by their names in the config; a shape is None
    where nothing tells it before the model is fetched, or where its architecture or quantization is
    not one that ``tpsweep.perfmodel`` knows: ``unknown`` says which, and what needs the shape is
    not checked.
    """

    settings: Settings
    cell_models: dict[str, cell.Model]
    shapes: dict[str, Shape | None]
    base: Path
    unknown: dict[str, str] = field(default_factory=dict)

    @property
    def results(self) -> str:
        """The results root as the file has it."""
        return self.settings.results

    @property
    def hf_home(self) -> str | None:
        """Hugging Face cache to use instead of the environment's."""
        return self.settings.hf_home

    @property
    def engine_start_minutes(self) -> int:
        """Time allowed to an engine's start."""
        return self.settings.engine_start_minutes

    def listed(self, axis: Axis) -> list[Any]:
        """The sweep's values of a sweep-wide axis: a list, or the names of a mapping."""
        return list(getattr(self.settings, str(axis.config_key)))

    def of_workload(self, axis: Axis, entry: WorkloadEntry) -> list[Any]:
        """An axis's values for a workload: its own, else the sweep's, else the default alone."""
        if own := entry.listed(axis):
            return own
        return self.listed(axis) if axis.is_sweep_wide else [axis.default]

    def layouts(self, entry: WorkloadEntry) -> list[Layout]:
        """The layouts of a workload's engines: of ``layouts`` those that its kind can have, or the
        product of the layout axes' lists."""
        if (chosen := entry.layouts or self.settings.layouts) is not None:
            return [one.layout for one in chosen if not foreign_axes(entry.kind, one.layout)]
        names = [axis.name for axis in LAYOUT]
        return [
            Layout(**dict(zip(names, sizes, strict=True)))
            for sizes in itertools.product(*(self.of_workload(axis, entry) for axis in LAYOUT))
        ]

    def count_layouts(self, entry: WorkloadEntry) -> int:
        """How many ``layouts`` has, without making them."""
        if self.settings.layouts is not None:
            return len(self.layouts(entry))
        return math.prod(len(self.of_workload(axis, entry)) for axis in LAYOUT)

    @property
    def models(self) -> dict[str, ModelEntry]:
        """The models as the file has them."""
        return self.settings.models


def foreign_axes(kind: str, layout: Layout) -> list[Axis]:
    """The axes that a layout uses and a kind of workload does not have."""
    return [
        axis
        for axis in LAYOUT
        if not (axis.is_sweep_wide or kind in axis.lists)
        and not axis.is_default(layout.sizes[axis.name])
    ]


def load_config(data: Mapping[str, Any], base: Path) -> Config:
    """Check ``data`` (config.yaml as read) and find the models' files below ``base``.

    Raises ``ConfigError``.
    """
    try:
        settings = Settings.model_validate(_plain(data))
    except ValidationError as error:
        raise of_pydantic(error.errors()[0]) from None
    found = {name: _find(name, m, settings.results, base) for name, m in settings.models.items()}
    config = Config(
        settings,
        cell_models={name: model for name, (model, _) in found.items()},
        shapes={name: one if isinstance(one, Shape) else None for name, (_, one) in found.items()},
        base=base,
        unknown={name: one for name, (_, one) in found.items() if isinstance(one, str)},
    )
    _check(config)
    return config


def _check_labels(models: Mapping[str, ModelEntry]) -> None:
    """Tables and figures show a label in place of the name: two models must not look the same."""
    shown: dict[str, str] = {}
    for name, entry in models.items():
        called = entry.label or name
        if called in shown:
            said = (
                f"allowed: a text that names this model alone; {shown[called]!r} is called the same"
            )
            raise ConfigError(f"models.{name}.label", entry.label, said)
        shown[called] = name


def _find(
    name: str, entry: ModelEntry, results: str, base: Path
) -> tuple[cell.Model, Shape | str | None]:
    """The model and its shape; in its place why it has none, or None before it is fetched."""
    key = f"models.{name}"
    shape: Shape | str | None = None
    digest, is_hub = None, False
    if entry.shape is not None:
        try:
            shape, digest = _shape(base / entry.shape), file_digest(base / entry.shape)
        except ValueError as error:
            raise ConfigError(f"{key}.shape", entry.shape, f"no shape: {error}") from None
    if entry.path is None:
        path = f"{results}/models/{cell.slug(name)}"  # made there, from the shape
    else:
        path = entry.path
        is_hub = not _is_folder(f"{key}.path", base / path) and bool(_HUB_NAME.fullmatch(path))
        if not is_hub:
            found, digest = _local(f"{key}.path", base / path, entry)
            shape = shape or found
    if entry.revision is not None and not is_hub:
        raise ConfigError(f"{key}.revision", entry.revision, "allowed: for a hub model only")
    model = cell.Model(
        name=name,
        path=path,
        revision=(entry.revision or "main") if is_hub else None,
        dtype=entry.dtype,
        weights=entry.weights,
        is_hub=is_hub,
        digest=None if is_hub else digest,
    )
    return model, shape


def _shape(path: Path) -> Shape | str:
    """The shape in a config.json, or why its bytes cannot be counted.

    Raises ``ValueError`` for a file that is no config.json, or has an impossible size.
    """
    content = read_model(path)
    if not content.get("model_type"):
        raise ValueError("model_type: missing, allowed: an architecture that vLLM knows")
    try:
        return Shape.from_config(content)
    except UnknownShapeError as error:
        return str(error)


def _is_folder(key: str, path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # a name that no file system takes
        said = f"{error.strerror}; allowed: a folder with a config.json, or a hub name"
        raise ConfigError(key, path.name, said) from None


def _local(key: str, folder: Path, entry: ModelEntry) -> tuple[Shape | str, str]:
    """Shape (or why there is none) and digest of a model folder."""
    allowed = "a folder with a config.json, or a hub name like org/model"
    if not folder.is_dir():
        raise ConfigError(key, entry.path, f"no such folder; allowed: {allowed}")
    if not (folder / "config.json").is_file():
        raise ConfigError(key, entry.path, f"it has no config.json; allowed: {allowed}")
    if entry.weights == "real" and not any(folder.glob("*.safetensors")):
        raise ConfigError(
            key, entry.path, "it has no *.safetensors; allowed only with weights: dummy"
        )
    try:
        return _shape(folder / "config.json"), folder_digest(folder, entry.weights)
    except ValueError as error:
        raise ConfigError(key, entry.path, f"its config.json: {error}") from None


def _check(config: Config) -> None:
    """What holds between keys. Raises ``ConfigError``."""
    settings = config.settings
    _check_results(config)
    _check_layouts(config)
    _check_size(config)
    _check_labels(settings.models)
    _check_slos(settings.slos)
    slugs: dict[str, str] = {}
    for name in settings.models:
        if PERIODIC.search(cell.slug(name)):
            allowed = "allowed: a name that does not end in 20 repeats of the same letters"
            raise ConfigError("models", name, allowed)
        other = slugs.setdefault(cell.slug(name), name)
        if other != name:
            allowed = f"allowed: names that also differ as folder names; {other!r} gives the same"
            raise ConfigError("models", name, allowed)
    for i, exclusion in enumerate(settings.exclude):
        for axis in WIDE:
            if axis.type is str and not axis.choices:
                names = [None, *config.listed(axis)]
                _known(f"exclude.{i}.{axis.name}", [exclusion.axes.get(axis.name)], names)
    _known("prices", settings.prices, settings.gpus)
    for name, entry in settings.workloads.items():
        key = f"workloads.{name}"
        for axis in WIDE:
            if axis not in LAYOUT or settings.layouts is None:
                _known(f"{key}.{axis.config_key}", entry.listed(axis), config.listed(axis))
        _check_lengths(key, entry)
        _check_answers(key, entry, settings.slos)
        _check_probes(key, entry)
        if isinstance(entry, Capacity) and not settings.slos:
            allowed = "allowed with slos at the top level, such as {chat: {ttft_p99_ms: 500}}"
            raise ConfigError(f"{key}.kind", entry.kind, allowed)
        for model in entry.models or settings.models:
            _check_model(key, entry, model, config)


def _check_results(config: Config) -> None:
    results = config.settings.results
    if set(results) & set("{}"):
        raise ConfigError("results", results, "allowed: a path without { and }")
    if max(len(part.encode()) for part in Path(results).parts or ("",)) > LONGEST_NAME:
        raise ConfigError("results", results, f"allowed: names of at most {LONGEST_NAME} bytes")
    if (config.base / results).exists() and not (config.base / results).is_dir():
        raise ConfigError("results", results, "allowed: a folder, or a free name")
    there = next(p for p in (config.base / results / "_").parents if p.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError("results", results, "allowed: a writable folder")


def _check_layouts(config: Config) -> None:
    """Layouts are given by ``layouts`` or by the layout axes' lists."""
    settings, names = config.settings, ", ".join(str(axis.config_key) for axis in LAYOUT)
    if settings.layouts is None:
        for axis in LAYOUT:
            key = str(axis.config_key)
            if axis.lists.get(SWEEP) is REQUIRED and getattr(settings, key) is None:
                raise ConfigError(key, None, "missing: give it, or layouts")
        for name, entry in settings.workloads.items():
            if entry.layouts is not None:
                allowed = "allowed: part of the sweep's layouts, and it has none"
                raise ConfigError(f"workloads.{name}.layouts", _labels(entry.layouts), allowed)
        return
    allowed = f"allowed: layouts, or the lists {names}; not both"
    _no_lists("", settings, allowed)
    for name, entry in settings.workloads.items():
        key = f"workloads.{name}"
        _no_lists(f"{key}.", entry, allowed)
        for one in entry.layouts or ():
            if one not in settings.layouts:
                said = f"allowed: part of the sweep's layouts: {_labels(settings.layouts)}"
                raise ConfigError(f"{key}.layouts", one.layout.label, said)
            for axis in foreign_axes(entry.kind, one.layout):
                said = f"allowed: {axis.name} with kind {' or '.join(axis.lists)} only"
                raise ConfigError(f"{key}.layouts", one.layout.label, said)
        if not config.layouts(entry):
            said = f"allowed: at least one that kind {entry.kind} can have"
            raise ConfigError(f"{key}: layouts", _labels(settings.layouts), said)


def _no_lists(prefix: str, given: Settings | WorkloadEntry, allowed: str) -> None:
    for axis in LAYOUT:
        key = str(axis.config_key)
        if key in given.model_fields_set:
            raise ConfigError(f"{prefix}{key}", getattr(given, key), allowed)


def _labels(layouts: Iterable[LayoutEntry]) -> str:
    return ", ".join(one.layout.label for one in layouts)


def _check_size(config: Config) -> None:
    """An upper bound, from the lengths of the axes alone: nothing is expanded to find it."""
    total, settings = 0, config.settings
    for name, entry in settings.workloads.items():
        runs = entry.runs or settings.runs
        if runs > MOST_CELLS:
            key = f"workloads.{name}.runs" if entry.runs else "runs"
            raise ConfigError(key, runs, f"allowed: up to {MOST_CELLS}, the limit per sweep")
        lists = [config.of_workload(axis, entry) for axis in LISTED if axis not in LAYOUT]
        total += runs * math.prod(map(len, lists)) * config.count_layouts(entry)
        if total > MOST_CELLS:
            allowed = f"allowed: up to {MOST_CELLS} cells in a sweep; it makes them {total}"
            raise ConfigError(f"workloads.{name}", "its axes", allowed)


def _check_lengths(key: str, entry: WorkloadEntry) -> None:
    limit = entry.engine.max_model_len
    if isinstance(entry, StaticBatch) and max(entry.batch) > entry.engine.max_num_seqs:
        allowed = f"allowed: up to engine.max_num_seqs = {entry.engine.max_num_seqs}"
        raise ConfigError(f"{key}.batch", max(entry.batch), allowed)
    if entry.input_len and entry.output_len:
        longest = max(entry.input_len) + max(entry.output_len)
        if longest > limit:
            allowed = f"allowed: input + output up to engine.max_model_len = {limit}"
            raise ConfigError(f"{key}.input_len + output_len", longest, allowed)


def _check_slos(slos: Mapping[str, SloLimits]) -> None:
    """Two names of the same limits are one search more, for the same answer."""
    seen: dict[frozenset[tuple[str, float]], str] = {}
    for name, slo in slos.items():
        other = seen.setdefault(frozenset(slo.limits.items()), name)
        if other != name:
            said = f"allowed: limits that no other SLO has; slos.{other} has the same"
            raise ConfigError(f"slos.{name}", dict(sorted(slo.limits.items())), said)


def _check_answers(key: str, entry: WorkloadEntry, slos: Mapping[str, SloLimits]) -> None:
    """An answer of one token keeps every limit of TPOT, and none of ITL."""
    if isinstance(entry, Capacity):
        limits = [(f"slos.{name}.{limit}", limit) for name in slos for limit in slos[name].limits]
    elif isinstance(entry, Serve):
        limits = [(f"slo.{limit}", limit) for limit in entry.slo.model_dump(exclude_none=True)]
    else:
        return
    for where, limit in limits:
        if limit.startswith(PER_TOKEN) and 1 in (entry.output_len or ()):
            raise ConfigError(f"{key}.output_len", 1, f"allowed: 2 and more tokens with {where}")


def _check_probes(key: str, entry: WorkloadEntry) -> None:
    """A bracket takes a rate that holds, a lower one that does, one that fails, and the seeds that
    confirm it."""
    if not isinstance(entry, Capacity):
        return
    least = 3 + entry.repeats
    if entry.max_probes < least:
        said = f"allowed: from {least} with repeats: {entry.repeats}"
        raise ConfigError(f"{key}.max_probes", entry.max_probes, said)


def _check_model(key: str, entry: WorkloadEntry, name: str, config: Config) -> None:
    sharegpt = isinstance(entry, RequestSet) and entry.dataset == "sharegpt"
    if sharegpt and config.models[name].weights == "dummy":
        allowed = f"not with {name}: the tokenizer of dummy weights makes its lengths meaningless"
        raise ConfigError(f"{key}.dataset", "sharegpt", allowed)
    shape = config.shapes[name]
    if shape is None:
        return
    if shape.problem:
        allowed = f"{shape.problem}; allowed: the same format for both"
        raise ConfigError(f"models.{name}", config.models[name].path or "its shape", allowed)
    settings, dtype = config.settings, config.models[name].dtype
    names, precisions = entry.variants or settings.variants, entry.precision or settings.precision
    for variant, precision in itertools.product(names, precisions):
        try:
            work = work_under(settings.variants[variant], dtype, precision, shape)
        except NoWorkError:
            continue
        _check_work(
            key, entry, {"model": name, "variant": variant, "precision": precision}, work, config
        )


def _check_work(
    key: str, entry: WorkloadEntry, here: Mapping[str, str], work: Work, config: Config
) -> None:
    """Context and TP of a model under one variant and precision."""
    name, most = here["model"], work.shape.max_position
    if entry.engine.max_model_len > most:
        allowed = f"allowed: up to the {most} positions of {name}"
        raise ConfigError(f"{key}.engine.max_model_len", entry.engine.max_model_len, allowed)
    for layout in config.layouts(entry):
        tp, ep = layout.tp, layout.ep
        problem = work.tp_problem(tp, ep=ep)
        cells = {**here, "workload": entry.kind, **layout.sizes}
        left_out = any(e.axes.items() <= cells.items() for e in config.settings.exclude)
        if problem and not left_out:
            list_key = "tp" if config.settings.layouts is None else "layouts"
            where = f"{key}.{list_key}" if getattr(entry, list_key) else list_key
            allowed = ", ".join(map(str, work.tps(ep=ep))) or "none"
            given: Any = tp
            if list_key == "layouts":
                given, allowed = layout.label, f"tp {allowed}"
            raise ConfigError(where, given, f"{problem} ({name}); allowed: {allowed}")


def _known(key: str, given: Iterable[Any] | None, known: Iterable[Any]) -> None:
    for value in given or ():
        if value not in known:
            names = ", ".join(str(name) for name in known if name is not None)
            raise ConfigError(key, value, f"allowed: {names}")


def _plain(data: object) -> object:
    """Snakemake hands over its own mapping types; pydantic's strict mode wants dict and list."""
    if isinstance(data, Mapping):
        return {key: _plain(value) for key, value in data.items()}
    return [_plain(value) for value in data] if isinstance(data, list) else data
