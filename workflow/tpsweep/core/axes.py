"""Every axis of the matrix, declared once. All else that names an axis is derived from here.

Derived: the config's lists and their narrowing by a workload, the product that expands the matrix,
the identity columns of row and manifest, ``only`` and ``exclude``, vLLM's arguments, the file name,
headings and labels of tables, figures and ``compare``, what is held against the loaded engine,
docs/columns.md and the list in docs/config.md.

A new axis is an entry below and a field of ``Layout`` (a way to spread a model over GPUs), of
``Engine`` (anything else that needs an engine start of its own) or of ``Cell``. What it does to
memory and time is said in ``tpsweep.perfmodel``. Give it a ``default`` and ``added=True``: then
rows that were measured before it existed keep their ids.

Standard library only: the client of a cell imports this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from tpsweep.core.workloads import CAPACITY, KINDS, SERVE, WORKLOADS

REQUIRED: list[Any] = []
"""In ``Axis.lists``: the config must give the list."""
SWEEP = "sweep"
"""In ``Axis.lists``: a list of the whole sweep, which each workload may narrow."""


class Group(Enum):
    """What an axis speaks of, in the order in which people read the columns of a table."""

    PLACE = "place"
    MODEL = "model"
    SOFTWARE = "software"
    TASK = "task"
    SETTING = "setting"
    ARRIVALS = "arrivals"
    LENGTHS = "lengths"
    BATCH = "batch"
    LAYOUT = "layout"
    SIZE = "size"
    RUN = "run"


@dataclass(frozen=True)
class Axis:
    """One identity column, and how the matrix, the files and the tables have it.

    ``type``: str, int, float or bool. ``config_key``: of its list in config.yaml; None for what
    follows from other axes. ``lists``: where the list is (``SWEEP``, or kinds of workload) and
    its default there: ``REQUIRED``, a list, or None (no values: the axis is null).
    ``choices``: the values that a list may hold; ``filtered``: more values that cells may have.
    ``least``: the smallest integer.
    ``default``: the value of a cell that does not name the axis. ``added``: the axis is younger
    than the first published rows; it is left out of identity, session key and files at its
    default. ``vllm_arg``: the engine argument that it sets, left out at the default.
    ``ran``: of a layout axis: the meaning of ``<name>_ran``, what the loaded engine says of that
    argument; None: no such column.
    ``short``: letters before the value in a file name. ``label``: the value as a figure has it,
    ``{}`` in its place; ``heading``: of its column in Markdown, "" for none.
    """

    name: str
    type: type
    doc: str
    group: Group
    heading: str = ""
    label: str = ""
    short: str = ""
    config_key: str | None = None
    lists: Mapping[str, list[Any] | None] = field(default_factory=dict)
    choices: tuple[Any, ...] = ()
    filtered: tuple[Any, ...] = ()
    least: int = 1
    nullable: bool = False
    default: Any = None
    added: bool = False
    multiplies_gpus: bool = False
    vllm_arg: str | None = None
    ran: str | None = None

    @property
    def is_sweep_wide(self) -> bool:
        """Its list is the sweep's, and a workload may narrow it."""
        return SWEEP in self.lists

    def is_default(self, value: Any) -> bool:
        """Whether ``value`` says nothing that a cell without the axis would not say."""
        return bool(value == self.default)

    @property
    def unsaid(self) -> Any:
        """The value in a layout that does not name the axis: its default, else the least."""
        return self.least if self.default is None else self.default

    def words(self, value: Any) -> str:
        """The value as people read it in a label."""
        text = (self.label or f"{self.name} {{}}").format(value)
        return text.removesuffix("s") if text.startswith("1 ") else text


_STATIC = tuple(kind.name for kind in KINDS.values() if kind.is_static)
_REQUESTS = tuple(kind.name for kind in KINDS.values() if not kind.is_static)
BACKENDS = ("auto", "custom", "nccl", "symm_mem", "flashinfer")
NO_ALLREDUCE = "none"
"""All-reduce backend of an engine whose ranks exchange nothing."""

