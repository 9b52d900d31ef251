"""The expectation beside published figures of others, which nothing is fitted on.

Only figures that a static batch has are expected: latency of a batch (or per output token, prefill
included), its output tok/s, and the ITL of a server at low load. Offline throughput and TTFT under
load depend on the request set and on queues.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from tabulate import tabulate

from tpsweep.perfmodel.gpu_specs import Card, cards
from tpsweep.perfmodel.model_shape import Shape
from tpsweep.perfmodel.step_time import Batch, decode, prefill

CARDS = {
    "H100": "NVIDIA H100 80GB HBM3",
    "H200": "NVIDIA H200",
    "A100": "NVIDIA A100 80GB PCIe",
}
INPUT_LEN, OUTPUT_LEN = 512, 64
"""Of the published static batches: the output is stated, the input that of their commands."""
_EXPECTED = ("batch_latency", "per_token_latency", "throughput", "itl_p50")


def published_table(path: Path, shape_of: Callable[[str], Shape]) -> str:
    """Expected over published, figure by figure, as Markdown."""
    lines = []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            figure = expected_figure(row, shape_of)
            value = float(row["value"])
            lines.append(
                {
                    "Table": row["table"],
                    "Model": row["model"],
                    "Card": row["gpu"],
                    "TP": row["tp"],
                    "Batch": row["batch"],
                    "Figure": f"{row['metric']} ({row['unit']})",
                    "Published": row["value"],
                    "Expected": "n/a" if figure is None else f"{figure:.4g}",
                    "Ratio": "n/a" if figure is None else f"{figure / value:.2f}",
                }
            )
    return tabulate(lines, headers="keys", tablefmt="pipe", disable_numparse=True)


def expected_figure(row: dict[str, str], shape_of: Callable[[str], Shape]) -> float | None:
    """What the figure of a line should be, in its own unit; None for what is not expected."""
    metric, batch = row["metric"], row["batch"]
    if metric not in _EXPECTED or (not batch and metric != "itl_p50"):
        return None
    run = Batch(int(row["tp"]), int(batch or 1), INPUT_LEN, OUTPUT_LEN)
    shape, card = shape_of(row["model"]), cards()[CARDS[row["gpu"]]]
    if metric == "itl_p50":
        return decode(shape, "bfloat16", card, run).ms
    whole = _whole_ms(shape, card, run)
    if metric == "throughput":
        return run.batch * run.output_len / whole * 1e3
    return whole if metric == "batch_latency" else whole / run.output_len


def _whole_ms(shape: Shape, card: Card, run: Batch) -> float:
    first = prefill(shape, "bfloat16", card, run).ms
    return first + (run.output_len - 1) * decode(shape, "bfloat16", card, run).ms
