"""Pairs of TPs of a series, and what the tables of pairs say of each."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from tpsweep.analysis.series import HEAD, KEY, Line, Series, dummy_note, other_hosts, unlike
from tpsweep.analysis.table import IDENTITY_VIEWS, SYNTHETIC, Record, View, identity
from tpsweep.core.axes import LAYOUT
from tpsweep.core.manifest import LABELS
from tpsweep.core.schema import INT, TEXT, Column

_OF_SERIES = tuple(c for c in HEAD if c.name in (*KEY, "allreduce_backend"))
PAIR_HEAD = (
    *_OF_SERIES,
    *LABELS,
    Column("tp_from", INT, "the smaller tensor-parallel size of the pair"),
    Column("tp_to", INT, "the larger one"),
)
PAIR_TAIL = (
    Column("note", TEXT, "what else differs between the two sides"),
    SYNTHETIC,
)
_SIZE_VIEWS = (*(axis.heading for axis in LAYOUT), "GPUs")
PAIR_VIEWS = (
    *(view for view in IDENTITY_VIEWS if view.heading not in _SIZE_VIEWS),
    identity("Settings", "settings"),
    View("Pair", lambda record: f"TP={record['tp_from']} to {record['tp_to']}"),
)
PAIR_ORDER = (*(c.name for c in _OF_SERIES if c.name != "batch"), "tp_from", "tp_to", "batch")


def pairs(series: Series) -> Iterator[tuple[Line, Line]]:
    """Every two lines of one engine each, measured or not, that differ in TP; the smaller first."""
    single = [line for line in series.lines if line.layout.is_tp_alone]
    yield from combinations(single, 2)


def identify(series: Series, low: Line, high: Line) -> Record:
    """``PAIR_HEAD`` of a pair."""
    return {
        **dict(zip(KEY, series.key, strict=True)),
        "allreduce_backend": series.backend,
        **series.labels,
        "tp_from": low.tp,
        "tp_to": high.tp,
    }


def differences(low: Line, high: Line) -> list[str]:
    """What beside the TP could explain a difference: software, hosts, dummy weights."""
    # Which all-reduce ran is no difference to a TP of 1, which has none.
    found = [name for name in unlike(low, high) if low.tp > 1 or name != "all-reduce that ran"]
    notes = []
    if low.measured and high.measured and found:
        notes.append(f"unlike: {', '.join(found)}")
    if hosts := other_hosts(low, high):
        notes.append(hosts)
    return [*notes, *dummy_note(low, high)]


def synthetic(*lines: Line) -> bool:
    """Whether a made-up row is among those of ``lines``."""
    return any(line.is_synthetic for line in lines)
