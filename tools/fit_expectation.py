"""Fits the constants of the expectation on measured rows, and holds it against all of them.

``python -m tools.fit_expectation MEASURED [--published CSV]`` prints the tables of
docs/expectation.md as Markdown. Nothing is fitted on the published figures.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from tabulate import tabulate

from tools.published_expectation import published_table
from tpsweep.core.cell import BF16, FP8_CACHE
from tpsweep.core.layout import Layout
from tpsweep.perfmodel.constants import Constants, constants
from tpsweep.perfmodel.gpu_specs import Card, cards
from tpsweep.perfmodel.mixture import is_known, launch_ms
from tpsweep.perfmodel.model_folder import read_config
from tpsweep.perfmodel.model_shape import Shape
from tpsweep.perfmodel.pipeline import at_once, filled
from tpsweep.perfmodel.step_time import Batch, decode, kv_reads, prefill

DTYPE = "bfloat16"
INPUT_LEN = 512
STEP_TOKENS = 16384
"""``max_num_batched_tokens`` of the rows with stages or experts."""
MODELS = Path(__file__).parents[1] / "workflow" / "models"


@dataclass(frozen=True)
class Measured:
    """A measured static batch; times in ms.

    ``fitted``: decode was fitted on it; ``cache_fitted``: how fast an FP8 cache is read;
    ``experts_fitted``: what a layer with experts takes beyond another; ``launch_fitted``: what the
    host takes in a prefill, under CUDA graphs or with experts and without.
    """

    model: str
    card: Card
    run: Batch
    decode_ms: float
    prefill_ms: float
    fitted: bool
    prefill_fitted: bool
    note: str
    precision: str = BF16
    cache_fitted: bool = False
    experts_fitted: bool = False
    launch_fitted: bool = False

    @property
    def shape(self) -> Shape:
        """The model's shape, in the precision that it ran in."""
        shape = shape_named(self.model)
        return shape if self.precision == BF16 else shape.online_fp8


def shape_named(model: str) -> Shape:
    """The shape of a model that the package brings (workflow/models)."""
    return Shape.from_config(read_config(MODELS / f"{model}.json"))


def read_measured(path: Path) -> list[Measured]:
    """The rows of tests/data/measured.yaml, or of a file like it."""
    data = yaml.safe_load(path.read_text("utf-8"))
    card = cards()[data["card"]]
    return [_measured(row, card) for row in data["rows"]]


def fit(rows: Sequence[Measured], start: Constants) -> Constants:
    """Least squares of the relative error of decode, on the fitted rows under CUDA graphs.

    The time is linear in 1 / share of bandwidth of the cache and in the time per layer; the
    weights' share, communication and the step's own time are given. (A fit of the weights' share,
    too, ends above what a copy reaches: the rows cannot tell it from the time per layer.) Eager
    mode and prefill: from their own rows, by the mean.
    """
    graphs = [row for row in rows if row.fitted and not row.run.eager]
    terms, left = [], []
    for row in graphs:
        bandwidth = row.card.bandwidth_tb_s * 1e9  # bytes per ms
        given = decode(row.shape, DTYPE, row.card, row.run, start)
        terms.append(
            [
                kv_reads(row.shape, DTYPE, row.run) / bandwidth,
                row.shape.layers / 1e3,
            ]
        )
        left.append(row.decode_ms - given.body - given.step - given.communication)
    weights = np.array([1 / row.decode_ms for row in graphs])
    solved = np.linalg.lstsq(np.array(terms) * weights[:, None], np.array(left) * weights)[0]
    eager = [row for row in rows if row.fitted and row.run.eager]
    found = replace(
        start,
        kv_bandwidth_share=float(1 / solved[0]),
        layer_us=float(solved[1]),
        eager_layer_us=_per_layer_us(row for row in eager if row.run.tp > 1),
        eager_layer_tp1_us=_per_layer_us(row for row in eager if row.run.tp == 1),
    )
    found = replace(found, fp8_kv_bandwidth_share=_fp8_cache_share(rows, found))
    found = replace(found, experts_us=_experts_us(rows, found))
    launched = [row for row in rows if row.launch_fitted]
    found = replace(
        found,
        graph_layer_us=_graph_layer_us(row for row in launched if not row.shape.experts),
        launch_us=_launch_us([row for row in launched if row.shape.experts], found),
    )
    return replace(found, prefill_flops_share=_prefill_share(rows, found))


def _fp8_cache_share(rows: Sequence[Measured], known: Constants) -> float:
    """From what is left of its rows when everything else is taken off."""
    shares = []
    for row in rows:
        if row.cache_fitted:
            given = decode(row.shape, DTYPE, row.card, row.run, known)
            left = row.decode_ms - (given.ms - given.kv)
            shares.append(known.fp8_kv_bandwidth_share * given.kv / left)
    return float(np.mean(shares)) if shares else known.fp8_kv_bandwidth_share


def _experts_us(rows: Sequence[Measured], known: Constants) -> float:
    """What is left of its rows when everything else is taken off, per layer with experts."""
    without = replace(known, experts_us=0.0)
    left = [
        (row.decode_ms - decode(row.shape, DTYPE, row.card, row.run, without).ms)
        / row.shape.sparse_layers
        for row in rows
        if row.experts_fitted
    ]
    return float(1e3 * np.mean(left)) if left else known.experts_us


