"""The report on a capture: what it holds, whether it agrees with the model, each phase's terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tpsweep.traces import kernels, steps
from tpsweep.traces.collectives import Collectives
from tpsweep.traces.cut_capture import Counts, CutCapture, SelfCheck, read_capture, read_groups
from tpsweep.traces.events import Ints, RankEvents
from tpsweep.traces.groups import Group
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


_SPARSE = {
    "dispatch",
    "combine",
    "reduce_scatter",
    "experts_us",
    "experts_ms_per_step",
    "pipeline_ms_per_step",
}
"""Keys that only captures with expert, pipeline or context parallelism have."""


@dataclass(frozen=True)
class CommReport:
    """What ``tpsweep comm`` prints. ``phases`` has the phases that occur, by name.

    ``steady_from``: how many decode steps after each prefill are of phase ``early``; no figure of
    the decode has them. ``group`` says whose report it is where the capture holds several groups.
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
    group: Group | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; rank numbers are strings. No ``steady_from`` if no step is left out,
        no ``group`` if there is one, no key of a kind of parallelism that it lacks:
        reports on captures that are older than these keys stay as they are."""
        found = asdict(self)
        if not self.steady_from:
            del found["steady_from"]
        if self.group is None:
            del found["group"]
        sparse = [*found["phases"].values(), found["self_check"]["found"]]
        sparse += [found["self_check"]["expected"] or {}]
        for part in sparse:
            for key in _SPARSE & part.keys():
                if part[key] is None:
                    del part[key]
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


def analyse_groups(
    paths: Sequence[Path],
    model: Sizes | None = None,
    decode_ms: float | None = None,
    tp: int | None = None,
) -> list[CommReport]:
    """As ``analyse``, of a capture of any number of groups; ``tp`` as in ``read_groups``."""
    return [report_on(one, decode_ms) for one in read_groups(paths, model, tp)]


def groups_to_dict(reports: Sequence[CommReport]) -> dict[str, Any]:
    """One report as it is; several as ``{"groups": [...]}``."""
    if len(reports) == 1:
        return reports[0].to_dict()
    return {"groups": [report.to_dict() for report in reports]}


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
    warnings += _odd_collectives(kinds, len(ranks), capture.check.found)
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
        group=capture.group if capture.of_several else None,
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
    kinds: Ints = np.concatenate([one.kind for one in found])
    used, counts = np.unique(np.stack([rows, kinds]), axis=1, return_counts=True)
    table = kernels.table().rows
    return [
        Found(
            table[row].pattern,
            kernels.COLLECTIVES[kind],
            table[row].backend,
            table[row].algorithm,
            int(counts[index]),
        )
        for index in np.argsort(-counts, kind="stable")
        for row, kind in [used[:, index].tolist()]
    ]


def _odd_collectives(kinds: list[Found], ranks: int, found: Counts) -> list[str]:
    warnings = [
        f"{kind.count} x {kind.pattern}: a collective whose purpose is not known, counted as "
        "transfer"
        for kind in kinds
        if kind.collective == "other"
    ]
    if ranks > 1 and found.all_reduce == 0:
        others = ", ".join(sorted({kind.collective for kind in kinds})) or "none"
        warnings.append(
            f"no all-reduce found on {ranks} ranks (collectives: {others}): if they are "
            "tensor-parallel without sequence parallelism, their kernel is not in the table"
        )
    return warnings


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
