"""The schema of config.yaml, as pydantic models: closed at every level, types as written.

``python -m tpsweep.config.settings`` prints it as JSON Schema
(workflow/schemas/config.schema.json). What needs the disk or looks across keys is checked in
``tpsweep.config.load``.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

from tpsweep.config.axis_fields import (
    filter_values,
    layout_values,
    narrowed_lists,
    own_lists,
    sweep_lists,
    with_fields,
)
from tpsweep.config.engine_arguments import EngineArguments
from tpsweep.config.types import LEAST_RATE, Closed, Count, Name, PathText, Several, Whole
from tpsweep.core.axes import BY_NAME, Axis
from tpsweep.core.layout import Layout
from tpsweep.core.slo import LIMITS, PER_REQUEST
from tpsweep.core.slo_counts import MOST_SHARE
from tpsweep.core.workloads import CAPACITY, CAPTURE, LATENCY, SERVE, THROUGHPUT

Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Profiler = Literal["auto", "torch", "nsys"]


class ModelEntry(Closed):
    """A model: a hub name, a folder, or a shape alone (then with dummy weights)."""

    path: PathText | None = None
    revision: Name | None = None
    dtype: Literal["bfloat16", "float16", "float32"]
    weights: Literal["real", "dummy"]
    shape: PathText | None = None
    label: str | None = None

    @model_validator(mode="after")
    def _has_files(self) -> ModelEntry:
        if self.path is None and self.shape is None:
            raise PydanticCustomError("model", "allowed: a path, a shape, or both")
        if self.path is None and self.weights == "real":
            raise PydanticCustomError("model", "weights: real needs a path; allowed without: dummy")
        return self


class Pins(Closed):
    """Limits of the engine that vLLM would otherwise choose by GPU (measuring rule 1)."""

    max_model_len: Count = 8192
    max_num_seqs: Count = 256
    max_num_batched_tokens: Count = 8192
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.9

    @model_validator(mode="after")
    def _room_for_each(self) -> Pins:
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise PydanticCustomError("pins", "allowed: max_num_batched_tokens >= max_num_seqs")
        return self


class AxisLists(Closed):
    """A mapping with lists of axes, which ``config.axis_fields`` adds."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


@with_fields(layout_values())
class LayoutEntry(Closed):
    """A way to spread a model over GPUs, in place of the product of the layout axes' lists."""

    @property
    def layout(self) -> Layout:
        """What it says."""
        return Layout(**self.model_dump())


def _each_once(entries: list[LayoutEntry]) -> list[LayoutEntry]:
    seen: set[Layout] = set()
    for entry in entries:
        if entry.layout in seen:
            raise PydanticCustomError(
                "distinct",
                "allowed: each layout once; {value} appears twice",
                {"value": entry.layout.label},
            )
        seen.add(entry.layout)
    return entries


Layouts = Annotated[list[LayoutEntry], Field(min_length=1), AfterValidator(_each_once)]


@with_fields(narrowed_lists())
class Workload(AxisLists):
    """What all workloads have. The lists narrow the global axes to a part of them."""

    engine: Pins = Pins()
    warmups: Whole = 3
    repeats: Count = 20
    minutes: Count = 10
    label: str | None = None
    runs: Count | None = None
    layouts: Layouts | None = None

    def listed(self, axis: Axis) -> list[Any] | None:
        """The workload's own values of an axis; None if it has none, or does not narrow it."""
        found: list[Any] | None = getattr(self, axis.config_key or "", None)
        return found


class StaticBatch(Workload):
    """Workloads of one batch that begins and ends together. Lengths are tokens per sequence."""


@with_fields(own_lists(LATENCY))
class Latency(StaticBatch):
    """A static batch on the offline engine: prefill and decode apart."""

    kind: Literal["latency"]


@with_fields(own_lists(CAPTURE))
class Capture(StaticBatch):
    """A profiled static batch: communication per decode step."""

    kind: Literal["capture"]
    profiler: Profiler = "auto"
    output_len: Several  # the first token is the prefill's: one alone has no decode step


class RequestSet(Workload):
    """Workloads over a set of requests: random lengths, or a file of conversations, lengths or
    arrivals."""

    dataset: Literal[BY_NAME["dataset"].choices] = "random"  # type: ignore[valid-type]
    dataset_path: PathText | None = None

    @model_validator(mode="after")
    def _lengths(self) -> RequestSet:
        random = self.dataset == "random"
        if random and (self.input_len is None or self.output_len is None or self.dataset_path):
            raise PydanticCustomError(
                "dataset",
                "allowed: dataset: random needs input_len and output_len and no dataset_path",
            )
        if not random and (self.input_len or self.output_len or self.dataset_path is None):
            raise PydanticCustomError(
                "dataset",
                "allowed: dataset: {dataset} needs a dataset_path and takes its lengths from there",
                {"dataset": self.dataset},
            )
        return self


@with_fields(own_lists(THROUGHPUT))
class Throughput(RequestSet):
    """Offline requests/s over a request set."""

    kind: Literal["throughput"]

    @model_validator(mode="after")
    def _no_arrivals(self) -> Throughput:
        if self.dataset == "trace":
            raise PydanticCustomError(
                "dataset", "allowed: dataset: trace with kind: serve; lengths with throughput"
            )
        return self


class Slo(Closed):
    """Limits that a request must keep to count as good."""

    ttft_ms: Milliseconds | None = None
    tpot_ms: Milliseconds | None = None
    e2e_ms: Milliseconds | None = None


