"""A results folder as data frames: what was planned, what was measured, what failed.

Only the cells of the current manifest are read: rows that an older matrix left are not in any
table.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tpsweep.core import capture_report, preflight_record, results_paths, schema
from tpsweep.core.capture_report import Communication
from tpsweep.core.errors import one_line
from tpsweep.core.manifest import NEEDED, SCHEMA
from tpsweep.core.method import FIRST
from tpsweep.core.workloads import CAPTURE
from tpsweep.perfmodel.model_shape import Shape
from tpsweep.results.rows import LONGEST, Read, conform, keep_rows, read_rows

STATUSES = ("planned", "infeasible", "excluded")
_DTYPES = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}


class FailureLine(NamedTuple):
    """Why a planned cell has no row: a failure record's fields (``core.failure.Failure``).

    ``type`` may also be ``unknown``: its record cannot be read.
    """

    cell_id: str
    type: str
    workload: str | None = None
    message: str | None = None
    log: str | None = None
    telling_lines: list[str] | None = None
    when: str | None = None


class ResultsError(Exception):
    """The folder's manifest is missing or unusable; one line for people."""


@dataclass(frozen=True)
class Results:
    """One results folder; every frame has a ``cell_id`` column.

    ``manifest``: the columns of ``core.manifest`` and, per cell, ``state`` (measured, failed or
    missing if planned, else its status), ``failure_type`` and ``reason`` (of the failure or of
    the plan). ``rows``: the schema of ``row``. ``failures``: the fields of ``FailureLine``,
    of planned cells without a row. ``communication``: what the analysis said of the captures, by
    ``cell_id``; those that are not analysed are not in it. ``shapes``: of the models that have a
    measured capture, by name, as far as they can be counted. ``folders``: where all this is from.
    """

    manifest: pd.DataFrame
    rows: pd.DataFrame
    failures: pd.DataFrame
    communication: dict[str, list[Communication]] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()

    def count(self, *states: str) -> int:
        """Cells in any of ``states``."""
        return int(self.manifest["state"].isin(states).sum())

    @property
    def planned(self) -> int:
        """Cells that should have a row."""
        return self.count("measured", "failed", "missing")


def load(results: Path, *, keep: bool = False) -> Results:
    """Read a results folder; with ``keep`` also write its ``rows.parquet``.

    A row that cannot be read counts as a failure of type ``unreadable`` and is named on stderr.
    Raises ``ResultsError`` if the manifest is missing or lacks what every manifest has.
    """
    manifest = _load_manifest(results / results_paths.MANIFEST)
    planned = manifest.loc[manifest["status"] == "planned", ["cell_id", "path", "gpu", "gpus"]]
    read = read_rows(results, dict(zip(planned["cell_id"], planned["path"], strict=True)))
    if keep:
        keep_rows(results, read)
    rows = _to_frame(read.rows.select(schema.SCHEMA.names))
    failures = list(_failures(results, planned, read))
    failed = pd.DataFrame(failures, columns=FailureLine._fields)
    manifest = _with_methods(_with_states(manifest, rows, failed), rows)
    captures = manifest[(manifest["workload"] == CAPTURE) & (manifest["state"] == "measured")]
    communication = _load_communication(results, captures)
    shapes = _load_shapes(results, captures)
    told = _with_experts(manifest, shapes)
    return Results(told, rows, failed, communication, shapes, (results,))


def _failures(results: Path, planned: pd.DataFrame, read: Read) -> Iterator[FailureLine]:
    """Why planned cells have no row, without those that have not run yet."""
    refused = {
        name: f"preflight of {name}: {record.reason}"
        for name, record in failed_preflights(results).items()
    }
    measured = set(read.rows["cell_id"].to_pylist())
    for cell_id, path, gpu, gpus in planned.itertuples(index=False, name=None):
        record = results / results_paths.failure_record(cell_id)
        reason = refused.get(preflight_record.class_name(gpu, gpus))
        if cell_id in measured:
            continue
        if message := read.errors.get(cell_id):
            said = f"unreadable row, counted as failed: {message}; the next run measures it"
            print(f"{results / path}: {said}", file=sys.stderr)
            yield FailureLine(cell_id, "unreadable", message=message)
        elif record.exists():
            yield _read_failure(record, cell_id)
        elif reason is not None:
            yield FailureLine(cell_id, "preflight", message=reason)


