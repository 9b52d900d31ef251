"""What the analysis of captures left for the tables: ``<stem>.comm.json`` and ``<stem>.step.svg``.

The files are those of ``tpsweep comm`` (``tpsweep.capture.report.CommReport``); only what the
tables show is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

REPORT, PICTURE = ".comm.json", ".step.svg"
PerRank = dict[str, float]


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Percentiles(_Read):
    """Of the percentiles the tables show the median."""

    p50: float


class Counts(_Read):
    """Collectives per step; a list where steps or ranks differ."""

    all_reduce: int | list[int]
    all_gather: int | list[int]


class SelfCheck(_Read):
    """``expected`` is None where the model was not known."""

    expected: Counts | None
    found: Counts
    ok: bool


class Phase(_Read):
    """Medians per step of one phase; every time is None where the self-check failed."""

    steps: int
    step_ms: Percentiles | None = None
    transfer_us: Percentiles | None = None
    transfer_lower_us: Percentiles | None = None
    transfer_ms_per_step: float | None = None
    transfer_fraction_profiled: float | None = None
    all_gather_ms_per_step: float | None = None
    compute_ms_per_step: PerRank | None = None
    wait_ms_per_step: PerRank | None = None
    gap_ms_per_step: PerRank | None = None
    busbw_gb_s: float | None = None
    link_share: float | None = None


class Communication(_Read):
    """One analysed capture. ``picture`` is the SVG of a decode step, if there is one."""

    ranks: int
    backend: str
    self_check: SelfCheck
    phases: dict[str, Phase]
    warnings: list[str] = []
    synthetic: bool = False
    picture: Path | None = None

    def phase(self, name: str) -> Phase:
        """A phase; one without steps and times if the capture has none of it."""
        return self.phases.get(name) or Phase(steps=0)


def stem_of(results: Path, cell_path: str) -> Path:
    """A capture's files without their suffixes, from the place of its row below the root."""
    place = cell_path.replace("cells/capture/", "captures/", 1).removesuffix(".parquet")
    return results / place


def read(results: Path, cell_path: str) -> Communication | None:
    """The report on the capture of a row; None if it is not there.

    Raises ``ValueError``, one line, for one that cannot be read.
    """
    stem = stem_of(results, cell_path)
    path, picture = (stem.with_name(stem.name + suffix) for suffix in (REPORT, PICTURE))
    try:
        found = Communication.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        first: Any = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ValueError(f"{path}: not a report of tpsweep comm: {key}: {first['msg']}") from error
    return found.model_copy(update={"picture": picture if picture.is_file() else None})
