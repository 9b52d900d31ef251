"""Decode time of a line with its interval, and ratios of two lines with their verdicts.

The statistics are those of ``tpsweep.core.stats``.
"""

from __future__ import annotations

from tpsweep.analysis import starts, verdicts
from tpsweep.analysis.series import Line
from tpsweep.analysis.table import Record
from tpsweep.core import stats
from tpsweep.core.schema import FLOAT, TEXT, Column

DECODE = "tpot_ms_samples"
STARTS_DOC = "null beside an interval between runs; else starts, and a spread known from like lines"


def value_columns(name: str, doc: str) -> tuple[Column, ...]:
    """A value with its interval, whose kind the table's ``interval_kind`` says."""
    return (
        Column(name, FLOAT, f"{doc}: geometric mean of the run medians"),
        Column(f"{name}_lo", FLOAT, verdicts.LEVEL),
        Column(f"{name}_hi", FLOAT, verdicts.LEVEL),
        Column(f"{name}_starts", TEXT, STARTS_DOC),
    )


DECODE_COLUMNS = (
    *value_columns("tpot_ms", "decode time per output token"),
    Column("interval_kind", TEXT, verdicts.KINDS),
)


def ratio_columns(name: str, doc: str, verdict: str = "") -> tuple[Column, ...]:
    """A ratio with what ``stats`` says of it; ``verdict``: the name of that column."""
    return (
        Column(name, FLOAT, doc),
        Column(f"{name}_lo", FLOAT, verdicts.LEVEL),
        Column(f"{name}_hi", FLOAT, verdicts.LEVEL),
        Column(f"{name}_kind", TEXT, verdicts.KINDS),
        Column(verdict or f"{name}_verdict", TEXT, "verdict that the interval supports"),
        Column(f"{name}_starts", TEXT, STARTS_DOC),
    )


def value(line: Line, name: str, samples: str) -> Record:
    """``value_columns`` and ``interval_kind`` (absent without an interval) of a line."""
    side = line.side(samples)
    if not side.runs:
        return dict.fromkeys((name, f"{name}_lo", f"{name}_hi", f"{name}_starts"))
    found = stats.median_of_runs(side)
    return {
        name: found.value,
        f"{name}_lo": found.lo,
        f"{name}_hi": found.hi,
        f"{name}_starts": starts.of_value(side, found.kind, line.kin.spread(samples)),
        **({} if found.lo is None else {"interval_kind": found.kind}),
    }


def decode_time(line: Line) -> Record:
    """``DECODE_COLUMNS`` of a line."""
    return {"interval_kind": None, **value(line, "tpot_ms", DECODE)}


def time_ratio(
    name: str, above: Line | None, below: Line | None, samples: str = DECODE, verdict: str = ""
) -> Record:
    """The time ``samples`` of ``above`` over that of ``below``; nulls if either has none."""
    names = [column.name for column in ratio_columns(name, "", verdict)]
    if not above or not below or not above.side(samples).runs or not below.side(samples).runs:
        return dict.fromkeys(names)
    found = above.ratio_to(below, samples)
    known = ratio_starts(above, below, samples, found)
    values = (found.value, found.lo, found.hi, found.kind, found.verdict, known)
    return dict(zip(names, values, strict=True))


def ratio_starts(above: Line, below: Line, samples: str, found: stats.Speedup) -> str | None:
    """What is known of the spread between starts beside the ratio ``found`` of two lines."""
    if found.kind == stats.BETWEEN:
        return None
    spreads = above.kin.spread(samples), below.kin.spread(samples)
    return starts.of_ratio(above.side(samples), below.side(samples), found.kind, spreads)


def rate_ratio(above: Line, below: Line | None) -> float | None:
    """Output tokens/s of ``above`` over those of ``below``; None if either has none."""
    if below is None or above.output_tok_s is None or not below.output_tok_s:
        return None
    return above.output_tok_s / below.output_tok_s
