"""A capture read, its kernels grouped, cut into steps and matched: what all else begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from tpsweep.core.errors import CaptureError
from tpsweep.traces import attribution, collectives, groups, kernels, reading, sidecar, steps
from tpsweep.traces.attribution import Matched, Terms
from tpsweep.traces.collectives import Collectives
from tpsweep.traces.events import RankEvents
from tpsweep.traces.groups import Group
from tpsweep.traces.sidecar import Sidecar, Sizes


@dataclass(frozen=True)
class Counts:
    """Collectives per step. Of what was found a list holds all values where steps or ranks
    differ; of what is expected, all that are right. Dispatches and combines are None where
    nothing is exchanged between experts, reduce-scatters where no cache is shared (DCP)."""

    all_reduce: int | list[int]
    all_gather: int | list[int]
    dispatch: int | list[int] | None = None
    combine: int | list[int] | None = None
    reduce_scatter: int | list[int] | None = None


@dataclass(frozen=True)
class SelfCheck:
    """``expected`` is None without a model: then steps and ranks must only be equal."""

    expected: Counts | None
    found: Counts
    ok: bool


@dataclass(frozen=True)
class CutCapture:
    """One group's ranks, in order, and per rank its classes and collectives.

    ``matched`` is None where the ranks' collectives differ, ``terms`` also where the self-check
    failed: then no time may be taken from the capture. ``of_several``: other groups are beside it.
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
    group: Group
    of_several: bool = False


def read_capture(paths: Sequence[Path], model: Sizes | None = None) -> CutCapture:
    """Read one capture of one group: an nsys export, or one PyTorch trace per rank.

    ``model`` overrides the sidecar's. Raises ``CaptureError``, one line.
    """
    found = read_groups(paths, model)
    if len(found) > 1:
        raise CaptureError(
            f"{found[0].ranks[0].source}: {len(found)} groups of ranks "
            f"({'; '.join(one.group.label for one in found)}); pass the files of one"
        )
    return found[0]


def read_groups(
    paths: Sequence[Path], model: Sizes | None = None, tp: int | None = None
) -> list[CutCapture]:
    """Read a capture, each of its tensor-parallel groups by itself, in order of their ranks.

    ``tp``: the size of a group, for captures that do not tell. Raises ``CaptureError``.
    """
    if not paths:
        raise CaptureError("no capture given")
    files = [file for path in paths for file in reading.files_of(path)]
    known = sidecar.find(files[0])
    if model is not None:
        known = replace(known, model=model)
    if tp is not None and tp < 1:
        raise CaptureError(f"--tp: {tp}; allowed: 1 or above")
    with reading.ranks_of(files) as ranks:
        return _cut_groups(ranks, known, tp)


def _cut_groups(ranks: list[RankEvents], known: Sidecar, tp: int | None) -> list[CutCapture]:
    warnings: list[str] = []
    for rank in ranks:
        if backwards := int((rank.duration < 0).sum()):
            raise CaptureError(
                f"{rank.source}: rank {rank.rank}: {backwards} events end before they begin: a "
                "damaged file; export or capture it again"
            )
    classes = {rank.rank: kernels.classify(rank.names) for rank in ranks}
    found = {rank.rank: collectives.find(rank, classes[rank.rank]) for rank in ranks}
    _require_inference(ranks, found, known)
    ranks = _taking_part(ranks, found, warnings)
    found = {rank.rank: found[rank.rank] for rank in ranks}
    split, named = groups.split(ranks, found, tp, known)
    if not named:
        _require_all_ranks(ranks, [found[rank.rank] for rank in ranks], known, len(split))
    found = {
        rank.rank: _named_by_order(rank, found[rank.rank], known, len(split) == 1) for rank in ranks
    }
    matched = groups.exchange(split, ranks, found, warnings)
    groups.refuse_other_sizes(split, ranks, found)
    of = {rank.rank: rank for rank in ranks}
    cut = []
    for place, group in enumerate(split):
        mine = [of[number] for number in group.ranks]
        cut.append(
            _cut(
                mine,
                [classes[number] for number in group.ranks],
                [found[number] for number in group.ranks],
                known,
                list(warnings) if not place else [],
                group,
                matched,
            )
        )
    return [replace(one, of_several=len(cut) > 1) for one in cut]


