"""What a cluster or host is, and how it names its GPUs, limits and Slurm flags."""

from __future__ import annotations

import string
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from ..expansion import check as check_expansion

CPU = "CPU"
MARGIN_MINUTES = 2
"""Ending processes takes time, and Slurm announces the limit up to a minute and a half early."""

_EXECUTORS = "set by the executor"
_ANSWERS = "changes how sbatch answers, and the executor reads its answer"
OWN_FLAGS = {
    "array": _EXECUTORS,
    "chdir": "jobs run in the workflow's folder",
    "clusters": "the executor follows the jobs of one cluster",
    "cpus-per-task": f"{_EXECUTORS} from cpus_per_gpu and threads",
    "error": _EXECUTORS,
    "job-name": _EXECUTORS,
    "no-requeue": "the default, allowed: requeue: true",
    "nodes": f"{_EXECUTORS} from the resource nodes",
    "ntasks": _EXECUTORS,
    "ntasks-per-node": _EXECUTORS,
    "open-mode": _EXECUTORS,
    "output": _EXECUTORS,
    "parsable": _ANSWERS,
    "quiet": _ANSWERS,
    "signal": _EXECUTORS,
    "test-only": _ANSWERS,
    "time": f"{_EXECUTORS} from runtime and max_minutes",
    "wait": _ANSWERS,
    "wrap": _EXECUTORS,
    "account": "allowed: account_env, the name of the variable that holds it",
}
ONE_LINE = "one line of printable characters without backslash"
BIND = r"^[^,:\x00-\x1f]+(:[^,:\x00-\x1f]+(:(ro|rw))?)?$"
"""Apptainer splits at commas and colons."""
ONLY_SLURM = {
    "account_env",
    "slurm",
    "setup",
    "qos",
    "qos_limits",
    "max_array_size",
    "max_submit",
    "status_seconds",
    "lost_minutes",
    "stuck_minutes",
    "pack_minutes",
}


class SiteError(ValueError):
    """A site file that cannot be used; its text is one line: file, key, value, what is allowed."""


