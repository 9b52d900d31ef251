"""What the analysis of captures left for the tables: a report and a picture of each.

The files are those of ``tpsweep comm`` (``tpsweep.traces.report.CommReport``); only what the
tables show is read. Where they are: ``core.results_paths``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
)

from tpsweep.core import results_paths

Size = Annotated[float, Field(ge=0, allow_inf_nan=False, lt=1e12)]
"""A time, a share or a rate: no other number is one."""
Whole = Annotated[int, Field(ge=0)]
PerRank = dict[str, Size]


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class Percentiles(_Read):
    """The tables show only the median of the percentiles."""

    p50: Size


class Counts(_Read):
    """Collectives per step; a list where steps or ranks differ."""

    all_reduce: Whole | list[Whole]
    all_gather: Whole | list[Whole]


class SelfCheck(_Read):
    """Collectives expected and found per step; ``expected`` is None if the model is unknown."""

    expected: Counts | None
    found: Counts
    ok: bool


class Phase(_Read):
    """Medians per step of one phase; every time is None where the self-check failed."""

    steps: Whole
    step_ms: Percentiles | None = None
    transfer_us: Percentiles | None = None
    transfer_lower_us: Percentiles | None = None
    transfer_ms_per_step: Size | None = None
    transfer_fraction_profiled: Size | None = None
    all_gather_ms_per_step: Size | None = None
    compute_ms_per_step: PerRank | None = None
    wait_ms_per_step: PerRank | None = None
    gap_ms_per_step: PerRank | None = None
    experts_ms_per_step: Size | None = None
    pipeline_ms_per_step: Size | None = None
    busbw_gb_s: Size | None = None
    link_share: Size | None = None


class Group(_Read):
    """Whose report it is, of a capture of several groups: ``dp``: which copy of the model,
    ``stage`` of ``stages``: which part of its layers."""

    dp: Whole | None = None
    stage: Whole | None = None
    stages: Whole = 1

    @property
    def label(self) -> str:
        """For a line of a table: ``stage 1 of 2``, ``copy 1, stage 1 of 2``."""
        words = [f"copy {self.dp + 1}"] if self.dp is not None else []
        words += [f"stage {self.stage + 1} of {self.stages}"] if self.stage is not None else []
        return ", ".join(words)


class Communication(_Read):
    """One analysed capture, or the part of it that one group of ranks has."""

    ranks: Whole
    backend: str
    self_check: SelfCheck
    phases: dict[str, Phase]
    warnings: list[str] = []
    steady_from: Whole = 0
    group: Group | None = None
    synthetic: bool = False

    def phase(self, name: str) -> Phase:
        """A phase; one without steps and times if the capture has none of it."""
        return self.phases.get(name) or Phase(steps=0)


class _Groups(_Read):
    groups: Annotated[list[Communication], Field(min_length=1)]


_REPORT: TypeAdapter[Communication | _Groups] = TypeAdapter(
    Annotated[
        Annotated[Communication, Tag("one")] | Annotated[_Groups, Tag("several")],
        Discriminator(
            lambda said: "several" if isinstance(said, dict) and "groups" in said else "one"
        ),
    ]
)


def is_report(path: Path) -> bool:
    """Whether the file is a whole report."""
    try:
        _REPORT.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return False
    return True


def read(results: Path, row: str) -> list[Communication]:
    """The reports on the capture whose row has the place ``row``, one for each group of ranks;
    empty if it was not analysed.

    Raises ``ValueError``, one line, for one that cannot be read.
    """
    path = results / results_paths.capture_report(row)
    try:
        found = _REPORT.validate_json(path.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        first: Any = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][1:]) or "the file"
        raise ValueError(f"{path}: not a report of tpsweep comm: {key}: {first['msg']}") from error
    return found.groups if isinstance(found, _Groups) else [found]
