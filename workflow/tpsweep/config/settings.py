"""The schema of config.yaml, as pydantic models: closed at every level, types as written.

``python -m tpsweep.config.settings`` prints it as JSON Schema
(workflow/schemas/config.schema.json). What needs the disk or looks across keys is checked in
``tpsweep.config.load``.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from tpsweep.perfmodel.model_shape import CACHE_BYTES

NAME_LIMIT = 100
PATH_LIMIT = 1000
LEAST_RATE = 0.001
"""Requests/s: a request in a quarter of an hour."""


def _printable(limit: int, text: str) -> str:
    if not text.strip() or len(text) > limit or not text.isprintable():
        raise PydanticCustomError(
            "name", "allowed: 1 to {limit} characters, no control characters", {"limit": limit}
        )
    return text


def _distinct(values: list[Any]) -> list[Any]:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise PydanticCustomError(
                "distinct", "allowed: each value once; {value} is there twice", {"value": value}
            )
        seen.add(value)
    return values


def _rate(value: object) -> object:
    return math.inf if value == "inf" else value


def _a_number(value: float) -> float:
    if math.isnan(value):
        raise PydanticCustomError("nan", "allowed: a number above 0, or inf")
    if 0 < value < LEAST_RATE:
        raise PydanticCustomError(
            "rate", "allowed: at least {least}, or inf", {"least": LEAST_RATE}
        )
    return value


def _engine_arguments(arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
    for given in arguments:
        # vLLM's command line takes abbreviations: `hos` would be `host`.
        name = next((owned for owned in OWNED if given and owned.startswith(given)), given)
        if name in OWNED:
            raise PydanticCustomError(
                "owned",
                "{name} is set by {owner}; allowed: vLLM's other engine arguments",
                {"name": name, "owner": OWNED[name]},
            )
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise PydanticCustomError(
                "engine_argument",
                "{name} is no engine argument; allowed: names as in Python, like enforce_eager",
                {"name": repr(name)},
            )
    cache = arguments.get("kv_cache_dtype", "auto")
    if cache not in ("auto", *CACHE_BYTES):
        raise PydanticCustomError(
            "kv_cache_dtype",
            "kv_cache_dtype: {value}; allowed: auto, {allowed}",
            {"value": str(cache), "allowed": ", ".join(CACHE_BYTES)},
        )
    try:
        text = json.dumps(arguments, allow_nan=False)
    except ValueError:
        raise PydanticCustomError("finite", "allowed: finite numbers") from None
    if "fuse_allreduce_rms" in text:
        raise PydanticCustomError(
            "owned", "fuse_allreduce_rms is set by allreduce_backends; allowed there"
        )
    return arguments


OWNED: Mapping[str, str] = {
    "model": "models",
    "tokenizer": "models",
    "revision": "models",
    "dtype": "models",
    "load_format": "models (weights)",
    "quantization": "nothing yet (the floors know unquantised weights only)",
    "tensor_parallel_size": "tp",
    "pipeline_parallel_size": "nothing (tensor parallelism is what is measured)",
    "data_parallel_size": "replicas",
    "disable_custom_all_reduce": "allreduce_backends",
    "max_model_len": "the workload's engine",
    "max_num_seqs": "the workload's engine",
    "max_num_batched_tokens": "the workload's engine",
    "gpu_memory_utilization": "the workload's engine",
    "enable_prefix_caching": "the rules of measuring (off)",
    "disable_log_stats": "the rules of measuring (the timestamps need it)",
    "profiler_config": "the capture workload",
    "seed": "tpsweep",
    **dict.fromkeys(
        (
            *("host", "port", "uds", "api_key", "served_model_name", "middleware", "root_path"),
            *("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "api_server_count", "config"),
            *("data_parallel_address", "data_parallel_rpc_port", "data_parallel_rank", "headless"),
        ),
        "tpsweep (a server is on loopback, with a port and a key of its own)",
    ),
}
"""Engine arguments that a variant must not hold, and where they are set instead."""

Name = Annotated[str, AfterValidator(lambda text: _printable(NAME_LIMIT, text))]
PathText = Annotated[str, AfterValidator(lambda text: _printable(PATH_LIMIT, text))]
Count = Annotated[int, Field(ge=1, le=10**9)]
Whole = Annotated[int, Field(ge=0)]
Rate = Annotated[
    float,
    BeforeValidator(_rate),
    AfterValidator(_a_number),
    Field(gt=0),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"const": "inf"}]}),
]
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
EngineArguments = Annotated[dict[str, JsonValue], AfterValidator(_engine_arguments)]
Backend = Literal["auto", "custom", "nccl", "symm_mem", "flashinfer"]
Profiler = Literal["auto", "torch", "nsys"]
Dataset = Literal["random", "sharegpt", "lengths"]

Counts = Annotated[list[Count], Field(min_length=1), AfterValidator(_distinct)]
Several = Annotated[
    list[Annotated[int, Field(ge=2, le=10**9)]], Field(min_length=1), AfterValidator(_distinct)
]
Names = Annotated[list[Name], Field(min_length=1), AfterValidator(_distinct)]
Backends = Annotated[list[Backend], Field(min_length=1), AfterValidator(_distinct)]
Rates = Annotated[list[Rate], Field(min_length=1), AfterValidator(_distinct)]
Limits = Annotated[list[Count | None], Field(min_length=1), AfterValidator(_distinct)]


class Closed(BaseModel):
    """A mapping whose keys are all known; types are taken as written ("4" is no number)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: object) -> object:
        # pydantic refuses unknown keys too, but does not say which ones there are.
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    raise PydanticCustomError(
                        "unknown_key",
                        "unknown key; allowed: {allowed}",
                        {"allowed": ", ".join(cls.model_fields), "key": str(key)},
                    )
        return data


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


