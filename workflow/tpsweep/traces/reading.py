"""From paths to ranks: which reader a file needs, and whether the ranks are all there."""

from __future__ import annotations

import lzma
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tpsweep.core.errors import CaptureError
from tpsweep.core.results_paths import root_of
from tpsweep.core.row_file import read_row
from tpsweep.engine import nsys_tools
from tpsweep.traces import nsys, torch_trace
from tpsweep.traces.events import RankEvents

_ANALYSED = (".sqlite", ".sqlite.xz", ".trace.json", ".trace.json.gz")
_KINDS = (
    "an .nsys-rep or .qdstrm of nsys, its .sqlite export (or .sqlite.xz), or PyTorch traces "
    "(.json, .json.gz)"
)
_NSYS_FORMS = (".sqlite", ".sqlite.xz", ".nsys-rep", ".qdstrm")
"""What nsys leaves of one capture, the form that is read first."""


@contextmanager
def ranks_of(paths: Sequence[Path]) -> Iterator[list[RankEvents]]:
    """All ranks of a capture, in order of rank. A folder stands for the traces in it.

    Files that had to be unpacked or exported live as long as the context. Raises
    ``CaptureError`` for files that are not a capture and for ranks given twice.
    """
    files = [file for path in paths for file in files_of(path)]
    if not files:
        raise CaptureError(f"no capture given; allowed: {_KINDS}")
    files = _once(files)
    with tempfile.TemporaryDirectory(prefix="tpsweep-capture-") as folder:
        ranks: list[RankEvents] = []
        empty: list[CaptureError] = []
        for file in files:
            try:
                ranks += _read(file, Path(folder), len(ranks))
            except torch_trace.EmptyTraceError as error:
                empty.append(error)
        if empty and (not ranks or not all(_is_front_end(str(error)) for error in empty)):
            raise empty[0]
        ranks = _in_one_world(_without_front_end(ranks))
        twice = [str(rank) for rank, n in Counter(r.rank for r in ranks).items() if n > 1]
        if twice:
            raise CaptureError(
                f"rank {', '.join(twice)} is given more than once; pass one trace per rank, "
                "all of one run"
            )
        yield sorted(ranks, key=lambda rank: rank.rank)


_FRONT_END = re.compile(r"async_llm|front_?end", re.IGNORECASE)


def _is_front_end(name: str) -> bool:
    return bool(_FRONT_END.search(name))


def _without_front_end(ranks: list[RankEvents]) -> list[RankEvents]:
    """Without the traces that vLLM's front end leaves beside its ranks': it has no GPU events,
    and says no rank."""
    kept = [rank for rank in ranks if not (_is_front_end(rank.source) and rank.unnumbered)]
    if any(not rank.operators for rank in kept):
        kept = [rank for rank in kept if not (rank.operators and rank.unnumbered)]
    return kept or ranks


def _in_one_world(ranks: list[RankEvents]) -> list[RankEvents]:
    """Ranks of several engines (data parallel) that each count from 0, counted on; their files'
    names say which copy of the model is whose."""
    numbers = Counter(rank.rank for rank in ranks)
    copies = {rank.place.dp for rank in ranks}
    if max(numbers.values(), default=1) == 1 or len(copies) < 2 or None in copies:
        return ranks
    ordered = sorted(ranks, key=lambda rank: (rank.place.dp, rank.rank))
    of = {(rank.place.dp, rank.rank): place for place, rank in enumerate(ordered)}
    if len(of) < len(ranks):
        return ranks
    return [
        replace(rank, rank=place, world=len(ranks), groups=(), peers={})
        for place, rank in enumerate(ordered)
    ]


def files_of(path: Path) -> list[Path]:
    """The files that are analysed of what was given: of a capture cell's row, those that it names.

    Raises ``CaptureError`` for a folder or a row without any.
    """
    if path.suffix == ".parquet":
        return _of_row(path)
    if not path.is_dir():
        return [path]
    traces = sorted(f for f in path.iterdir() if f.name.endswith((".trace.json", ".trace.json.gz")))
    if not traces:
        raise CaptureError(f"{path}: a folder without PyTorch traces (*.pt.trace.json.gz)")
    return traces


def _of_row(path: Path) -> list[Path]:
    try:
        row = read_row(path)
    except ValueError as error:
        raise CaptureError(str(error)) from error
    names = [name for name in row.get("capture_files") or () if name.endswith(_ANALYSED)]
    if not names:
        raise CaptureError(f"{path}: names no capture; allowed: the row of a capture cell")
    root = root_of(path)
    if root is None:
        raise CaptureError(f"{path}: not in a results folder, where its capture would be")
    files = [root / name for name in names]
    for file in files:
        if not file.exists():
            raise CaptureError(
                f"{path}: its capture {file.name} is gone; delete the row to make it again"
            )
    return files


def _once(files: list[Path]) -> list[Path]:
    """``files`` with one form of each nsys capture: a report beside its export counts once."""
    best: dict[Path, int] = {}
    forms = [_form(file) for file in files]
    for stem, form in filter(None, forms):
        best[stem] = min(form, best.get(stem, form))
    return [
        file
        for file, known in zip(files, forms, strict=True)
        if known is None or best[known[0]] == known[1]
    ]


def _form(file: Path) -> tuple[Path, int] | None:
    """The capture's path without suffix and the place in ``_NSYS_FORMS``; None for others."""
    for place, suffix in enumerate(_NSYS_FORMS):
        if file.name.endswith(suffix):
            return file.with_name(file.name.removesuffix(suffix)), place
    return None


def _read(path: Path, folder: Path, first_rank: int) -> list[RankEvents]:
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise CaptureError(f"{path}: {error.strerror}") from error
    if not head:
        raise CaptureError(f"{path}: an empty file; was the disk full when it was written?")
    if head.startswith(b"SQLite format 3\0"):
        return nsys.read(path, first_rank)
    if head.startswith(b"\xfd7zXZ"):
        return _derived(path, _unpacked(path, folder), first_rank)
    if path.name.endswith(".nsys-rep"):
        return _derived(path, _exported(path, folder), first_rank)
    if path.name.endswith(".qdstrm"):
        return _derived(path, _exported(_imported(path, folder), folder), first_rank)
    if head.startswith(b"\x1f\x8b") or head.lstrip().startswith(b"{"):
        return torch_trace.read(path)
    raise CaptureError(f"{path}: not a capture; allowed: {_KINDS}")


def _derived(path: Path, export: Path, first_rank: int) -> list[RankEvents]:
    """The ranks of the export that was made of ``path``; complaints name the file given."""
    try:
        return nsys.read(export, first_rank)
    except CaptureError as error:
        raise CaptureError(str(error).replace(str(export), str(path))) from error


def _unpacked(path: Path, folder: Path) -> Path:
    target = folder / path.name.removesuffix(".xz")
    try:
        with lzma.open(path) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file)
    except (EOFError, lzma.LZMAError) as error:
        raise CaptureError(f"{path}: the xz file is cut short or damaged ({error})") from error
    return target


def _imported(path: Path, folder: Path) -> Path:
    """The stream as a report: nsys leaves a stream where it does not find its importer."""
    target = folder / f"{path.stem}.nsys-rep"
    nsys_tools.import_qdstrm(path, target)
    return target


def _exported(path: Path, folder: Path) -> Path:
    target = folder / f"{path.stem}.sqlite"
    nsys_tools.export_sqlite(path, target)
    return target
