"""Which ranks of a capture reduce with one another: its tensor-parallel groups.

Told by, in this order: ``--tp``; the trace's process groups (``distributedInfo.pg_config``); the
ranks that a kernel's arguments name; the names of files or processes (``dp0_pp1_tp0_rank2``);
NCCL's communicators; the sidecar's ``tp`` and ``pp``; the number of GPUs in a kernel's name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tpsweep.core.errors import CaptureError
from tpsweep.traces.attribution import shares_clock
from tpsweep.traces.collectives import Collectives, is_of
from tpsweep.traces.events import Ints, RankEvents
from tpsweep.traces.kernels import COLLECTIVES, EXPERTS
from tpsweep.traces.sidecar import Sidecar

Ranks = tuple[int, ...]

_GPUS_IN_NAME = re.compile(r"cross_device_reduce_\w+<.*?,\s*(?:\(int\)\s*)?(\d+)[,>]")
_OTHER_KINDS = {"dp", "pp", "ep", "dcp", "pcp", "cp", "world", "moe"}


@dataclass(frozen=True)
class Group:
    """Ranks that compute one part of the model together.

    ``dp``: which copy of the model, ``stage`` of ``stages``: which part of its layers; None where
    there is one or it is not known.
    """

    ranks: Ranks
    dp: int | None = None
    stage: int | None = None
    stages: int = 1

    @property
    def label(self) -> str:
        """For a heading: ``dp 1, pp 0, ranks 2 and 3``."""
        words = [f"dp {self.dp}"] if self.dp is not None else []
        words += [f"pp {self.stage}"] if self.stage is not None else []
        numbers = [str(rank) for rank in self.ranks]
        joined = " and ".join(filter(None, (", ".join(numbers[:-1]), numbers[-1])))
        return ", ".join([*words, f"rank{'s' * (len(numbers) > 1)} {joined}"])


def split(
    ranks: Sequence[RankEvents],
    found: Mapping[int, Collectives],
    asked: int | None,
    known: Sidecar,
) -> tuple[list[Group], bool]:
    """The groups in order of their first rank; one of all ranks if nothing tells of several.

    Also whether the trace names the ranks of each, so that none can be missing. Raises
    ``CaptureError`` for ranks that cannot be divided so, or that plainly form groups which nothing
    names.
    """
    present = {rank.rank for rank in ranks}
    members, named = _members(ranks, found, asked, known)
    for rank in ranks:
        if missing := sorted(set(members[rank.rank]) - present):
            group = members[rank.rank]
            raise CaptureError(
                f"{rank.source}: {len(group) - len(missing)} of {len(group)} ranks of the group "
                f"{', '.join(map(str, group))}; pass the traces of all ranks"
            )
    groups = sorted(set(members.values()))
    return _placed([Group(group) for group in groups], ranks, found), named


def _members(
    ranks: Sequence[RankEvents],
    found: Mapping[int, Collectives],
    asked: int | None,
    known: Sidecar,
) -> tuple[dict[int, Ranks], bool]:
    """Group of each rank, and whether the trace names its ranks."""
    numbers: Ranks = tuple(rank.rank for rank in ranks)
    if asked is not None:
        return _blocks(ranks, asked, f"--tp {asked}"), False
    tellers: tuple[tuple[Callable[[RankEvents], Ranks | None], bool], ...] = (
        (_of_config, True),
        (lambda rank: _of_kernels(rank, found[rank.rank]), True),
        (lambda rank: _of_names(rank, ranks), False),
        (lambda rank: _of_communicators(rank, ranks), False),
    )
    for tell, named in tellers:
        if groups := _told(tell, ranks):
            return groups, named
    one_export = len({rank.source for rank in ranks}) == 1
    if known.tp == len(numbers):
        return dict.fromkeys(numbers, numbers), False
    is_whole = one_export or known.shards == len(numbers)
    if known.tp and is_whole and known.tp < len(numbers) and not len(numbers) % known.tp:
        return _blocks(ranks, known.tp, "the sidecar's tp"), False
    sizes = {size for rank in ranks for size in _sizes_in_names(rank, found[rank.rank])}
    if len(sizes) == 1 and (size := sizes.pop()) < len(numbers):
        return _blocks(ranks, size, f"a kernel for {size} GPUs"), False
    if groups := _told(_of_plain_config, ranks):
        return groups, True
    if not any(one.of("all_reduce").any() for one in found.values()) and all(
        one.of(*EXPERTS).any() for one in found.values()
    ):
        return {number: (number,) for number in numbers}, False  # experts alone are spread
    _refuse_plain_groups(ranks, found)
    return dict.fromkeys(numbers, numbers), False


def _told(
    tell: Callable[[RankEvents], Ranks | None], ranks: Sequence[RankEvents]
) -> dict[int, Ranks] | None:
    """Group of each rank, if each has one and they do not overlap."""
    told = {rank.rank: group for rank in ranks if (group := tell(rank)) is not None}
    fine = len(told) == len(ranks) and all(
        rank in group and all(told.get(other, group) == group for other in group)
        for rank, group in told.items()
    )
    return told if fine else None


def _blocks(ranks: Sequence[RankEvents], size: int, why: str) -> dict[int, Ranks]:
    """Neighbours: tensor parallelism is the innermost kind in vLLM, SGLang and TensorRT-LLM."""
    numbers = [rank.rank for rank in ranks]
    if len(numbers) % size:
        raise CaptureError(
            f"{ranks[0].source}: {len(numbers)} ranks cannot be groups of {size} ({why}); pass "
            "the traces of all ranks"
        )
    blocks = [tuple(numbers[at : at + size]) for at in range(0, len(numbers), size)]
    return {rank: block for block in blocks for rank in block}


def _of_kernels(rank: RankEvents, found: Collectives) -> Ranks | None:
    """The ranks that the arguments of its all-reduces name, if all name the same."""
    names = np.unique(found.name[found.of("all_reduce")]).tolist()
    told = {rank.peers.get(name) for name in names}
    return told.pop() if len(told) == 1 else None


def _of_config(rank: RankEvents) -> Ranks | None:
    """The group of the trace whose description says that it is of tensor parallelism."""
    mine = [group for group in rank.groups if group.is_of("tp") and rank.rank in group.ranks]
    pure = [group for group in mine if not any(group.is_of(kind) for kind in _OTHER_KINDS)]
    return max((group.ranks for group in pure), key=len, default=None)


def _of_plain_config(rank: RankEvents) -> Ranks | None:
    """Of groups without description, the smallest of neighbours: that is the innermost kind."""
    if any(group.is_of(kind) for group in rank.groups for kind in ("tp", *_OTHER_KINDS)):
        return None
    neighbours = [
        group.ranks
        for group in rank.groups
        if rank.rank in group.ranks
        and len(group.ranks) > 1
        and group.ranks[-1] - group.ranks[0] == len(group.ranks) - 1
    ]
    return min(neighbours, key=len, default=None)


def _of_names(rank: RankEvents, ranks: Sequence[RankEvents]) -> Ranks | None:
    place = rank.place
    if place.dp is None and place.pp is None:
        return None
    return tuple(
        other.rank for other in ranks if (other.place.dp, other.place.pp) == (place.dp, place.pp)
    )


def _of_communicators(rank: RankEvents, ranks: Sequence[RankEvents]) -> Ranks | None:
    if not rank.communicators:
        return None
    return tuple(other.rank for other in ranks if other.communicators & rank.communicators)


def _sizes_in_names(rank: RankEvents, found: Collectives) -> set[int]:
    names = np.unique(found.name[found.of("all_reduce")]).tolist()
    matches = (_GPUS_IN_NAME.search(rank.names[name]) for name in names)
    return {int(match[1]) for match in matches if match}


def refuse_other_sizes(
    groups: Sequence[Group], ranks: Sequence[RankEvents], found: Mapping[int, Collectives]
) -> None:
    """Refuse a group of another size than all of its all-reduces say that they join: then what
    named it (a description that stands for several kinds, ``--tp``) is of other ranks, and
    differences between ranks that never meet would be waits.

    Raises ``CaptureError``.
    """
    of = {rank.rank: rank for rank in ranks}
    for group in groups:
        for number in group.ranks:
            rank, size = of[number], len(group.ranks)
            names = np.unique(found[number].name[found[number].of("all_reduce")]).tolist()
            joined = {len(peers) for name in names if (peers := rank.peers.get(name))}
            sizes = joined | _sizes_in_names(rank, found[number])
            if sizes and size not in sizes:
                least = min(sizes)
                raise CaptureError(
                    f"{rank.source}: all-reduces join {least} ranks, but the group "
                    f"{', '.join(map(str, group.ranks))} has {size}; pass --tp {least}, and the "
                    "traces of all its ranks"
                )


def _refuse_plain_groups(ranks: Sequence[RankEvents], found: Mapping[int, Collectives]) -> None:
    """All ranks of a group leave a collective together. Where only parts of them do, the capture
    holds several groups: to take them for one would make waits of their differences."""
    if len({rank.source for rank in ranks}) > 1:
        return
    reduces = [_reduces(found[rank.rank]) for rank in ranks]
    if _together(reduces):
        return
    for size in range(len(ranks) // 2, 1, -1):
        if len(ranks) % size:
            continue
        blocks = [reduces[at : at + size] for at in range(0, len(ranks), size)]
        if all(_together(block) for block in blocks):
            raise CaptureError(
                f"{ranks[0].source}: {len(ranks)} ranks that reduce in groups of {size}, not all "
                f"together; pass --tp {size}"
            )


def _reduces(found: Collectives) -> tuple[Ints, Ints]:
    mask = found.of("all_reduce")
    return found.last[mask], found.busy[mask]


def _together(reduces: Sequence[tuple[Ints, Ints]]) -> bool:
    if len({len(last) for last, _ in reduces}) > 1:
        return False
    last, busy = (np.stack([one[place] for one in reduces]) for place in (0, 1))
    return shares_clock(last, busy.min(axis=0))


def _placed(
    groups: list[Group], ranks: Sequence[RankEvents], found: Mapping[int, Collectives]
) -> list[Group]:
    """The groups with their copy of the model and their pipeline stage."""
    of = {rank.rank: rank for rank in ranks}
    if len(groups) == 1 and not any(rank.groups or rank.place.pp is not None for rank in ranks):
        return groups
    placed = [
        replace(
            group,
            dp=_coordinate(of[group.ranks[0]], "dp")[0],
            stage=_coordinate(of[group.ranks[0]], "pp")[0],
            stages=_coordinate(of[group.ranks[0]], "pp")[1],
        )
        for group in groups
    ]
    stages = max(max((g.stage or 0) + 1, g.stages) for g in placed)
    copies = {group.dp for group in placed}
    passing = all(found[g.ranks[0]].of("send_recv").any() for g in placed)
    if stages == 1 and copies == {None} and len(placed) > 1 and passing:
        # Nothing says where a group stands, but all pass something on: stages in order.
        return [replace(g, stage=at, stages=len(placed)) for at, g in enumerate(placed)]
    if stages == 1 and copies == {None} and len(placed) > 1:
        return [replace(group, dp=at) for at, group in enumerate(placed)]
    one_copy = len(copies) == 1
    return [
        replace(
            group,
            dp=None if one_copy else group.dp,
            stage=group.stage if stages > 1 else None,
            stages=stages,
        )
        for group in placed
    ]


def _coordinate(rank: RankEvents, kind: str) -> tuple[int | None, int]:
    """Place and size along ``dp`` or ``pp``: by the file's name, else by the trace's groups."""
    named: int | None = getattr(rank.place, kind)
    mine = [g.ranks for g in rank.groups if g.is_of(kind) and rank.rank in g.ranks]
    group = max(mine, key=len, default=())
    if named is None and len(group) > 1:
        named = group.index(rank.rank)
    return named, max(len(group), 1)


def exchange(
    groups: Sequence[Group],
    ranks: Sequence[RankEvents],
    found: dict[int, Collectives],
    warnings: list[str],
) -> bool:
    """Mark what stages pass on and what moves tokens between experts, and how long the latter
    takes where it joins ranks of several groups: the shortest of all of them. Changes ``found``.

    False if the ranks' exchanges cannot be matched: then no time may be taken from them.
    """
    of = {rank.rank: rank for rank in ranks}
    home = {rank: group for group in groups for rank in group.ranks}
    for number, one in found.items():
        found[number] = replace(one, kind=_as_passed(one, of[number], home))
    copies = len({group.stage for group in groups}) < len(groups)
    for number, one in found.items():
        found[number] = replace(one, kind=_as_experts(one, of[number], home[number], copies))
    joined: dict[Ranks, list[int]] = defaultdict(list)
    for number, one in found.items():
        if one.of(*EXPERTS).any():
            joined[_experts_of(of[number], one, home, groups)].append(number)
    fine = True
    for group, members in joined.items():
        if missing := sorted(set(group) - set(found)):
            warnings.append(
                f"ranks {', '.join(map(str, missing))} are not given: dispatch and combine may "
                "contain waits for them"
            )
        if set(members) == set(home[members[0]].ranks):
            continue  # matched within the group, like everything else
        masks = [found[number].of(*EXPERTS) for number in members]
        kinds = [found[n].kind[mask] for n, mask in zip(members, masks, strict=True)]
        if any(not np.array_equal(kinds[0], other) for other in kinds[1:]):
            fine = False
            warnings.append(
                f"ranks {', '.join(map(str, members))} differ in their dispatches and combines: "
                "times are omitted; capture the same steps on all of them"
            )
            continue
        shortest = np.min(
            [found[n].busy[mask] for n, mask in zip(members, masks, strict=True)], axis=0
        )
        for number, mask in zip(members, masks, strict=True):
            least = found[number].least.copy()
            least[mask] = shortest
            found[number] = replace(found[number], least=least)
    return fine


def _as_passed(one: Collectives, rank: RankEvents, home: Mapping[int, Group]) -> Ints:
    """Kinds with what joins several stages of a pipeline named so: the last stage tells the first
    which tokens it chose by a broadcast."""
    kind = one.kind.copy()
    for at in np.flatnonzero(one.of("other")):
        joined = rank.peers.get(int(one.name[at]), ())
        if len({home[peer].stage for peer in joined if peer in home}) > 1:
            kind[at] = COLLECTIVES.index("send_recv")
    return kind


def _as_experts(one: Collectives, rank: RankEvents, home: Group, copies: bool) -> Ints:
    """Kinds with the all-gathers and reduce-scatters of an expert exchange named so.

    Told by the ranks that they join, else by order: between copies of the model nothing but an
    exchange scatters, and what is gathered just before it is its dispatch.
    """
    if not rank.peers and not copies:
        return one.kind
    kind = one.kind.copy()
    joins = [rank.peers.get(int(name)) for name in one.name.tolist()]
    gathers, scatters = is_of(kind, "all_gather", "other"), is_of(kind, "reduce_scatter")
    dispatch, combine, sizes = map(COLLECTIVES.index, ("dispatch", "combine", "exchange"))
    before: list[int] = []
    for at in np.flatnonzero(is_of(kind, "all_gather", "other", "reduce_scatter", "all_reduce")):
        joined = joins[at]
        if joined is not None:
            if joined != home.ranks and len(joined) > 1 and _expert_wide(rank, joined):
                # What is reduced over other ranks is how many tokens each copy brings.
                kind[at] = combine if scatters[at] else dispatch if gathers[at] else sizes
        elif gathers[at]:
            before.append(int(at))
            continue
        elif scatters[at] and copies:
            kind[at] = combine
            kind[before] = dispatch
        before = []
    return kind


def _expert_wide(rank: RankEvents, joined: Ranks) -> bool:
    """Whether a group of ranks is not that of a pipeline, or of a cache that they share."""
    of_others = [group for group in rank.groups if group.is_of("pp") or group.is_of("dcp")]
    return not any(group.ranks == joined for group in of_others)


def _experts_of(
    rank: RankEvents, one: Collectives, home: Mapping[int, Group], groups: Sequence[Group]
) -> Ranks:
    """The ranks among which a rank's experts are spread: as said, else all of its stage."""
    names = np.unique(one.name[one.of(*EXPERTS)]).tolist()
    told = {rank.peers.get(name) for name in names} - {None}
    if len(told) == 1 and (joined := told.pop()) is not None:
        return joined
    named = [g.ranks for g in rank.groups if g.is_of("ep") and rank.rank in g.ranks]
    if named:
        return max(named, key=len)
    stage = home[rank.rank].stage
    return tuple(sorted(r for group in groups if group.stage == stage for r in group.ranks))
