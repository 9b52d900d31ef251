"""The report on a capture: what it holds, whether it agrees with the model, each phase's terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tpsweep.traces import kernels, steps
from tpsweep.traces.collectives import Collectives
from tpsweep.traces.cut_capture import CutCapture, SelfCheck, read_capture
from tpsweep.traces.events import Ints, RankEvents
from tpsweep.traces.phases import Phase, summarise
from tpsweep.traces.sidecar import Sizes


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
    """What ``tpsweep comm`` prints. ``phases`` has the phases that occur, by name.

    ``steady_from``: so many decode steps after each prefill are of phase ``early``, in no figure
    of the decode.
    """

    capture: str
    ranks: int
    backend: str
    self_check: SelfCheck
    phases: dict[str, Phase]
    collectives: list[Found]
    unknown: list[Unknown]
    warnings: list[str]
    steady_from: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; rank numbers are strings. No ``steady_from`` if no step is left out:
        reports on captures that are older than the key stay as they are."""
        found = asdict(self)
        if not self.steady_from:
            del found["steady_from"]
        return found

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
    return report_on(read_capture(paths, model), decode_ms)


def report_on(capture: CutCapture, decode_ms: float | None = None) -> CommReport:
    """The report on a capture that has been read."""
    ranks, groups, cut = capture.ranks, capture.found, capture.steps
    unknown = _unknown(ranks, capture.classes, groups)
    warnings = capture.warnings + [
        f"looks like communication but is not in the table, counted as compute: {one.name}"
        for one in unknown
    ]
    names = [str(rank.rank) for rank in ranks]
    phases = {
        phase: summarise(
            phase, names, groups, cut, capture.terms, capture.matched, capture.known, decode_ms
        )
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
        self_check=capture.check,
        phases=phases,
        collectives=kinds,
        unknown=unknown,
        warnings=warnings,
        steady_from=capture.known.steady_from,
    )


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