class Workload(Closed):
    """What all workloads have. The lists narrow the global axes to a part of them."""

    engine: Pins = Pins()
    warmups: Whole = 3
    repeats: Count = 20
    minutes: Count = 10
    label: str | None = None
    models: Names | None = None
    gpus: Names | None = None
    tp: Counts | None = None
    variants: Names | None = None
    allreduce_backends: Backends | None = None
    runs: Count | None = None


class StaticBatch(Workload):
    """Workloads of one batch that begins and ends together. Lengths are tokens per sequence."""

    batch: Counts
    input_len: Counts
    output_len: Counts


class Latency(StaticBatch):
    """A static batch on the offline engine: prefill and decode apart."""

    kind: Literal["latency"]


class Capture(StaticBatch):
    """A profiled static batch: communication per decode step."""

    kind: Literal["capture"]
    profiler: Profiler = "auto"
    output_len: Several  # the first token is the prefill's: one alone has no decode step


class RequestSet(Workload):
    """Workloads over a set of requests: random lengths, or a file of conversations or lengths."""

    num_prompts: Counts
    dataset: Dataset = "random"
    dataset_path: PathText | None = None
    input_len: Counts | None = None
    output_len: Counts | None = None

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


class Throughput(RequestSet):
    """Offline requests/s over a request set."""

    kind: Literal["throughput"]


class Slo(Closed):
    """Limits that a request must keep to count as good."""

    ttft_ms: Milliseconds | None = None
    tpot_ms: Milliseconds | None = None
    e2e_ms: Milliseconds | None = None


class Serve(RequestSet):
    """Online serving: TTFT, ITL, TPOT. ``repeats`` are seeds of the arrivals."""

    kind: Literal["serve"]
    repeats: Annotated[int, Field(ge=3)] = 3
    request_rate: Rates
    max_concurrency: Limits = [None]
    replicas: Counts = [1]
    slo: Slo = Slo()


WORKLOADS = ("latency", "throughput", "serve", "capture")
"""The kinds of workload: each has a rule and a client of its name."""
WorkloadEntry = Annotated[Latency | Throughput | Serve | Capture, Field(discriminator="kind")]


Price = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""USD per hour of one GPU."""


class Axes(Closed):
    """Some cells of the matrix: those that agree on every axis given here."""

    workload: Literal["latency", "throughput", "serve", "capture"] | None = None
    model: Name | None = None
    gpu: Name | None = None
    tp: Count | None = None
    replicas: Count | None = None
    variant: Name | None = None
    allreduce_backend: Backend | Literal["none"] | None = None
    batch: Count | None = None
    input_len: Count | None = None
    output_len: Count | None = None
    dataset: Dataset | None = None
    num_prompts: Count | None = None
    request_rate: Rate | None = None
    max_concurrency: Count | None = None
    run: Whole | None = None
    profiler: Profiler | None = None

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


class Settings(Closed):
    """The whole of config.yaml."""

    results: PathText = "results"
    vllm_version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+[\w.+]*$")]
    hf_home: PathText | None = None
    models: Annotated[dict[Name, ModelEntry], Field(min_length=1)]
    variants: Annotated[dict[Name, EngineArguments], Field(min_length=1)] = {"default": {}}
    allreduce_backends: Backends = ["auto"]
    gpus: Names
    tp: Counts
    runs: Count = 1
    workloads: Annotated[dict[Name, WorkloadEntry], Field(min_length=1)]
    engine_start_minutes: Count = 15
    exclude: list[Exclusion] = []
    prices: dict[Name, Price] = {}


def json_schema() -> str:
    """JSON Schema of config.yaml, as workflow/schemas/config.schema.json holds it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**schema, **Settings.model_json_schema()}, indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(json_schema())
