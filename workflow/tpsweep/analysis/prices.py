"""Cost per million output tokens, from the prices of the config: computed, never measured."""

from __future__ import annotations

from collections.abc import Iterable

from tpsweep.analysis.series import Line
from tpsweep.analysis.table import Record, View, digits, figure
from tpsweep.core.schema import FLOAT, Column

PRICE, COST = "gpu_hour_usd", "usd_per_million_output_tok"
COLUMNS = (
    Column(PRICE, FLOAT, "price of a GPU-hour of the node class, USD; null without prices"),
    Column(COST, FLOAT, "gpus x gpu_hour_usd / 3600 / output_tok_s x 1e6; no interval"),
)
_FIGURE = figure(COST)
VIEW = View(
    "Cost (USD per million output tokens)",
    lambda record: _FIGURE(record) if COST in record else "",
    once=True,
)
"""Without prices it is in no table: all lines agree in saying nothing. Of serving: at that load."""
_SECONDS, _MILLION = 3600, 1e6


def cost_of(line: Line, gpus: int, output_tok_s: float | None) -> Record:
    """The values of ``COLUMNS`` for ``gpus`` GPUs of the line's class at this rate together."""
    price = line.gpu_hour_usd
    if price is None or not output_tok_s:
        return {PRICE: price, COST: None}
    return {PRICE: price, COST: gpus * price / _SECONDS / output_tok_s * _MILLION}


def legend(lines: Iterable[Record]) -> tuple[str, ...]:
    """The note below a table that has a cost; empty for one that has none."""
    prices = dict.fromkeys((line["gpu"], line[PRICE]) for line in lines if line[COST] is not None)
    if not prices:
        return ()
    said = ", ".join(f"{gpu} {digits(price)}" for gpu, price in sorted(prices))
    return (
        f"Cost: GPUs x price / output tokens/s, prefill included and all GPUs busy all the time;"
        f" of the config's prices per GPU-hour (USD): {said}. Computed, and without an interval.",
    )
