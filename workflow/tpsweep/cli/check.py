"""The state of a results folder at any time, also while a sweep writes to it: ``tpsweep check``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tpsweep.cli import check_site
from tpsweep.core import results_paths
from tpsweep.core.errors import one_line
from tpsweep.core.failure import in_words
from tpsweep.core.preflight_record import Record
from tpsweep.results.load import Results, ResultsError, failed_preflights, load, records

STATES = ("measured", "failed", "missing", "infeasible", "excluded")
UNPLANNED = ("infeasible", "excluded")
SHOWN = 10
"""Entries of a list that people see; ``--json`` has all."""


@dataclass(frozen=True)
class Failed:
    """A planned cell without a row, and why; ``path`` is the row's, below the results folder."""

    cell_id: str
    path: str
    type: str
    message: str | None
    log: str | None


@dataclass(frozen=True)
class Unreadable:
    """A file of the results that says nothing: damaged, cut off or of another kind."""

    path: str
    message: str


@dataclass(frozen=True)
class Report:
    """What was found. Paths are below the results folder; ``counts`` has every one of ``STATES``.

    ``preflights``: reason by class (``<gpu>x<gpus>``) of those that failed their last one.
    ``engine_starts``: those that made a row, as on the page; ``engines_started``: all that came up.
    ``reasons``: per status of ``UNPLANNED``, reason -> number of cells. ``stale``: row files that
    the manifest does not plan. ``temporary``: dot-files of writes under way, or cut off.
    """

    results: str
    complete: bool
    planned: int
    counts: dict[str, int]
    preflights: dict[str, str]
    failed: list[Failed]
    reasons: dict[str, dict[str, int]]
    stale: list[str]
    unreadable: list[Unreadable]
    temporary: list[str]
    engine_starts: int
    engines_started: int

    @property
    def good(self) -> bool:
        """Every planned cell has its row, and nothing is unreadable."""
        return self.complete and not self.unreadable


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("results", type=Path, nargs="?", default=Path("results"))
    what.add_argument("--site", type=Path, help="a site.yaml: run its preflights")
    parser.add_argument("--configfile", type=Path, help="with --site: check another sweep's needs")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")


def call(options: argparse.Namespace) -> int:
    """Run the command on its arguments."""
    if options.site is not None:
        return check_site.run(options.site, options.configfile, as_json=options.json)
    if options.configfile is not None:
        print("tpsweep: --configfile: only with --site", file=sys.stderr)
        return 2
    return run(options.results, as_json=options.json)


def run(results: Path, *, as_json: bool) -> int:
    """The command: the report on stdout. 0 if it is good, 1 if not, 2 without a manifest."""
    try:
        report = examine(results)
    except ResultsError as error:
        print(f"tpsweep check: {error}", file=sys.stderr)
        return 2
    print(json.dumps(asdict(report), indent=1) if as_json else "\n".join(_lines(report)))
    return 0 if report.good else 1


def examine(results: Path) -> Report:
    """Read the folder ``results``; raises ``ResultsError`` if it or its manifest is not there."""
    if not results.is_dir():
        raise ResultsError(f"{results}: no such folder; give a results folder: tpsweep check DIR")
    loaded = load(results)
    failed = _failed(loaded)
    rows, temporary = _files(results)
    stale = sorted(rows - set(loaded.manifest.loc[_is_planned(loaded), "path"]))
    return Report(
        results=str(results),
        complete=loaded.count("measured") == loaded.planned,
        planned=loaded.planned,
        counts={state: loaded.count(state) for state in STATES},
        preflights={n: _preflight(record) for n, record in failed_preflights(results).items()},
        failed=failed,
        reasons=_reasons(loaded),
        stale=stale,
        unreadable=[*_unreadable_cells(failed), *_unreadable_rows(results, stale)],
        temporary=sorted(temporary),
        engine_starts=loaded.rows["engine_id"].nunique(),
        engines_started=_lines_in(results / results_paths.ENGINE_STARTS),
    )