def _cut(
    ranks: list[RankEvents],
    classes: list[kernels.NameClasses],
    found: list[Collectives],
    known: Sidecar,
    warnings: list[str],
    group: Group,
    exchanged: bool,
) -> CutCapture:
    cut = steps.cut(ranks, found, known)
    matched = attribution.match(found, cut)
    check = _self_check(found, cut, known, group)
    if matched is None or not check.ok:
        check = replace(check, ok=False)
        warnings.append(
            "self-check failed: the collectives per step are not what the model has, or differ "
            "between steps or ranks; times are omitted"
        )
    if not exchanged:
        check = replace(check, ok=False)
    if 1 < (known.dcp or 1) < len(group.ranks):
        check = replace(check, ok=False)
        warnings.append(
            f"dcp {known.dcp} of tp {len(group.ranks)}: parts of the ranks share their cache, and "
            "which of them met is not told: times are omitted"
        )
    return CutCapture(
        ranks=ranks,
        classes=classes,
        found=found,
        steps=cut,
        matched=matched,
        terms=attribution.attribute(ranks, found, cut, matched) if matched and check.ok else None,
        check=check,
        known=known,
        warnings=warnings,
        group=group,
    )


def _require_inference(
    ranks: list[RankEvents], found: dict[int, Collectives], known: Sidecar
) -> None:
    """Refuse what is plainly no capture of inference steps: nothing in it is one."""
    if any(rank.annotations for rank in ranks):
        return
    for rank in ranks:
        kernels_of_training = filter(kernels.table().training.search, rank.names)
        if (name := rank.training or next(kernels_of_training, None)) is not None:
            raise CaptureError(
                f"{rank.source}: no inference steps: a capture of training ({name}); pass that of "
                "an inference engine"
            )
    kinds = [one for one in found.values() if len(one.row)]
    reduced = any(one.of("all_reduce", *kernels.EXPERTS).any() for one in kinds)
    if kinds and not reduced and known.output_len is None:
        used = {
            rank.names[int(name)] for rank in ranks for name in np.unique(found[rank.rank].name)
        }
        raise CaptureError(
            f"{ranks[0].source}: no inference steps: no step is annotated, and of collectives "
            f"there is only {', '.join(sorted(used))}; pass a capture of an inference engine, with "
            "its step annotations"
        )