AXES = (
    Axis(
        "workload",
        str,
        "latency, throughput, serve, capacity or capture",
        Group.TASK,
        "Workload",
        "{}",
        choices=WORKLOADS,
    ),
    Axis("site", str, "name of the cluster or host, from site.yaml", Group.PLACE, "Site"),
    Axis(
        "gpu",
        str,
        "the site's name of the node class",
        Group.PLACE,
        "GPU",
        "{}",
        config_key="gpus",
        lists={SWEEP: REQUIRED},
    ),
    Axis("gpu_card", str, "the card that the site file names for it", Group.PLACE, "Card", "{}"),
    Axis("gpus", int, "GPUs of the engine", Group.SIZE, "GPUs"),
    Axis(
        "model",
        str,
        "the model's name in the config",
        Group.MODEL,
        "Model",
        "{}",
        config_key="models",
        lists={SWEEP: REQUIRED},
    ),
    Axis(
        "model_revision",
        str,
        "hub revision as configured; null for a local folder",
        Group.MODEL,
        "Revision",
        nullable=True,
    ),
    Axis("dtype", str, "as asked", Group.MODEL, "Dtype"),
    Axis(
        "weights",
        str,
        "real, or dummy (random values: see the rules of measuring)",
        Group.MODEL,
        "Weights",
    ),
    Axis(
        "tp",
        int,
        "tensor-parallel size",
        Group.LAYOUT,
        "TP",
        "TP={}",
        config_key="tp",
        lists={SWEEP: REQUIRED},
        multiplies_gpus=True,
        vllm_arg="tensor_parallel_size",
        ran="tensor-parallel size of the loaded engine",
    ),
    Axis(
        "pp",
        int,
        "pipeline-parallel size: stages that each hold a part of the layers; default 1",
        Group.LAYOUT,
        "PP",
        "PP={}",
        short="pp",
        config_key="pp",
        lists={SWEEP: [1]},
        default=1,
        added=True,
        multiplies_gpus=True,
        vllm_arg="pipeline_parallel_size",
        ran="pipeline-parallel size of the loaded engine; null in older rows: 1",
    ),
    Axis(
        "ep",
        bool,
        "expert parallelism: each expert whole on one GPU, not a part of each; default false",
        Group.LAYOUT,
        "EP",
        "EP",
        short="ep",
        config_key="ep",
        lists={SWEEP: [False]},
        default=False,
        added=True,
        vllm_arg="enable_expert_parallel",
        ran="expert parallelism of the loaded engine; null: its log does not say",
    ),
    Axis(
        "dcp",
        int,
        "decode context parallelism: TP ranks that each keep a part of a sequence's KV cache; "
        "default 1",
        Group.LAYOUT,
        "DCP",
        "DCP={}",
        short="dcp",
        config_key="dcp",
        lists={SWEEP: [1]},
        default=1,
        added=True,
        vllm_arg="decode_context_parallel_size",
        ran="decode context parallelism of the loaded engine; null: not known",
    ),
    Axis(
        "dp",
        int,
        "data parallelism of a mixture of experts: engines with requests and attention of their "
        "own, whose experts are joined; default 1",
        Group.LAYOUT,
        "DP",
        "DP={} (experts joined)",
        short="dp",
        config_key="dp",
        lists={SERVE: [1], CAPACITY: [1]},
        default=1,
        added=True,
        multiplies_gpus=True,
        vllm_arg="data_parallel_size",
        ran="engines whose experts the loaded engine joins with its own; null: not known",
    ),
    Axis(
        "replicas",
        int,
        "engines side by side that share nothing (data parallelism without experts); default 1",
        Group.LAYOUT,
        "Replicas",
        "{} replicas",
        config_key="replicas",
        lists={SERVE: [1], CAPACITY: [1]},
        default=1,
        multiplies_gpus=True,
        vllm_arg="data_parallel_size",
    ),
    Axis(
        "variant",
        str,
        "name of the set of engine arguments",
        Group.SETTING,
        "Variant",
        config_key="variants",
        lists={SWEEP: ["default"]},
    ),
    Axis(
        "allreduce_backend",
        str,
        "all-reduce as configured; none at tp=1",
        Group.SETTING,
        "All-reduce",
        "all-reduce {}",
        config_key="allreduce_backends",
        lists={SWEEP: ["auto"]},
        choices=BACKENDS,
        filtered=(NO_ALLREDUCE,),
    ),
    Axis(
        "precision",
        str,
        "bf16: as the model is; fp8: weights; fp8-kv: and KV cache",
        Group.MODEL,
        "Precision",
        "{}",
        short="prec-",
        config_key="precision",
        lists={SWEEP: ["bf16"]},
        choices=("bf16", "fp8", "fp8-kv"),
        default="bf16",
        added=True,
    ),
    Axis("vllm_version", str, "vLLM version as configured", Group.SOFTWARE, "vLLM"),
    Axis(
        "batch",
        int,
        "sequences in the static batch",
        Group.BATCH,
        "Batch",
        short="b",
        config_key="batch",
        lists=dict.fromkeys(_STATIC, REQUIRED),
    ),
    Axis(
        "num_prompts",
        int,
        "requests of an offline or online set; of capacity: those that probes take in turn",
        Group.ARRIVALS,
        "Requests",
        "{} requests",
        short="n",
        config_key="num_prompts",
        lists={**dict.fromkeys(_REQUESTS, REQUIRED), CAPACITY: [1000]},
    ),
    Axis(
        "input_len",
        int,
        "prompt tokens per sequence",
        Group.LENGTHS,
        "Input (tokens)",
        "{} in",
        short="in",
        config_key="input_len",
        lists=dict.fromkeys(_STATIC, REQUIRED) | dict.fromkeys(_REQUESTS, None),
    ),
    Axis(
        "output_len",
        int,
        "generated tokens per sequence",
        Group.LENGTHS,
        "Output (tokens)",
        "{} out",
        short="out",
        config_key="output_len",
        lists=dict.fromkeys(_STATIC, REQUIRED) | dict.fromkeys(_REQUESTS, None),
    ),
    Axis(
        "dataset",
        str,
        "random, sharegpt, lengths or trace",
        Group.TASK,
        "Data set",
        choices=("random", "sharegpt", "lengths", "trace"),
    ),
    Axis(
        "request_rate",
        float,
        "requests/s offered (of a trace: the mean); null: not a rate workload",
        Group.ARRIVALS,
        "Rate (requests/s)",
        "{}/s",
        short="rate",
        config_key="request_rate",
        lists={SERVE: None},  # required but for a trace, which has its own
    ),
    Axis(
        "speed",
        float,
        "how many times faster than recorded a trace's requests arrive; null: no trace",
        Group.ARRIVALS,
        "Speed",
        "trace at {} times its speed",
        short="speed",
        config_key="speed",
        lists={SERVE: None},
        added=True,
    ),
    Axis(
        "prefix_len",
        int,
        "first tokens that prompts share, prefix caching on; null: nothing shared, and off",
        Group.ARRIVALS,
        "Prefix (tokens)",
        "{} shared",
        short="pre",
        config_key="prefix_len",
        lists={SERVE: None},
        added=True,
    ),
    Axis(
        "prefix_share",
        float,
        "of the requests: those that begin with the shared prefix",
        Group.ARRIVALS,
        "Prefix share",
        "by {} of the requests",
        short="share",
        config_key="prefix_share",
        lists={SERVE: None},
        added=True,
    ),
    Axis(
        "max_concurrency",
        int,
        "maximum requests in flight",
        Group.ARRIVALS,
        "Max in flight",
        "at most {} in flight",
        short="conc",
        config_key="max_concurrency",
        lists={SERVE: [None]},
        nullable=True,
    ),
    Axis("run", int, "replicate: each run is a separate engine start", Group.RUN, least=0),
)
"""In the order of the identity columns, which is that of a file name, too."""

