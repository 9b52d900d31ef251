"""The report on a capture: what it holds, whether it agrees with the model, each phase's terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tpsweep.capture import attribution, collectives, kernels, reading, sidecar, steps
from tpsweep.capture.collectives import Collectives
from tpsweep.capture.events import CaptureError, Ints, RankEvents
from tpsweep.capture.phases import Phase, summarise
from tpsweep.capture.sidecar import Sidecar, Sizes


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
class Unknown:
    """A kernel that looks like communication and is in no row of the table: counted as compute."""

    name: str
    count: int
    total_us: float


@dataclass(frozen=True)
class Found:
    """A kind of collective that the capture holds, all ranks together."""

    pattern: str
    collective: str
    backend: str
    algorithm: str | None
    count: int


@dataclass(frozen=True)
class CommReport:
    """What ``tpsweep comm`` prints. ``phases`` has the phases that occur, by name."""

    capture: str
    ranks: int
    backend: str
    self_check: SelfCheck
    phases: dict[str, Phase]
    collectives: list[Found]
    unknown: list[Unknown]
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; rank numbers are strings."""
        return asdict(self)

    @property
    def ok(self) -> bool:
        """Nothing wrong found: counts as they should be, the terms' sum right."""
        return self.self_check.ok and all(phase.sum_ok for phase in self.phases.values())


def analyse(
    paths: Sequence[Path], model: Sizes | None = None, decode_ms: float | None = None
) -> CommReport:
    """Analyse one capture: an nsys export, or one PyTorch trace per rank.

    ``model`` overrides the sidecar's; ``decode_ms`` is the decode time per token of the matching
    latency cell, for the share of the unprofiled step. Raises ``CaptureError``, one line.
    """
    if not paths:
        raise CaptureError("no capture given")
    files = [file for path in paths for file in reading.files_of(path)]
    known = sidecar.find(files[0])
    if model is not None:
        known = replace(known, model=model)
    with reading.ranks_of(files) as ranks:
        return _report(ranks, known, decode_ms)


def _report(ranks: list[RankEvents], known: Sidecar, decode_ms: float | None) -> CommReport:
    warnings: list[str] = []
    classes = {rank.rank: kernels.classify(rank.names) for rank in ranks}
    found = {rank.rank: collectives.find(rank, classes[rank.rank]) for rank in ranks}
    ranks = _taking_part(ranks, found, warnings)
    _require_all_ranks(ranks, [found[rank.rank] for rank in ranks], known)
    groups = [found[rank.rank] for rank in ranks]
    cut = steps.cut(ranks, groups, known)
    matched = attribution.match(groups, cut)
    check = _self_check(groups, cut, known, len(ranks))
    if matched is None or not check.ok:
        check = replace(check, ok=False)
        warnings.append(
            "self-check failed: the collectives per step are not what the model has, or differ "
            "between steps or ranks; times are left out"
        )
    terms = attribution.attribute(ranks, groups, cut, matched) if matched and check.ok else None
    unknown = _unknown(ranks, [classes[rank.rank] for rank in ranks], groups)
    warnings += [
        f"looks like communication but is not in the table, counted as compute: {one.name}"
        for one in unknown
    ]
    names = [str(rank.rank) for rank in ranks]
    phases = {
        phase: summarise(phase, names, groups, cut, terms, matched, known, decode_ms)
        for phase in steps.PHASES
        if phase in cut.phase
    }
    warnings += _phase_warnings(phases, cut, groups)
    kinds = _kinds(groups)
    reducing = [kind for kind in kinds if kind.collective == "all_reduce"]
    return CommReport(
        capture=", ".join(dict.fromkeys(rank.source for rank in ranks)),
        ranks=len(ranks),
        backend="+".join(dict.fromkeys(kind.backend for kind in reducing)) or "none",
        self_check=check,
        phases=phases,
        collectives=kinds,
        unknown=unknown,
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
        raise CaptureError(
            f"{ranks[0].source}: {len(ranks)} of {least}{expected} ranks; give the traces of all "
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


def _unknown(
    ranks: list[RankEvents], classes: list[kernels.NameClasses], found: list[Collectives]
) -> list[Unknown]:
    """Candidates of all ranks. What encloses a known collective is its wrapper (an operator
    that calls one), no candidate."""
    totals: dict[str, tuple[int, int]] = {}
    for rank, known, one in zip(ranks, classes, found, strict=True):
        place = np.flatnonzero(known.unknown[rank.name])
        inside = np.searchsorted(one.first, rank.end[place])
        wraps = inside > np.searchsorted(one.first, rank.start[place])
        for index in place[~wraps].tolist():
            name = rank.names[int(rank.name[index])]
            count, total = totals.get(name, (0, 0))
            totals[name] = count + 1, total + int(rank.end[index] - rank.start[index])
    return [
        Unknown(name, count, total / 1e3)
        for name, (count, total) in sorted(totals.items(), key=lambda item: -item[1][1])
    ]


def _kinds(found: list[Collectives]) -> list[Found]:
    rows: Ints = np.concatenate([one.row for one in found])
    used, counts = np.unique(rows, return_counts=True)
    table = kernels.table().rows
    return [
        Found(row.pattern, row.collective, row.backend, row.algorithm, int(counts[index]))
        for index in np.argsort(-counts, kind="stable")
        for row in [table[int(used[index])]]
    ]


def _phase_warnings(
    phases: dict[str, Phase], cut: steps.Steps, found: list[Collectives]
) -> list[str]:
    warnings = []
    if "unknown" in phases:
        warnings.append(
            "phases unknown: no step annotations and no sidecar with the lengths; capture with "
            "NVTX (nsys --trace=cuda,nvtx, profiler_config profiler=cuda)"
        )
    after = sum(int((one.first >= cut.end[r, -1]).sum()) for r, one in enumerate(found))
    if after:
        warnings.append(f"{after} collectives after the last whole step are left out")
    for name, phase in phases.items():
        warnings += [f"{name}: {words}" for words in phase.notes]
        if not phase.sum_ok:
            warnings.append(
                f"{name}: the terms miss a step by {phase.sum_error:.1%}: collectives overlap"
            )
    return warnings
