"""docs/explain-tp.md: the explanation of 8B at TP=2, beside what the smoke test measured of it.

python -m tpsweep.plan.explain_page results/smoke > docs/explain-tp.md
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq
from tabulate import tabulate

from tpsweep.analysis.table import Record
from tpsweep.core.workloads import LATENCY
from tpsweep.perfmodel.gpu_specs import card_by_name
from tpsweep.perfmodel.model_folder import read_config
from tpsweep.perfmodel.model_shape import Shape
from tpsweep.perfmodel.step_time import Batch, Expected, decode
from tpsweep.plan.explain import explain
from tpsweep.plan.explain_text import text

MODEL, DTYPE, TP = "llama-3.1-8b", "bfloat16", 2
SHAPE = Path("workflow", "models", f"{MODEL}.json")


def page(results: Path) -> str:
    """The whole page; ``results`` has tables with captures of the model at TP=2."""
    shape = Shape.from_config(read_config(SHAPE))
    return (
        "\n\n".join(
            [
                f"# How TP={TP} splits {MODEL}",
                f"<!-- Made by `python -m tpsweep.plan.explain_page {results}`; edit the code. -->",
                f"Printed by `tpsweep plan --explain {MODEL} --tp {TP}` (any model of a config, any"
                " config.json, any TP that divides it; `--batch`; `--json`).",
                text(MODEL, explain(shape, DTYPE, TP)).strip(),
                _measured(results, shape),
            ]
        )
        + "\n"
    )


def _measured(results: Path, shape: Shape) -> str:
    captures = [
        line
        for line in _read(results, "communication")
        if line["tp"] == TP and line["model"] == MODEL and line["transfer_us"] is not None
    ]
    rows = [_line(shape, line) for line in captures]
    heads = ["batch", "profiler", "all-reduces a step", "bytes of one", "us of one", "ms a step"]
    heads += ["decode ms", "all-reduces / decode", "busbw GB/s", "of the link's peak"]
    table = tabulate(rows, headers=heads, tablefmt="pipe", disable_numparse=True)
    return "\n\n".join(
        [
            "## Beside what was measured",
            f"From `{results}/tables/communication.parquet` (2x H200, NV18, vLLM 0.25.1, custom"
            " all-reduce; time of one: the transfer, without waiting for the other GPU). The bytes"
            " are those of the table above times the batch; all else is measured.",
            table,
            _read_off(captures),
            _terms(results, shape),
        ]
    )


def _line(shape: Shape, line: Record) -> list[object]:
    found = explain(shape, DTYPE, TP, line["batch"])
    size = next(one.bytes for one in found.collectives if one.kind == "all-reduce")
    return [
        line["batch"],
        line["profiler_ran"],
        f"{line['all_reduce_per_step']} (by the table: {found.all_reduces})",
        f"{size:,}",
        f"{line['transfer_us']:.2f}",
        f"{line['transfer_ms']:.3f}",
        f"{line['decode_ms']:.3f}",
        f"{100 * line['transfer_ms'] / line['decode_ms']:.1f} %",
        f"{line['busbw_gb_s']:.1f}",
        f"{100 * line['link_share']:.1f} %",
    ]


def _read_off(captures: list[Record]) -> str:
    small, large = (one(captures, key=lambda line: line["batch"]) for one in (min, max))
    return (
        f"Batch {large['batch']} moves {large['batch'] // small['batch']} times the bytes of batch"
        f" {small['batch']} and takes {large['transfer_us'] / small['transfer_us']:.2f} times as"
        " long: small all-reduces cost latency, not bandwidth."
    )


def _terms(results: Path, shape: Shape) -> str:
    """Why halving the weights does not halve the step."""
    card = card_by_name("NVIDIA H200")
    if card is None:
        raise ValueError("cards.yaml: no NVIDIA H200")
    rows = []
    for line in _read(results, "expected"):
        if line["workload"] != LATENCY:
            continue
        tp, batch = line["tp"], line["batch"]
        run = Batch(tp, batch, line["input_len"], line["output_len"])
        wanted = decode(shape, DTYPE, card, run)
        measured = f"{line['tpot_ms']:.3f}"
        rows.append([batch, tp, *_parts(wanted), f"{wanted.ms:.2f}", measured])
    heads = ["batch", "TP", "weights / TP", "KV / TP", "layers", "step", "communication"]
    table = tabulate(
        rows, headers=[*heads, "sum", "measured"], tablefmt="pipe", disable_numparse=True
    )
    return "\n\n".join(
        [
            "TP divides the arithmetic and the reading of weights and KV cache; the rest stays. The"
            " terms of a decode step in ms ([what to expect](expectation.md): computed, with some"
            " constants fitted),"
            f" beside the decode time that was measured (`{results}/tables/expected.parquet`):",
            table,
        ]
    )


def _parts(wanted: Expected) -> list[str]:
    parts = (wanted.body, wanted.kv, wanted.layers, wanted.step, wanted.communication)
    return [f"{part:.2f}" for part in parts]


def _read(results: Path, name: str) -> list[Record]:
    lines: list[Record] = pq.read_table(results / "tables" / f"{name}.parquet").to_pylist()
    return lines


if __name__ == "__main__":
    sys.stdout.write(page(Path(sys.argv[1])))