def _preflight(record: Record) -> str:
    on = f" on {record.host}" if record.host else ""
    return f"failed{on} at {record.when}: {record.reason}"


def _is_planned(loaded: Results) -> list[bool]:
    return [status == "planned" for status in loaded.manifest["status"]]


def _failed(loaded: Results) -> list[Failed]:
    paths = dict(zip(loaded.manifest["cell_id"], loaded.manifest["path"], strict=True))
    fields = ("cell_id", "type", "message", "log")
    return [
        Failed(path=paths[record["cell_id"]], **record)
        for record in records(loaded.failures, fields)
    ]


def _reasons(loaded: Results) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {status: {} for status in UNPLANNED}
    for record in records(loaded.manifest, ("status", "reason")):
        if record["status"] in found:
            reasons = found[record["status"]]
            reason = record["reason"] or "no reason given"
            reasons[reason] = reasons.get(reason, 0) + 1
    return found


def _files(results: Path) -> tuple[set[str], set[str]]:
    """Row files below ``cells``, and temporary files (``tpsweep.core.atomic``), in one walk."""
    rows, temporary = set(), set()
    for folder, _, names in os.walk(results):
        below = Path(folder).relative_to(results)
        for name in names:
            path = (below / name).as_posix()
            if name.startswith("."):
                if name.endswith(".tmp"):
                    temporary.add(path)
            elif name.endswith(results_paths.ROW_SUFFIX) and below.parts[:1] == (
                results_paths.CELLS,
            ):
                rows.add(path)
    return rows, temporary


def _unreadable_cells(failed: list[Failed]) -> Iterator[Unreadable]:
    """Files of planned cells that ``tpsweep.results.load.load`` could not read."""
    for cell in failed:
        if cell.type == "unreadable":
            yield Unreadable(cell.path, cell.message or "")
        elif cell.type == "unknown":
            yield Unreadable(results_paths.failure_record(cell.cell_id), cell.message or "")


def _unreadable_rows(results: Path, stale: list[str]) -> Iterator[Unreadable]:
    """Stale files that would break ``pandas.read_parquet("results/cells")``."""
    for path in stale:
        try:
            pq.read_metadata(results / path)
        except (pa.ArrowException, OSError) as error:
            yield Unreadable(path, one_line(error))


def _lines_in(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _lines(report: Report) -> Iterator[str]:
    others = [f"{report.counts[s]} {s}" for s in STATES[1:] if report.counts[s]]
    measured = f"{report.counts['measured']}/{report.planned} cells measured"
    yield f"{report.results}: {', '.join([measured, *others])}"
    more = report.engines_started - report.engine_starts
    others_started = f" (and {more} without a row of this matrix)" if more > 0 else ""
    yield f"engine starts: {report.engine_starts}{others_started}"
    refused = [f"{name}: {reason}" for name, reason in report.preflights.items()]
    yield from _section("node classes that failed their preflight", refused)
    failed = [_failed_lines(cell) for cell in report.failed]
    yield from _section("failed cells", failed)
    for status, reasons in report.reasons.items():
        yield from _section(
            f"{status}: reasons", [f"{n} cells: {reason}" for reason, n in reasons.items()]
        )
    yield from _section("stale row files, not planned by the manifest", report.stale)
    unreadable = [f"{file.path}: {file.message}" for file in report.unreadable]
    heading = "unreadable files (without them the next run measures their cells again)"
    yield from _section(heading, unreadable)
    yield from _section("temporary files of writes under way or cut off", report.temporary)


def _failed_lines(cell: Failed) -> str:
    log = f"\n    log: {cell.log}" if cell.log else ""
    return f"{cell.path}\n    {in_words(cell.type, cell.message or 'no message')}{log}"


def _section(heading: str, entries: list[str]) -> Iterator[str]:
    if not entries:
        return
    yield f"{heading} ({len(entries)}):"
    yield from (f"  {entry}" for entry in entries[:SHOWN])
    if len(entries) > SHOWN:
        yield f"  and {len(entries) - SHOWN} more: see --json"