def _named_by_order(rank: RankEvents, one: Collectives, known: Sidecar, alone: bool) -> Collectives:
    """Collectives whose kernel runs any (RCCL), named by their place in the step: all-reduces,
    then the all-gather of the logits. That needs a model (2L+1 all-reduces), or all-reduces that
    have kernels of their own.

    Raises ``CaptureError`` where neither annotations nor order say which is which.
    """
    vague = one.of("generic")
    if not vague.any():
        return one
    count, announced = int(vague.sum()), len(rank.annotations)
    if alone and announced and not len(vague) % announced:
        in_step = len(vague) // announced
        gathers = np.arange(len(vague)) % in_step == in_step - 1
        known_count = known.model is not None and in_step == 2 * known.model.layers + 2
        only_gathers = count == announced and in_step > 1
        if (known_count or only_gathers) and (vague | one.of("all_reduce")).all():
            kind = np.where(vague, kernels.COLLECTIVES.index("all_reduce"), one.kind)
            last = vague & gathers
            if last.sum() == announced:
                kind[last] = kernels.COLLECTIVES.index("all_gather")
                return replace(one, kind=kind)
    name = rank.names[int(one.name[vague][0])]
    raise CaptureError(
        f"{rank.source}: {count} of {len(vague)} collectives run in kernels that do not say "
        f"which they are ({name}); capture them with their annotations (nccl:all_reduce, "
        "record_param_comms: torch profiler, enforce_eager), or use the custom all-reduce; with "
        "--model and step annotations their order tells, too"
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


def _require_all_ranks(
    ranks: list[RankEvents], found: list[Collectives], known: Sidecar, groups: int
) -> None:
    worlds = [rank.world for rank in ranks if rank.world]
    expected = worlds[0] if worlds else None
    if groups == 1:
        expected = known.shards or expected
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
    found: list[Collectives], cut: steps.Steps, known: Sidecar, group: Group
) -> SelfCheck:
    exchanged = any(one.of("dispatch", "combine").any() for one in found)
    shared = (known.dcp or 1) > 1
    counts = Counts(
        _per_step(found, cut, "all_reduce"),
        _per_step(found, cut, "all_gather"),
        _per_step(found, cut, "dispatch") if exchanged else None,
        _per_step(found, cut, "combine") if exchanged else None,
        _per_step(found, cut, "reduce_scatter") if shared else None,
    )
    expected = _expected(known.model, group, exchanged, shared)
    equal = all(isinstance(value, int) for value in asdict(counts).values() if value is not None)
    if expected is None:
        return SelfCheck(expected, counts, equal)
    as_expected = all(
        value == right or (isinstance(right, list) and value in right)
        for value, right in (
            (counts.all_reduce, expected.all_reduce),
            (counts.all_gather, expected.all_gather),
            (counts.reduce_scatter, expected.reduce_scatter),
        )
    )
    return SelfCheck(expected, counts, equal and as_expected)


def _expected(model: Sizes | None, group: Group, exchanged: bool, shared: bool) -> Counts | None:
    """Per step and rank at TP > 1: an all-reduce for the embedding, two for each layer (o_proj and
    down_proj), an all-gather of the logits; none at TP=1.

    With pipeline stages the embedding is in the first, the logits in the last, the layers spread
    over all, and a stage that gets its input in parts gathers them (hidden states and residual).
    Experts that exchange tokens need no all-reduce after them; shared experts may still have one.
    Ranks that share a sequence's cache (``shared``: DCP, grouped attention, vLLM's default
    exchange) gather queries and the sums of their scores in each layer, and scatter the results.
    """
    if len(group.ranks) == 1:
        return Counts(0, 0)
    if model is None:
        return None
    first, last = group.stage in (None, 0), group.stage in (None, group.stages - 1)
    layers = _layers(model.layers, group)
    reduces: list[int] = [2 * layers + first]
    if exchanged:
        dense = min(getattr(model, "dense_layers", 0), layers) if first else 0
        reduces = sorted({layers + dense + first, 2 * layers + first})
    gathers = [int(last)] if first else [int(last), int(last) + 2]
    if exchanged:  # tokens that were cut over TP for the experts are put together again
        gathers += [gathers[0] + layers, gathers[0] + layers - dense]
    if shared:
        gathers = [count + 2 * layers for count in gathers]
    return Counts(
        _one_or_all(reduces),
        _one_or_all(sorted(set(gathers))),
        reduce_scatter=layers if shared else None,
    )


def _layers(layers: int, group: Group) -> int:
    """Layers of a stage, as vLLM spreads them: what is left over goes to the middle stages, from
    the last but one on (``distributed/utils.py``, get_pp_indices)."""
    each, over = divmod(layers, group.stages)
    if group.stage is None or not over:
        return each
    return each + (group.stages - 1 - over <= group.stage < group.stages - 1)


def _one_or_all(values: list[int]) -> int | list[int]:
    return values[0] if len(values) == 1 else values


def _per_step(found: list[Collectives], cut: steps.Steps, kind: str) -> int | list[int]:
    count = cut.end.shape[1]
    values: set[int] = set()
    for rank, one in enumerate(found):
        step = cut.of(one.first[one.of(kind)], rank)
        values |= set(np.bincount(step, minlength=count)[:count].tolist())
    return values.pop() if len(values) == 1 else sorted(values)