def _as_text(value: Any) -> Any:
    """YAML's plain numbers are meant as text where text is asked for (``OMP_NUM_THREADS: 1``)."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_flag(value: Any) -> Any:
    if isinstance(value, bool | int | float | str):
        return _as_text(value)
    raise ValueError("allowed: text, a number, true (a bare flag) or false (left out)")


def _number(value: Any) -> Any:
    """``true`` is 1 to Python, and would be to pydantic."""
    if isinstance(value, bool):
        raise ValueError("allowed: a number")
    return value


def _one_line(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise ValueError("allowed: one line of printable characters")
    return value


def _expandable(value: str) -> str:
    check_expansion(value)
    return value


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Text = Annotated[str, BeforeValidator(_as_text)]
Number = Annotated[float, BeforeValidator(_number)]
Positive = Annotated[int, Field(ge=1), BeforeValidator(_number)]
FlagName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
Flag = Annotated[bool | str, BeforeValidator(_as_flag)]
Flags = dict[FlagName, Flag]
OneLine = Annotated[str, AfterValidator(_one_line)]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def is_one_line(value: str) -> bool:
    """Sent as it is: a second line would be one of the script, and sbatch drops backslashes."""
    return value.isprintable() and "\\" not in value


def _sendable(flags: Flags) -> Flags:
    """Flags that may be given to sbatch: not those that the executor sets itself."""
    for flag, value in flags.items():
        if flag in OWN_FLAGS:
            raise ValueError(f"{flag}: {OWN_FLAGS[flag]}")
        if isinstance(value, str) and not is_one_line(value):
            raise ValueError(f"{flag}: {value!r}, allowed: {ONE_LINE}")
    return flags


class Container(Model):
    """An Apptainer image, and what of the node can be seen in it: ``path[:where[:ro]]`` each."""

    apptainer: OneLine
    bind: list[Annotated[str, Field(pattern=BIND)]] = []

    @field_validator("apptainer")
    @classmethod
    def _no_option(cls, image: str) -> str:
        if image.startswith("-"):
            raise ValueError("allowed: the path or the address of an image")
        return image


class GpuClass(Model):
    """One class of nodes: the silicon, how many of it a node has, and the Slurm flags for it.

    ``nodes``: the most that one session may span (1: none spans nodes).
    ``memory_gib`` is GiB per GPU, None where unknown (and on a CPU). ``slurm`` values may hold
    ``{n}``, the number of GPUs asked: on each node, of the flag ``gpus`` in all.
    """

    card: str = Field(min_length=1)
    memory_gib: Number | None = Field(default=None, gt=0)
    per_node: Positive
    nodes: Positive = 1
    cpus_per_gpu: Positive = 1
    max_minutes: Positive | None = None
    slurm: Flags = {}
    python: OneLine | None = None
    container: Container | None = None
    packages: OneLine | None = None

    @property
    def most_gpus(self) -> int:
        """The most GPUs that one session may hold."""
        return self.per_node * self.nodes

    @property
    def is_cpu(self) -> bool:
        """No GPU: sessions of this class compute on the processor."""
        return self.card == CPU

    @field_validator("slurm")
    @classmethod
    def _only_n(cls, flags: Flags) -> Flags:
        for flag, value in _sendable(flags).items():
            if isinstance(value, bool):
                continue
            try:
                fields = {part[1:] for part in string.Formatter().parse(value)}
            except ValueError as error:
                raise ValueError(f"{flag}: {value!r}: {error}") from error
            if fields - {("n", "", None), (None, None, None)}:
                raise ValueError(f"{flag}: {value!r}: the only placeholder is {{n}}")
        return flags


class QosLimits(Model):
    """What a QOS allows: minutes of a job, and array elements in the queue at once."""

    max_minutes: Positive | None = None
    max_submit: Positive | None = None


class Site(Model):
    """One cluster or host. Times are minutes; ``parallel`` is sessions at a time.

    On Slurm ``parallel`` throttles each job array. ``max_submit`` is array elements in the queue
    at once; a job that squeue and sacct do not know for ``lost_minutes`` is lost; one that
    is held back for ``stuck_minutes`` by what does not pass by itself is given up (None: never).
    Jobs without ``session`` run one after another in one job of up to ``pack_minutes``.
    ``python``, ``container`` and ``packages`` (a class's own count more) are for workflows that run
    their programs in another environment than Snakemake's; like ``preflight``, the executor leaves
    them alone, and its own runner needs nothing but Snakemake's.
    """

    name: Name
    cluster: Literal["slurm", "local"]
    account_env: Variable | None = None
    slurm: Flags = {}
    qos: Name | None = None
    qos_limits: dict[Name, QosLimits] = {}
    max_array_size: Positive | None = None
    max_submit: Positive | None = None
    status_seconds: Number = Field(default=10, gt=0)
    lost_minutes: Number = Field(default=10, gt=0)
    stuck_minutes: Number | None = Field(default=None, gt=0)
    preflight: bool | None = None
    setup: list[str] = []
    environment: dict[Variable, Annotated[Text, AfterValidator(_expandable)]] = {}
    python: OneLine | None = None
    container: Container | None = None
    packages: OneLine | None = None
    parallel: Positive = 1
    max_minutes: Positive | None = None
    max_cells_per_session: Positive = 200
    pack_minutes: Number = Field(default=10, ge=0)
    gpus: dict[Name, GpuClass] = Field(min_length=1)

    @field_validator("slurm")
    @classmethod
    def _without_n(cls, flags: Flags) -> Flags:
        for flag, value in _sendable(flags).items():
            if isinstance(value, str) and "{n}" in value:
                raise ValueError(f"{flag}: {value!r}, allowed: {{n}} in a class's slurm")
        return flags

    @model_validator(mode="after")
    def _slurm_keys_need_slurm(self) -> Site:
        if self.cluster != "slurm":
            for key in sorted(self.model_fields_set & ONLY_SLURM):
                raise ValueError(f"{key}: only with cluster: slurm")
            for name in (name for name, gpu in self.gpus.items() if gpu.nodes > 1):
                raise ValueError(f"gpus.{name}.nodes: more than 1 only with cluster: slurm")
        if "qos" in self.slurm:
            raise ValueError("slurm.qos: allowed: the site's own key qos")
        if self.qos_limits and self.qos not in self.qos_limits:
            raise ValueError(f"qos: {self.qos!r}, allowed: {', '.join(self.qos_limits)}")
        return self

    def programs_of(self, gpu_type: str) -> GpuClass | Site:
        """Whose ``python``, ``container`` and ``packages`` hold for a class's programs.

        The class's own, if it names an interpreter or a container: else the site's.
        """
        known = self.gpus.get(gpu_type)
        return known if known is not None and (known.python or known.container) else self

    def work_minutes(self, gpu_type: str) -> int | None:
        """What a session may plan with of ``session_minutes``: on Slurm its end takes time too."""
        longest = self.session_minutes(gpu_type)
        if longest is None or self.cluster == "local":
            return longest
        return max(longest - MARGIN_MINUTES, 0)

    def shared_minutes(self, gpu_type: str) -> float:
        """Minutes that jobs without ``session`` may take together in one Slurm job."""
        longest = self.work_minutes(gpu_type)
        return self.pack_minutes if longest is None else min(self.pack_minutes, longest)

    @property
    def cut_sharing(self) -> str:
        """One line if the site asks for more sharing than its time limits leave room for, or ""."""
        most = self.shared_minutes("")
        if "pack_minutes" not in self.model_fields_set or most >= self.pack_minutes:
            return ""
        return (
            f"pack_minutes: {self.pack_minutes:g}, but jobs that share may take {most:g} minutes: "
            f"{self.session_minutes('')} at most, less {MARGIN_MINUTES} for the session's end"
        )

    def with_qos(self, name: str) -> Site:
        """The same site under another QOS; raises ``SiteError`` if it is not one of its own."""
        if name not in self.qos_limits:
            raise SiteError(f"qos: {name!r}, allowed: {', '.join(self.qos_limits) or 'none'}")
        return self.model_copy(update={"qos": name})

    @property
    def _qos(self) -> QosLimits:
        return self.qos_limits.get(self.qos or "", QosLimits())

    def submit_limit(self) -> int | None:
        """Array elements that may be in the queue at once; None: no limit."""
        limits = [n for n in (self.max_submit, self._qos.max_submit) if n is not None]
        return min(limits, default=None)

    def session_minutes(self, gpu_type: str) -> int | None:
        """Longest session on ``gpu_type`` ("" for none), in minutes; None: no limit."""
        own = self.gpus[gpu_type].max_minutes if gpu_type else None
        known = (self.max_minutes, own, self._qos.max_minutes)
        limits = [limit for limit in known if limit is not None]
        return min(limits, default=None)
