"""Decode time of a line with its interval, and ratios of two lines with their verdicts.

The statistics are those of ``tpsweep.core.stats``.
"""

from __future__ import annotations

from tpsweep.analysis import verdicts
from tpsweep.analysis.series import Line
from tpsweep.analysis.table import Record
from tpsweep.core import stats
from tpsweep.core.schema import FLOAT, TEXT, Column

DECODE = "tpot_ms_samples"
DECODE_COLUMNS = (
    Column("tpot_ms", FLOAT, "decode time per output token: median of the run medians"),
    Column("tpot_ms_lo", FLOAT, "95 % interval of the kind interval_kind"),
    Column("tpot_ms_hi", FLOAT, "95 % interval of the kind interval_kind"),
    Column("interval_kind", TEXT, verdicts.KINDS),
)


def ratio_columns(name: str, doc: str, verdict: str = "") -> tuple[Column, ...]:
    """A ratio with what ``stats`` says of it; ``verdict``: the name of that column."""
    return (
        Column(name, FLOAT, doc),
        Column(f"{name}_lo", FLOAT, "95 % interval"),
        Column(f"{name}_hi", FLOAT, "95 % interval"),
        Column(f"{name}_kind", TEXT, verdicts.KINDS),
        Column(verdict or f"{name}_verdict", TEXT, "verdict that the interval supports"),
    )


def decode_time(line: Line) -> Record:
    """``tpot_ms`` with its interval and the interval's kind."""
    if not line.runs(DECODE):
        return dict.fromkeys(("tpot_ms", "tpot_ms_lo", "tpot_ms_hi", "interval_kind"))
    found = stats.median_of_runs(line.side(DECODE))
    kind = None if found.lo is None else found.kind
    return {
        "tpot_ms": found.value,
        "tpot_ms_lo": found.lo,
        "tpot_ms_hi": found.hi,
        "interval_kind": kind,
    }


def time_ratio(
    name: str, above: Line | None, below: Line | None, samples: str = DECODE, verdict: str = ""
) -> Record:
    """The time ``samples`` of ``above`` over that of ``below``; nulls if either has none."""
    names = [column.name for column in ratio_columns(name, "", verdict)]
    if not above or not below or not above.runs(samples) or not below.runs(samples):
        return dict.fromkeys(names)
    found = above.ratio_to(below, samples)
    values = (found.value, found.lo, found.hi, found.kind, found.verdict)
    return dict(zip(names, values, strict=True))


def rate_ratio(above: Line, below: Line | None) -> float | None:
    """Output tokens/s of ``above`` over those of ``below``; None if either has none."""
    if below is None or above.output_tok_s is None or not below.output_tok_s:
        return None
    return above.output_tok_s / below.output_tok_s
