"""A capture read, its kernels grouped, cut into steps and matched: what all else begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tpsweep.core.errors import CaptureError
from tpsweep.traces import attribution, collectives, kernels, reading, sidecar, steps
from tpsweep.traces.attribution import Matched, Terms
from tpsweep.traces.collectives import Collectives
from tpsweep.traces.events import (
    RankEvents,
)
from tpsweep.traces.sidecar import Sidecar, Sizes


@dataclass(frozen=True)
class Counts:
    """Collectives per step; a list where steps or ranks differ, all values in it."""

    all_reduce: int | list[int]
    all_gather: int | list[int]


@dataclass(frozen=True)
class SelfCheck:
    """``expected`` is None without a model: then steps and ranks must only be equal."""

    expected: Counts | None
    found: Counts
    ok: bool


@dataclass(frozen=True)
class CutCapture:
    """The ranks that take part, in order, and per rank its classes and collectives.

    ``matched`` is None where the ranks' collectives differ, ``terms`` also where the self-check
    failed: then no time may be taken from the capture.
    """

    ranks: list[RankEvents]
    classes: list[kernels.NameClasses]
    found: list[Collectives]
    steps: steps.Steps
    matched: Matched | None
    terms: Terms | None
    check: SelfCheck
    known: Sidecar
    warnings: list[str]


def read_capture(paths: Sequence[Path], model: Sizes | None = None) -> CutCapture:
    """Read one capture: an nsys export, or one PyTorch trace per rank.

    ``model`` overrides the sidecar's. Raises ``CaptureError``, one line.
    """
    if not paths:
        raise CaptureError("no capture given")
    files = [file for path in paths for file in reading.files_of(path)]
    known = sidecar.find(files[0])
    if model is not None:
        known = replace(known, model=model)
    with reading.ranks_of(files) as ranks:
        return _cut(ranks, known)


def _cut(ranks: list[RankEvents], known: Sidecar) -> CutCapture:
    warnings: list[str] = []
    for rank in ranks:
        if backwards := int((rank.duration < 0).sum()):
            raise CaptureError(
                f"{rank.source}: rank {rank.rank}: {backwards} events end before they begin: a "
                "damaged file; export or capture it again"
            )
    classes = {rank.rank: kernels.classify(rank.names) for rank in ranks}
    found = {rank.rank: collectives.find(rank, classes[rank.rank]) for rank in ranks}
    ranks = _taking_part(ranks, found, warnings)
    groups = [found[rank.rank] for rank in ranks]
    _require_all_ranks(ranks, groups, known)
    cut = steps.cut(ranks, groups, known)
    matched = attribution.match(groups, cut)
    check = _self_check(groups, cut, known, len(ranks))
    if matched is None or not check.ok:
        check = replace(check, ok=False)
        warnings.append(
            "self-check failed: the collectives per step are not what the model has, or differ "
            "between steps or ranks; times are omitted"
        )
    return CutCapture(
        ranks=ranks,
        classes=[classes[rank.rank] for rank in ranks],
        found=groups,
        steps=cut,
        matched=matched,
        terms=attribution.attribute(ranks, groups, cut, matched) if matched and check.ok else None,
        check=check,
        known=known,
        warnings=warnings,
    )


def _taking_part(
    ranks: list[RankEvents], found: dict[int, Collectives], warnings: list[str]
) -> list[RankEvents]:
    """Ranks without those that never communicate while others do (a frontend's CUDA context)."""
    silent = [rank for rank in ranks if not len(found[rank.rank].row)]
    if not silent or len(silent) == len(ranks):
        return ranks
    for rank in silent:
        warnings.append(f"{rank.source}: GPU context {rank.rank} has no collective: left out")
    return [rank for rank in ranks if rank not in silent]


def _require_all_ranks(ranks: list[RankEvents], found: list[Collectives], known: Sidecar) -> None:
    worlds = [rank.world for rank in ranks if rank.world]
    expected = known.tp or (worlds[0] if worlds else None)
    if expected is None and len(ranks) == 1 and len(found[0].row):
        expected = 2
    if expected is not None and len(ranks) != expected:
        least = "at least " if known.tp is None and not worlds else ""
        if len(ranks) > expected:
            raise CaptureError(
                f"{ranks[0].source}: {len(ranks)} of {expected} ranks: more than one capture is "
                "given, or the sidecar has another tp; pass the files of one capture"
            )
        raise CaptureError(
            f"{ranks[0].source}: {len(ranks)} of {least}{expected} ranks; pass the traces of all "
            "ranks, or run nsys with --trace-fork-before-exec=true and "
            "VLLM_WORKER_MULTIPROC_METHOD=spawn"
        )


def _self_check(
    found: list[Collectives], cut: steps.Steps, known: Sidecar, ranks: int
) -> SelfCheck:
    """2L+1 all-reduces (embedding, and o_proj and down_proj of each layer) and 1 all-gather
    (logits) per step at TP > 1, none at TP=1."""
    expected = None
    if ranks == 1:
        expected = Counts(0, 0)
    elif known.model is not None:
        expected = Counts(2 * known.model.layers + 1, 1)
    counts = Counts(_per_step(found, cut, "all_reduce"), _per_step(found, cut, "all_gather"))
    equal = isinstance(counts.all_reduce, int) and isinstance(counts.all_gather, int)
    return SelfCheck(expected, counts, equal if expected is None else counts == expected)


def _per_step(found: list[Collectives], cut: steps.Steps, kind: str) -> int | list[int]:
    count = cut.end.shape[1]
    values: set[int] = set()
    for rank, one in enumerate(found):
        step = cut.of(one.first[one.of(kind)], rank)
        values |= set(np.bincount(step, minlength=count)[:count].tolist())
    return values.pop() if len(values) == 1 else sorted(values)
