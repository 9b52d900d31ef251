"""The same quantity with two values."""

from __future__ import annotations

from tpsweep.lab.reference.checks.finding import Finding, grouped, where
from tpsweep.lab.reference.figure import Figure, Place
from tpsweep.lab.reference.reading import Reference

BEYOND = 0.01
"""Relative difference from which on two values are not one that was rounded or measured again."""


def two_values(reference: Reference) -> list[Finding]:
    """One metric in one setting, printed with values further apart than rounding and ``BEYOND``."""
    found = []
    for figures in grouped(reference.figures, _quantity).values():
        low = min(figures, key=lambda one: one.value)
        high = max(figures, key=lambda one: one.value)
        apart = high.value - low.value
        if apart > max(low.half_unit + high.half_unit, BEYOND * high.value):
            tables = " and ".join(dict.fromkeys((high.table, low.table)))
            says = (
                f"{where(low)}, TP={low.tp}: {low.metric} is {high.value:g} and {low.value:g}"
                f" {low.unit} ({100 * apart / low.value:.0f} % apart) in {tables}, with nothing"
                " stated that differs."
            )
            found.append(Finding("two-values", says, tuple(figures)))
    return found


def _quantity(figure: Figure) -> Place:
    return (figure.metric, figure.output_len, *figure.setting)
