"""The figures in which two result sets are compared, and the change of one from A to B.

The verdicts are those of ``core.stats`` (measuring rule 8); of served load with too few engine
starts, those of the table ``serving``. Captures have no figures: profiled is not unprofiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tpsweep.analysis import verdicts
from tpsweep.analysis.series import Line
from tpsweep.core import stats
from tpsweep.core.workloads import LATENCY, SERVE, THROUGHPUT


@dataclass(frozen=True)
class Change:
    """One figure of one cell on both sides.

    ``change_pct`` is 100 x (b / a - 1), ``lo`` and ``hi`` its 95 % interval of the kind ``kind``;
    all three are None where there is no interval. ``better``: "lower" or "higher".
    """

    figure: str
    unit: str
    better: str
    a: float
    b: float
    change_pct: float
    change_pct_lo: float | None
    change_pct_hi: float | None
    kind: str | None
    verdict: str


WALL = "e2e_ms_samples"


@dataclass(frozen=True)
class _Figure:
    """``samples``: its raw samples; WALL for a rate, of which a static batch keeps times only."""

    name: str
    unit: str
    column: str
    samples: str
    better: str = "higher"


_RATES = (
    _Figure("output", "tok/s", "output_tok_s", "output_tok_s_samples"),
    _Figure("served", "request/s", "request_s", "request_s_samples"),
)
FIGURES: dict[str, tuple[_Figure, ...]] = {
    # requests/s of a static batch are its tok/s once more, divided by the output length.
    LATENCY: (
        _Figure("decode", "ms/token", "tpot_ms", "tpot_ms_samples", "lower"),
        _Figure("prefill", "ms", "prefill_ms", "prefill_ms_samples", "lower"),
        _Figure("output", "tok/s", "output_tok_s", WALL),
    ),
    THROUGHPUT: _RATES,
    SERVE: (
        _Figure("TTFT p50", "ms", "ttft_p50_ms", "ttft_p50_ms_samples", "lower"),
        _Figure("ITL p50", "ms", "itl_p50_ms", "itl_p50_ms_samples", "lower"),
        *_RATES,
    ),
}
"""By workload. A workload that is not here has cells, but no figures that can be compared."""


def changes(workload: str, a: Line, b: Line) -> Iterator[Change]:
    """From ``a`` to ``b``, every figure of the workload that the measured runs of both have."""
    compare = _served if workload == SERVE else _repeated
    for figure in FIGURES.get(workload, ()):
        found = compare(figure, a, b)
        if found is not None:
            yield found


def _repeated(figure: _Figure, a: Line, b: Line) -> Change | None:
    before, after = _side(figure, a), _side(figure, b)
    if not before.runs or not after.runs:
        return None
    # As a ratio it does not matter that stats.speedup thinks of times.
    ratio = stats.speedup(after, before)
    return _change(figure, (before.centre, after.centre), ratio, ratio.verdict)


def _served(figure: _Figure, a: Line, b: Line) -> Change | None:
    before, after = a.median(figure.column), b.median(figure.column)
    if not before or not after:
        return None
    ratio = stats.speedup(b.rates(figure.column), a.rates(figure.column))
    between = ratio if ratio.kind == stats.BETWEEN else None
    return _change(figure, (before, after), between, verdicts.of_load(figure.column, a, b))


def _side(figure: _Figure, line: Line) -> stats.Side:
    side = line.side(figure.samples)
    if figure.samples != WALL:
        return side
    if len(side.runs) == len(line.measured):
        tokens = line.cells[0]["batch"] * line.cells[0]["output_len"]
        return stats.Side.of([1e3 * tokens / run for run in side.runs], side.nodes)
    return line.rates(figure.column)  # one value per run: an engine start is one sample


def _change(
    figure: _Figure, values: tuple[float, float], ratio: stats.Speedup | None, verdict: str
) -> Change:
    a, b = values
    interval = ratio if ratio is not None and ratio.lo is not None else None
    return Change(
        figure=figure.name,
        unit=figure.unit,
        better=figure.better,
        a=a,
        b=b,
        change_pct=100 * (b / a - 1),
        change_pct_lo=_percent(interval.lo) if interval else None,
        change_pct_hi=_percent(interval.hi) if interval else None,
        kind=interval.kind if interval else None,
        verdict=verdict,
    )


def _percent(ratio: float | None) -> float | None:
    return None if ratio is None else 100 * (ratio - 1)
