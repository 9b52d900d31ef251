"""Fits the constants of the expectation of serving, and holds it against all published rows.

``python -m tools.serving_expectation`` prints the tables of docs/expectation.md as Markdown.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tabulate import tabulate

from tools.fit_expectation import shape_named
from tpsweep.analysis.recommend.evidence import engine_of
from tpsweep.core import saturation
from tpsweep.core.layout import Layout
from tpsweep.core.row_file import read_row
from tpsweep.core.workloads import SERVE, THROUGHPUT
from tpsweep.perfmodel.constants import ServingConstants, serving_constants
from tpsweep.perfmodel.engine_steps import EngineSteps
from tpsweep.perfmodel.serving import ServedLoad, Serving

ROOT = Path(__file__).parents[1]
SOURCES = {
    "smoke": ROOT / "results/smoke",
    "published": ROOT / "results/published/h200x2",
    "one-engine": ROOT / "tests/data/published/h200x2-one-engine.tar.xz",
    "layouts": ROOT / "results/published/h200x2-layouts",
}
"""Results folders, or one in an archive."""
UP_TO = 0.9
"""Of the expected capacity: where TPOT is held against rows."""
ROUNDS = 24


@dataclass(frozen=True)
class Row:
    """A measured row of served requests, or of a request set without a server."""

    source: str
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """``smoke TP=1 16/s run 0``."""
        found = self.values
        rate = f"{found['request_rate']:g}/s" if self.is_served else "offline"
        return f"{self.source} {Layout.of(found).label} {rate} run {found['run']}"

    @property
    def is_served(self) -> bool:
        """Over HTTP, at a rate."""
        return bool(self.values["workload"] == SERVE)

    @property
    def is_saturated(self) -> bool:
        """It shows a capacity."""
        return not self.is_served or saturation.judge_row(self.values) == saturation.YES

    @property
    def fitted(self) -> str:
        """The constant that was fitted on it; "" if it is held out."""
        found = self.values
        key = (self.source, found["tp"], found["request_rate"])
        return {
            ("one-engine", 1, 16.0): "prompt_layer_us",
            ("smoke", 1, 4.0): "http_ms",
            ("smoke", 2, 4.0): "http_ms",
            ("smoke", 2, 128.0): "server_tok_s",
        }.get(key, "")

    def serving(self, known: ServingConstants) -> Serving:
        """The expectation of its engine."""
        steps = EngineSteps.of(engine_of(self.values), shape_named(self.values["model"]))
        lengths = self.values["input_len"], self.values["output_len"]
        return Serving(steps, *lengths, known)

    def expected(self, known: ServingConstants) -> ServedLoad | None:
        """At its rate; None at or above capacity."""
        return self.serving(known).at(self.values["request_rate"])

    def share(self, known: ServingConstants) -> float:
        """Its rate over the expected capacity."""
        return float(self.values["request_rate"] / self.serving(known).capacity)

    def capacity(self, known: ServingConstants) -> float:
        """Of a saturated row: what was expected of it."""
        serving = self.serving(known)
        return serving.capacity if self.is_served else serving.engines_capacity


def published() -> list[Row]:
    """All published rows of served requests and request sets."""
    with tempfile.TemporaryDirectory() as folder:
        sources = dict(SOURCES)
        for name, file in SOURCES.items():
            if file.is_dir():
                continue
            with tarfile.open(file) as archive:
                kinds = (f"/{SERVE}/", f"/{THROUGHPUT}/")
                wanted = [m for m in archive if any(kind in m.name for kind in kinds)]
                archive.extractall(Path(folder, name), wanted, filter="data")
            sources[name] = Path(folder, name)
        rows = [Row(name, row) for name, path in sources.items() for row in _read(path)]
    return sorted(rows, key=lambda row: (row.values["tp"], row.values["request_rate"] or 1e9))


def _read(folder: Path) -> Iterator[Mapping[str, Any]]:
    for kind in (SERVE, THROUGHPUT):
        for path in sorted(folder.rglob(f"{kind}/**/*.parquet")):
            row = read_row(path)
            # By the older rule, which told too much: judged again, by the samples.
            yield row | ({"saturated": None} if isinstance(row.get("saturated"), bool) else {})


def fit(rows: Sequence[Row], start: ServingConstants) -> ServingConstants:
    """From the fitted rows alone: the server's rate as it is, the others by their mean."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row.fitted, []).append(row)
    served = by_name["server_tok_s"]
    rates = [row.values["request_s"] * row.values["output_len"] for row in served]
    found = replace(start, server_tok_s=sum(rates) / len(rates))
    found = _solve(found, "prompt_layer_us", "tpot_p50_ms", by_name["prompt_layer_us"], 500.0)
    return _solve(found, "http_ms", "ttft_p50_ms", by_name["http_ms"], 100.0)