BY_NAME = {axis.name: axis for axis in AXES}
LAYOUT = tuple(axis for axis in AXES if axis.group is Group.LAYOUT)
"""The axes that say how one model is spread over GPUs."""
LISTED = tuple(axis for axis in AXES if axis.config_key is not None)
"""The axes that config.yaml has a list of."""
CELL_AXES = tuple(
    axis for axis in LISTED if axis.group in (Group.ARRIVALS, Group.LENGTHS, Group.BATCH)
)
"""Listed axes that one engine can measure all values of."""
ENGINE_AXES = tuple(axis for axis in LISTED if axis not in CELL_AXES)
"""Listed axes of which every value is another engine start."""
FILTERS = tuple(
    axis for axis in AXES if axis in LISTED or axis.name in ("workload", "dataset", "run")
)
"""The axes that ``only`` and ``exclude`` may name."""
RAN = tuple(axis for axis in LAYOUT if axis.ran)
"""Those of which a row also has what the engine says that it runs."""
READ = tuple(axis for group in Group for axis in AXES if axis.group is group and axis.heading)
"""The axes with a column in Markdown tables, in reading order."""


def of_kind(kind: str) -> tuple[Axis, ...]:
    """The axes that a kind of workload lists itself."""
    return tuple(axis for axis in LISTED if kind in axis.lists)


def without_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` of axes (or other fields) by name, less added axes at their default."""
    return {
        name: value
        for name, value in values.items()
        if not ((axis := BY_NAME.get(name)) and axis.added and axis.is_default(value))
    }
