"""Cut profiler captures down to what their analysis reads: ``python -m tools.cut_captures PATH...``

A capture holds far more than `tpsweep comm` reads: operators, flows, the host's threads and
environment. Of every file below the paths (`*.trace.json.gz`, `*.sqlite.xz`) the GPU events, the
steps' annotations and the launch that begins each step stay, and the file carries the SHA-256 of
what the profiler wrote. No step goes: each counts in a median.

A capture is replaced only if the cut one gives the same: every event that the readers hand on,
where each step begins, the report (`.comm.json`) and the picture (`.step.svg`), byte by byte. One
that does not is left as it is (exit 1). Captures that are cut already are left alone.

gzip by zopfli, if it is installed (`pip install zopfli`), is an eighth smaller and takes minutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType

from tools import cut_export, cut_trace
from tpsweep.core.atomic import replacing
from tpsweep.core.errors import CaptureError
from tpsweep.traces import reading, report, sidecar, steps, timeline, timeline_svg
from tpsweep.traces.cut_capture import read_groups
from tpsweep.traces.events import Annotation, RankEvents

_CUTTERS: dict[str, ModuleType] = {".trace.json.gz": cut_trace, ".sqlite.xz": cut_export}


@dataclass(frozen=True)
class Events:
    """One rank's events as they are read: (name, start, end, stream) in ns, in order of start.

    ``step_starts``: GPU start (ns) of the first event that each annotated step launched.
    """

    source: str
    rank: int
    world: int | None
    operators: bool
    events: list[tuple[str, int, int, int]]
    annotations: list[Annotation]
    step_starts: list[int]

    @classmethod
    def of(cls, rank: RankEvents) -> Events:
        """A copy of all that the analysis can ask of a rank."""
        columns = (rank.start.tolist(), rank.end.tolist(), rank.stream.tolist())
        names = [rank.names[name] for name in rank.name.tolist()]
        return cls(
            source=rank.source,
            rank=rank.rank,
            world=rank.world,
            operators=rank.operators,
            events=list(zip(names, *columns, strict=True)),
            annotations=rank.annotations,
            step_starts=_step_starts(rank),
        )


@dataclass(frozen=True)
class Analysed:
    """What a capture gives: its events, and report and picture as they are written."""

    ranks: list[Events]
    report: str
    picture: str

    @classmethod
    def of(cls, files: Sequence[Path]) -> Analysed:
        """Read and analyse a capture. Raises ``CaptureError``."""
        with reading.ranks_of(files) as ranks:
            events = [Events.of(rank) for rank in ranks]
        captures = read_groups(files)
        try:
            picture = timeline_svg.draw(timeline.picture_of(captures[0]))
        except CaptureError as error:
            picture = timeline_svg.nothing(str(error))
        said = report.groups_to_dict([report.report_on(capture) for capture in captures])
        return cls(events, json.dumps(said, indent=1), picture)

    def differs_in(self, other: Analysed) -> str | None:
        """The first thing that is not the same; None if all is."""
        for field in fields(self):
            if getattr(self, field.name) != getattr(other, field.name):
                return field.name
        return None


def _step_starts(rank: RankEvents) -> list[int]:
    if not rank.annotations:
        return []
    try:
        return list(steps._first_launches(rank).tolist())
    except CaptureError:  # the last annotated step launched nothing
        return []


def captures(paths: Sequence[Path]) -> list[list[Path]]:
    """The files of each capture below the paths: one profiler's of one sidecar."""
    found: dict[tuple[Path, ModuleType], list[Path]] = defaultdict(list)
    for file in sorted({file for path in paths for file in _files(path)}):
        found[sidecar.place(file), _cutter(file)].append(file)
    return list(found.values())


def _files(path: Path) -> Iterator[Path]:
    files = [path] if path.is_file() else path.rglob("*")
    return (file for file in files if file.name.endswith(tuple(_CUTTERS)))


def cut_capture(files: Sequence[Path]) -> str | None:
    """Cut one capture in place; what the cut one would have changed, or None.

    Raises ``CaptureError`` for one that cannot be analysed.
    """
    whole = Analysed.of(files)
    with tempfile.TemporaryDirectory(prefix="tpsweep-cut-") as folder:
        made = [Path(folder) / file.name for file in files]
        for file, target in zip(files, made, strict=True):
            _cut_file(file, target, whole)
        known = sidecar.place(files[0])
        if known.is_file():
            shutil.copy(known, folder)
        if changed := whole.differs_in(Analysed.of(made)):
            return changed
        for file, target in zip(files, made, strict=True):
            with replacing(file) as temporary:
                shutil.copyfile(target, temporary)
    return None


def _cut_file(file: Path, target: Path, whole: Analysed) -> None:
    if is_cut(file):  # a run before this one ended between two files
        shutil.copyfile(file, target)
        return
    ranks = [rank for rank in whole.ranks if file.name.startswith(rank.source)]
    _cutter(file).cut(file, target, {start for rank in ranks for start in rank.step_starts})


def is_cut(file: Path) -> bool:
    """Whether a file of a capture is one that this program has written."""
    return bool(_cutter(file).is_cut(file))


def _cutter(file: Path) -> ModuleType:
    return next(cutter for suffix, cutter in _CUTTERS.items() if file.name.endswith(suffix))


def main(arguments: Sequence[str] | None = None) -> int:
    """Cut what is below the paths; 0, 1 if a capture was left as it was, 2 for bad usage."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a file or a folder")
    paths = parser.parse_args(arguments).paths
    for path in paths:
        if not path.exists():
            parser.error(f"{path}: not there")
    left = 0
    for files in captures(paths):
        name = sidecar.place(files[0]).stem
        if all(is_cut(file) for file in files):
            print(f"{name}: cut already")
            continue
        before = _bytes(files)
        try:
            changed = cut_capture(files)
        except CaptureError as error:
            changed = str(error)
        if changed:
            left += 1
            print(f"{name}: left as it is: {changed}", file=sys.stderr)
        else:
            print(f"{name}: {before:,} -> {_bytes(files):,} bytes")
    return 1 if left else 0


def _bytes(files: Sequence[Path]) -> int:
    return sum(file.stat().st_size for file in files)


if __name__ == "__main__":
    sys.exit(main())