def _solve(
    known: ServingConstants, name: str, column: str, rows: Iterable[Row], most: float
) -> ServingConstants:
    """``known`` with the value of a constant at which the mean of expected / measured is 1."""
    used = list(rows)
    low, high = 0.0, most
    for _ in range(ROUNDS):
        tried = replace(known, **{name: (low + high) / 2})
        ratios = [_ratio(row, column, tried) or 2.0 for row in used]
        if sum(ratios) < len(ratios):
            low = (low + high) / 2
        else:
            high = (low + high) / 2
    return replace(known, **{name: low})


def _ratio(row: Row, column: str, known: ServingConstants) -> float | None:
    load, measured = row.expected(known), row.values[column]
    return None if load is None or not measured else load.percentiles[column] / measured


def ratio_table(rows: Sequence[Row], known: ServingConstants) -> str:
    """Expected over measured, row by row, of rows that do not saturate."""
    lines = []
    for row in rows:
        load = None if row.is_saturated else row.expected(known)
        if load is None:
            continue
        found = row.values
        shown = {
            "Row": row.name,
            "Of capacity": f"{row.share(known):.2f}",
            "Running": f"{load.running:.0f}",
            "HTTP server": f"{load.server_share:.2f}",
            "Tokens a chunk": f"{found['tokens_per_chunk'] or 1:.2f}",
        }
        for column in ("tpot_p50_ms", "tpot_p99_ms", "ttft_p50_ms", "ttft_p99_ms"):
            metric, percentile, _ = column.split("_")
            title = f"{metric.upper()} {percentile}"
            measured = found[column]
            shown[f"{title} (ms)"] = "n/a" if measured is None else f"{measured:.2f}"
            ratio = _ratio(row, column, known)
            shown[f"{title} ratio"] = "n/a" if ratio is None else f"{ratio:.2f}"
        lines.append(shown | {"Row is": (row.fitted and f"fitted: {row.fitted}") or "held out"})
    return tabulate(lines, headers="keys", tablefmt="pipe", disable_numparse=True)


def capacity_table(rows: Sequence[Row], known: ServingConstants) -> str:
    """Expected capacity over what saturated rows served, and request sets without a server."""
    lines = [
        {
            "Row": row.name,
            "Served (requests/s)": f"{row.values['request_s']:.1f}",
            "Expected": f"{row.capacity(known):.1f}",
            "Ratio": f"{row.capacity(known) / row.values['request_s']:.2f}",
            "Limited by": row.serving(known).limited_by if row.is_served else "the engine",
            "Row is": (row.fitted and f"fitted: {row.fitted}") or "held out",
        }
        for row in rows
        if row.is_saturated
    ]
    return tabulate(lines, headers="keys", tablefmt="pipe", disable_numparse=True)


def main() -> None:
    """Print the fit and the tables."""
    rows, known = published(), serving_constants()
    print(fit(rows, known), known, sep="\n")
    print("\n" + ratio_table(rows, known))
    print("\n" + capacity_table(rows, known))


if __name__ == "__main__":
    main()