@with_fields(own_lists(SERVE))
class Serve(RequestSet):
    """Online serving: TTFT, ITL, TPOT. ``repeats`` are seeds of the arrivals."""

    kind: Literal["serve"]
    repeats: Annotated[int, Field(ge=3)] = 3
    slo: Slo = Slo()

    @model_validator(mode="after")
    def _arrivals(self) -> Serve:
        trace = self.dataset == "trace"
        if trace == bool(self.request_rate) or (self.speed and not trace):
            raise PydanticCustomError(
                "arrivals",
                "allowed: dataset: trace has its arrivals in its file and takes a speed (1 if not "
                "given), every other dataset needs a request_rate and no speed",
            )
        return self

    @model_validator(mode="after")
    def _prefix(self) -> Serve:
        if bool(self.prefix_len) != bool(self.prefix_share):
            raise PydanticCustomError("prefix", "allowed: prefix_len and prefix_share together")
        if not self.prefix_len:
            return self
        if self.dataset != "random" or max(self.prefix_len) >= min(self.input_len):
            raise PydanticCustomError(
                "prefix", "allowed: dataset: random, with every prefix_len below every input_len"
            )
        if max(self.prefix_share) > 1:
            raise PydanticCustomError("prefix", "prefix_share: allowed: above 0, up to 1")
        return self


@with_fields(own_lists(CAPACITY))
class Capacity(RequestSet):
    """The highest request rate at which each of the config's ``slos`` holds. ``repeats`` are the
    seeds that confirm it, ``warmups`` the requests that are sent at once before the search."""

    kind: Literal["capacity"]
    repeats: Annotated[int, Field(ge=2)] = 2
    warmups: Count = 32
    minutes: Count = 60
    probe_s: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 30.0
    probe_requests: Annotated[int, Field(ge=20, le=10**6)] = 400
    max_request_rate: Annotated[float, Field(ge=LEAST_RATE, allow_inf_nan=False)] = 1000.0
    max_probes: Count = 40

    @model_validator(mode="after")
    def _no_arrivals(self) -> Capacity:
        if self.dataset == "trace":
            raise PydanticCustomError(
                "dataset", "allowed: dataset: trace with kind: serve; lengths with capacity"
            )
        return self


WorkloadEntry = Annotated[
    Latency | Throughput | Serve | Capacity | Capture, Field(discriminator="kind")
]


Price = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""USD per hour of one GPU."""


@with_fields({**filter_values(), "profiler": (Profiler | None, None)})
class Axes(Closed):
    """Some cells of the matrix: those that agree on every axis given here."""

    @property
    def axes(self) -> dict[str, Any]:
        """The axes given, by name."""
        return self.model_dump(exclude={"reason"}, exclude_none=True)


class Exclusion(Axes):
    """Cells that are left out, and why."""

    reason: Name

    @model_validator(mode="after")
    def _some_axis(self) -> Exclusion:
        if not self.axes:
            raise PydanticCustomError("exclude", "allowed: a reason and at least one axis")
        return self


Share = Annotated[float, Field(gt=0, le=MOST_SHARE, allow_inf_nan=False)]


def _slo_name(name: str) -> str:
    if "=" in name:
        raise PydanticCustomError(
            "slo_name", "allowed: a name without =, which `tpsweep recommend --slo` reads as limits"
        )
    return name


SloName = Annotated[Name, AfterValidator(_slo_name)]


@with_fields({name: (Milliseconds | None, None) for name in LIMITS})
class SloLimits(Slo):
    """What served load must keep: percentiles, and the share of requests within every limit of one
    request (``ttft_ms``, ``tpot_ms``, ``e2e_ms``)."""

    goodput_share: Share | None = None

    @model_validator(mode="after")
    def _some_limit(self) -> SloLimits:
        each = any(getattr(self, name) is not None for name in PER_REQUEST)
        if each != (self.goodput_share is not None):
            raise PydanticCustomError(
                "slo", "allowed: goodput_share together with ttft_ms, tpot_ms or e2e_ms"
            )
        if not self.limits:
            raise PydanticCustomError(
                "slo",
                "allowed: at least one limit, such as ttft_p99_ms, tpot_p50_ms, goodput_share",
            )
        return self

    @property
    def limits(self) -> dict[str, float]:
        """Those that are given."""
        return self.model_dump(exclude_none=True)


@with_fields(sweep_lists())
class Settings(AxisLists):
    """The whole of config.yaml."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["tp"]}, {"required": ["layouts"]}]}
    )

    results: PathText = "results"
    vllm_version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+[\w.+]*$")]
    hf_home: PathText | None = None
    models: Annotated[dict[Name, ModelEntry], Field(min_length=1)]
    variants: Annotated[dict[Name, EngineArguments], Field(min_length=1)] = {"default": {}}
    runs: Count = 1
    layouts: Layouts | None = None
    workloads: Annotated[dict[Name, WorkloadEntry], Field(min_length=1)]
    engine_start_minutes: Count = 15
    one_start: bool = True
    exclude: list[Exclusion] = []
    prices: dict[Name, Price] = {}
    slos: dict[SloName, SloLimits] = {}
    lab: bool = False


def json_schema() -> str:
    """JSON Schema of config.yaml, as workflow/schemas/config.schema.json holds it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**schema, **Settings.model_json_schema()}, indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(json_schema())
