"""What one measurement is: the engine that it needs and the workload that the engine runs.

A ``Cell`` is fully resolved: nothing is looked up later, so that equal cells give equal numbers
(as far as the machine does). ``cell_id`` is a hash over everything in it that can change a
number, and over nothing else: not over paths, labels or comments.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from tpsweep.core.axes import AXES, without_defaults
from tpsweep.core.layout import Layout
from tpsweep.core.workloads import ENGINE, OFFLINE, SERVER

Scalar = str | int | float | bool | None
"""What an engine argument may hold; nested mappings (``compilation_config``) are allowed too."""

READABLE_LIMIT = 60
"""Longest readable part of a file name: with the id it stays far below the 255 bytes of a name."""


BF16, FP8, FP8_CACHE = "bf16", "fp8", "fp8-kv"
"""Precisions: as the model is, its weights in FP8, weights and KV cache in FP8."""

NSYS_ONLY, NSYS_OR_TORCH = "nsys", "nsys-or-torch"
"""Modes of an engine: a capture by nsys, or by nsys where the node has it."""


@dataclass(frozen=True)
class Model:
    """A model as the sweep names it.

    ``path`` is where the files are (a folder, or a hub name); it is not part of the identity of a
    local model, whose ``digest`` is: sha256 over its canonical config.json (and, for real
    weights, the names and sizes of its safetensors files). A hub model is identified by ``path``
    and ``revision``.
    """

    name: str
    path: str
    revision: str | None
    dtype: str
    weights: str  # "real" | "dummy"
    is_hub: bool
    digest: str | None

    def identity(self) -> dict[str, Any]:
        """The fields that can change a number."""
        source = {"hub": self.path} if self.is_hub else {"digest": self.digest}
        return {
            "name": self.name,
            "revision": self.revision,
            "dtype": self.dtype,
            "weights": self.weights,
            **source,
        }


@dataclass(frozen=True, kw_only=True)
class Engine(Layout):
    """One way to load a model: all cells with an equal ``Engine`` can be measured by one load.

    ``gpu`` is the site's name of a node class, ``gpu_card`` the silicon. ``args`` are vLLM's
    engine arguments, all pinned limits included (``max_model_len``, ``max_num_seqs``,
    ``max_num_batched_tokens``, ...). ``mode`` of a cell's engine says how its requests reach it
    (``offline``, ``server``, ``nsys``), that of an engine that is started may be ``engine``, which
    is both. ``run`` is the replicate: another run is another start. ``environment`` is what the
    site sets for every engine (NCCL's switches, say). ``precision``: see ``core.axes``. ``nodes``
    hold its GPUs in equal parts: it follows from the layout and the site's nodes, and is no axis.
    """

    site: str
    gpu: str
    gpu_card: str
    model: Model
    variant: str
    allreduce_backend: str
    vllm_version: str
    args: dict[str, Any]
    mode: str
    run: int
    precision: str = BF16
    environment: dict[str, str] = field(default_factory=dict)
    nodes: int = 1

    @property
    def gpus_per_node(self) -> int:
        """GPUs that it holds on each of its nodes."""
        return self.gpus // self.nodes

    @property
    def tp_spans_nodes(self) -> bool:
        """Whether the ranks of a TP group are on several nodes: vLLM numbers them node by node,
        and TP is its innermost kind of parallelism."""
        return self.nodes > 1 and self.gpus_per_node % self.tp != 0

    def identity(self) -> dict[str, Any]:
        """The fields that can change a number, as plain JSON values."""
        fields = {**_fields(self), "gpus": self.gpus, "model": self.model.identity()}
        return without_defaults(_without_one_node(fields))

    def columns(self) -> dict[str, Any]:
        """The identity columns of ``core.schema`` that an engine gives."""
        of_model = {
            "model": self.model.name,
            "model_revision": self.model.revision,
            "dtype": self.model.dtype,
            "weights": self.model.weights,
        }
        return {name: getattr(self, name) for name in _ENGINE_COLUMNS} | of_model

    @property
    def shared(self) -> Engine:
        """What is started for its cells: an engine that runs offline and served cells alike.

        nsys slows the process that it profiles, and data parallelism is several engines: these
        have a start of their own.
        """
        if self.engines > 1 or self.mode not in (OFFLINE, SERVER):
            return self
        return dataclasses.replace(self, mode=ENGINE)

    def serves(self, other: Engine) -> bool:
        """Whether a start of this engine measures the cells of ``other``."""
        return self.session in (other.session, other.shared.session)

    @property
    def session(self) -> str:
        """Key of the session: readable, and unique to this engine (hash of the identity)."""
        readable = slug(f"{self.gpu}-{self.model.name}-tp{self.tp}-{self.variant}-run{self.run}")
        return f"{readable}-{_digest(self.identity())[:8]}"

    def to_json(self) -> str:
        """Canonical JSON, paths included: what the daemon is started with."""
        return _canonical(self._plain())

    def _plain(self) -> dict[str, Any]:
        fields = {**dataclasses.asdict(self), "gpus": self.gpus}
        return without_defaults(_without_one_node(fields))

    @classmethod
    def from_json(cls, text: str) -> Engine:
        """Inverse of ``to_json``; raises ``TypeError`` for missing or unknown fields."""
        return cls._from_dict(json.loads(text))

    @classmethod
    def _from_dict(cls, data: dict[str, Any]) -> Engine:
        fields = {name: value for name, value in data.items() if name != "gpus"}
        return cls(**{**fields, "model": Model(**fields["model"])})


_ENGINE_FIELDS = {field.name for field in dataclasses.fields(Engine)} | {"gpus"}
_ENGINE_COLUMNS = tuple(axis.name for axis in AXES if axis.name in _ENGINE_FIELDS)


@dataclass(frozen=True)
class Cell:
    """One measurement: one Snakemake job, one Parquet file, one row.

    Lengths are tokens, ``batch`` is sequences. ``warmups`` iterations are thrown away,
    ``repeats`` are kept as raw samples. Axes that a workload does not have are None.
    """

    workload: str
    engine: Engine
    dataset: str
    input_len: int | None
    output_len: int | None
    warmups: int
    repeats: int
    batch: int | None = None
    num_prompts: int | None = None
    request_rate: float | None = None
    max_concurrency: int | None = None
    speed: float | None = None
    prefix_len: int | None = None
    prefix_share: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """The fields that can change a number, as plain JSON values."""
        return without_defaults({**_fields(self), "engine": self.engine.identity()})

    def columns(self) -> dict[str, Any]:
        """The identity columns of ``core.schema``, all but ``cell_id`` (which costs a hash)."""
        return {**self.engine.columns(), **{name: getattr(self, name) for name in _CELL_COLUMNS}}

    @property
    def settings(self) -> str:
        """Digest of what else can change a number, beside the identity columns: 8 hex digits.

        Only cells that agree in it are compared: engine limits and arguments, environment, the
        model's files, warm-ups and repeats, the content of the dataset's file, SLOs.
        """
        engine = self.engine
        rest = {
            "args": engine.args,
            "environment": engine.environment,
            "model": engine.model.identity(),
            "warmups": self.warmups,
            "repeats": self.repeats,
            "extra": self.extra,
        }
        return _digest(rest)[:8]

    @property
    def cell_id(self) -> str:
        """First 12 hex digits of sha256 over the canonical JSON of the identity."""
        return _digest(self.identity())[:12]

    @property
    def readable(self) -> str:
        """The axes in a file name's letters, for people; ``cell_id`` is what identifies."""
        values = self.columns()
        words = [
            axis.short if axis.type is bool else f"{axis.short}{values[axis.name]}"
            for axis in AXES
            if axis.short and not axis.is_default(values[axis.name])
        ]
        engine = self.engine
        words += [engine.variant, engine.allreduce_backend, f"run{engine.run}"]
        return slug("-".join(words))

    @property
    def path(self) -> str:
        """The row's place below the results root, '/'-separated."""
        engine = self.engine
        folder = f"cells/{slug(self.workload)}/{slug(engine.gpu)}/{slug(engine.model.name)}"
        return f"{folder}/tp{engine.tp}/{self.readable}-{self.cell_id}.parquet"

    def to_json(self) -> str:
        """Canonical JSON: what the client hands to the daemon, and Snakemake's ``params`` trigger.

        The place of a local model is left out: moving its folder must not rerun a cell. The
        daemon knows it from the ``Engine`` that it was started with.
        """
        model = self.engine.model
        if not model.is_hub:
            model = dataclasses.replace(model, path="")
        engine = dataclasses.replace(self.engine, model=model)
        return _canonical(without_defaults({**dataclasses.asdict(self), "engine": engine._plain()}))

    @classmethod
    def from_json(cls, text: str) -> Cell:
        """Inverse of ``to_json``; raises ``TypeError`` for missing or unknown fields."""
        data = json.loads(text)
        return cls(**{**data, "engine": Engine._from_dict(data["engine"])})


_CELL_COLUMNS = tuple(
    axis.name for axis in AXES if axis.name in {field.name for field in dataclasses.fields(Cell)}
)


def slug(text: str) -> str:
    """Letters, digits, ``.``, ``_`` and ``-`` only: safe as a file name and in a shell.

    Different texts may give the same slug (where that matters, a hash is added). Never empty,
    never with a leading dot or dash.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")[:READABLE_LIMIT]
    return safe.strip("._-") or "x"


def _fields(instance: Any) -> dict[str, Any]:
    return {f.name: getattr(instance, f.name) for f in dataclasses.fields(instance)}


def _without_one_node(fields: dict[str, Any]) -> dict[str, Any]:
    """Engines on one node are what they were before there were others."""
    return {name: value for name, value in fields.items() if (name, value) != ("nodes", 1)}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _digest(value: Any) -> str:
    return hashlib.sha256(_canonical(value).encode()).hexdigest()