def _load_shapes(results: Path, captures: pd.DataFrame) -> dict[str, Shape]:
    """Shapes of models, from what stands beside their captures."""
    found: dict[str, Shape] = {}
    for model, path in zip(captures["model"], captures["path"], strict=True):
        if model in found:
            continue
        try:
            said = json.loads((results / results_paths.capture_sidecar(path)).read_text("utf-8"))
            found[model] = Shape.from_config(said["model"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # an older capture, one from elsewhere, another architecture: not known
    return found


def _load_communication(results: Path, captures: pd.DataFrame) -> dict[str, list[Communication]]:
    """Reports on measured captures; one that cannot be read is named on stderr."""
    found = {}
    for cell_id, path in zip(captures["cell_id"], captures["path"], strict=True):
        try:
            reports = capture_report.read(results, path)
        except ValueError as error:
            print(error, file=sys.stderr)
            continue
        if reports:
            found[cell_id] = reports
    return found


def records(frame: pd.DataFrame, names: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """The frame's lines as dicts of plain Python values; what is absent (NaN, NA) is None."""
    chosen = list(frame.columns if names is None else names)
    columns = []
    for name in chosen:
        values = frame[name].astype(object)
        columns.append(values.where(values.notna(), None).tolist())
    return [dict(zip(chosen, line, strict=True)) for line in zip(*columns, strict=True)]


def _load_manifest(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise ResultsError(f"{path}: no such manifest; a run of the sweep writes it")
    try:
        table = pq.ParquetFile(path).read(use_threads=False)
        frame = _to_frame(conform(table, SCHEMA, sorted(NEEDED)))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ResultsError(
            f"{path}: not a manifest of tpsweep: {one_line(error, LONGEST)}"
        ) from error
    unknown = sorted(set(frame["status"].dropna()) - set(STATUSES))
    if unknown or frame["status"].isna().any():
        found = ", ".join(unknown) or "null"
        raise ResultsError(f"{path}: status {found}, allowed: {', '.join(STATUSES)}")
    if frame["cell_id"].duplicated().any():
        twice = frame.loc[frame["cell_id"].duplicated(), "cell_id"].iloc[0]
        raise ResultsError(f"{path}: cell_id {twice} is in it more than once")
    return frame


def failed_preflights(results: Path) -> dict[str, preflight_record.Record]:
    """The records of classes (``<gpu>x<gpus>``) that failed their last preflight."""
    found = {}
    for path in sorted((results / preflight_record.FOLDER).glob("*.json")):
        try:
            record = preflight_record.Record.read(path)
        except (OSError, ValueError) as error:
            print(
                f"{path}: unreadable preflight record: {one_line(error, LONGEST)}", file=sys.stderr
            )
            continue
        if not record.ok:
            found[record.name] = record
    return found


def _to_frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas(types_mapper=_DTYPES.get)
    return frame


def _read_failure(path: Path, cell_id: str) -> FailureLine:
    try:
        found = json.loads(path.read_text("utf-8"))
        if not isinstance(found, dict) or not isinstance(found.get("type"), str):
            raise ValueError("not a JSON object with a type")
    except (OSError, ValueError) as error:
        print(f"{path}: unreadable failure record: {one_line(error, LONGEST)}", file=sys.stderr)
        return FailureLine(cell_id, "unknown", message="its failure record is unreadable")
    return FailureLine._make([cell_id, *map(found.get, FailureLine._fields[1:])])


def _with_states(
    manifest: pd.DataFrame, rows: pd.DataFrame, failures: pd.DataFrame
) -> pd.DataFrame:
    frame = manifest.copy()
    planned = frame["status"] == "planned"
    frame["state"] = frame["status"].mask(planned, "missing")
    frame.loc[planned & frame["cell_id"].isin(failures["cell_id"]), "state"] = "failed"
    frame.loc[planned & frame["cell_id"].isin(rows["cell_id"]), "state"] = "measured"
    by_id = failures.set_index("cell_id").astype(object)
    failed = frame["state"] == "failed"
    frame["failure_type"] = frame["cell_id"].map(by_id["type"])
    frame["reason"] = frame["reason"].astype(object)
    frame.loc[failed, "reason"] = frame.loc[failed, "cell_id"].map(by_id["message"])
    return frame


def _with_experts(manifest: pd.DataFrame, shapes: dict[str, Shape]) -> pd.DataFrame:
    """An older manifest does not say which models have experts; their captures do."""
    known = {model: shape.experts for model, shape in shapes.items()}
    found = manifest["model"].map(known).astype("Int64")
    return manifest.assign(experts=manifest["experts"].astype("Int64").fillna(found))


def _with_methods(manifest: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Settings end in the method where it is not the first: ``9264345d/m2``.

    Whatever is compared agrees in its settings, and so in how it was measured. A cell without a row
    stands beside the newest rows of its workload and settings.
    """
    by_id = rows.set_index("cell_id")["method"].fillna(FIRST).astype("Int64")
    method = manifest["cell_id"].map(by_id).astype("Int64")
    newest = method.groupby([manifest["workload"], manifest["settings"]]).transform("max")
    method = method.fillna(newest).fillna(FIRST)
    suffix = "/m" + method.astype(str)
    later = (method > FIRST) & manifest["settings"].notna()
    return manifest.assign(
        settings=manifest["settings"].where(~later, manifest["settings"] + suffix)
    )