def _graph_layer_us(rows: Iterable[Measured]) -> float:
    return float(np.mean([1e3 * row.prefill_ms / row.shape.layers for row in rows]))


def _launch_us(rows: Sequence[Measured], known: Constants) -> float:
    one = replace(known, launch_us=1.0)
    return float(np.mean([row.prefill_ms / launch_ms(row.shape, row.run.ep, one) for row in rows]))


def _per_layer_us(rows: Iterable[Measured]) -> float:
    return float(np.mean([1e3 * row.decode_ms / row.shape.layers for row in rows]))


def ratio_table(rows: Sequence[Measured]) -> str:
    """Expected over measured, row by row."""
    lines = []
    for row in rows:
        run = row.run
        step = decode(row.shape, DTYPE, row.card, run)
        first = expected_prefill_ms(row)
        lines.append(
            {
                "Model": row.model,
                "Layout": Layout(tp=run.tp, pp=run.pp, ep=run.ep).label,
                "Batch": run.batch,
                "Settings": settings(run, row.precision),
                "Decode measured (ms)": row.decode_ms,
                "expected": f"{step.ms:.2f}",
                "Decode ratio": f"{step.ms / row.decode_ms:.2f}",
                "Prefill measured (ms)": row.prefill_ms,
                "expected ": f"{first:.1f}" if first else "n/a",
                "Prefill ratio": f"{first / row.prefill_ms:.2f}" if first else "n/a",
                "Decode is": (
                    "fitted" if row.fitted or row.cache_fitted or row.experts_fitted else "held out"
                )
                + row.note,
            }
        )
    return tabulate(lines, headers="keys", tablefmt="pipe", disable_numparse=True)


def expected_prefill_ms(row: Measured) -> float | None:
    """What the prefill should take; None where nothing is known."""
    return prefill(row.shape, DTYPE, row.card, row.run).ms if is_known(row.shape) else None


def settings(run: Batch, precision: str = BF16) -> str:
    """All-reduce, mode and precision, in words."""
    backend = "" if run.tp == 1 else run.backend
    words = (backend, "eager" if run.eager else "", "" if precision == BF16 else precision)
    return ", ".join(word for word in words if word)


def _prefill_share(rows: Sequence[Measured], known: Constants) -> float:
    """Share of the peak that makes the mean relative error of the fitted prefills nought."""
    used = [row for row in rows if row.prefill_fitted]
    whole = replace(known, prefill_flops_share=1.0)
    shares = []
    for row in used:
        at_peak = prefill(row.shape, DTYPE, row.card, row.run, whole)
        shares.append(at_peak.body / (row.prefill_ms - (at_peak.ms - at_peak.body)))
    return float(np.mean(shares))


def _measured(row: dict[str, object], card: Card) -> Measured:
    fields = ("tp", "batch", "output_len", "backend", "eager", "pp", "ep")
    precision = str(row.get("precision", BF16))
    run = Batch(
        input_len=INPUT_LEN,
        cache_dtype="fp8" if precision == FP8_CACHE else None,
        **{name: row[name] for name in fields if name in row},  # type: ignore[arg-type]
    )
    note = str(row.get("note", ""))
    return Measured(
        model=str(row["model"]),
        card=card,
        run=_in_steps(run, str(row["model"])),
        decode_ms=float(str(row["decode_ms"])),
        prefill_ms=float(str(row["prefill_ms"])),
        fitted=bool(row.get("fitted")),
        prefill_fitted=bool(row.get("prefill_fitted")),
        note=f" ({note})" if note else "",
        precision=precision,
        cache_fitted=bool(row.get("cache_fitted")),
        experts_fitted=bool(row.get("experts_fitted")),
        launch_fitted=bool(row.get("launch_fitted")),
    )


def _in_steps(run: Batch, model: str) -> Batch:
    """As ``EngineSteps.static`` has it."""
    batch = int(run.batch)
    if run.pp > 1:
        behind = constants().behind_first
        steps = filled(batch, run.input_len, STEP_TOKENS, run.pp, behind)
    elif shape_named(model).experts:
        steps = at_once(batch, run.input_len, STEP_TOKENS)
    else:
        return run
    return replace(run, prompts=steps.prompts, group=steps.group)


def main() -> None:
    """Print the fit and the tables."""
    parser = argparse.ArgumentParser(description="Fit the expectation, hold it against figures.")
    parser.add_argument("measured", type=Path, help="tests/data/measured.yaml, or a file like it")
    parser.add_argument("--published", type=Path, help="CSV: table,model,gpu,gpus,tp,batch,…")
    options = parser.parse_args()
    rows = read_measured(options.measured)
    found, used = asdict(fit(rows, constants())), asdict(constants())
    lines = [(name, f"{found[name]:.4g}", f"{used[name]:.4g}") for name in found]
    print(tabulate(lines, ("Constant", "Fit", "In use"), "pipe", disable_numparse=True))
    print("\n" + ratio_table(rows))
    if options.published:
        print("\n" + published_table(options.published, shape_named))


if __name__ == "__main__":
    main()
