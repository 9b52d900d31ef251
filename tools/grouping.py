"""An order of events that packs well and reads the same."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def grouped(names: Sequence[Hashable], starts: Sequence[int]) -> list[int]:
    """Places of the events, those of one name together, each group in order of start.

    A packer sees the same text again and again, with a few digits changed. Readers sort by start
    and keep the order of equal starts: events that start together therefore stay together, in
    the order that they have.
    """
    places = sorted(range(len(starts)), key=starts.__getitem__)  # stable
    first_place: dict[Hashable, int] = {}
    group: dict[int, int] = {}
    for before, place in zip([None, *places], places, strict=False):
        if before is not None and starts[before] == starts[place]:
            group[place] = group[before]
        else:
            group[place] = first_place.setdefault(names[place], place)
    return sorted(places, key=group.__getitem__)
