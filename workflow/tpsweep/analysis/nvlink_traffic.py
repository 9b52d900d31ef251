"""What goes over NVLink in a latency cell, and how much of it in the decode alone.

NVML counts the bytes of whole repeats, prefill included. Which of them are the decode's follows
from what the ranks exchange: the all-reduces of every token, and the logits of every step. On two
H200s that is what the counters count, to 2 % from batch 16 on (custom all-reduce).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, median

from tpsweep.analysis.table import Record
from tpsweep.core.layout import Layout
from tpsweep.perfmodel import nvlink
from tpsweep.perfmodel.model_shape import DTYPE_BYTES, Shape


@dataclass(frozen=True)
class Traffic:
    """Sent by a GPU, GB/s, mean of the GPUs and median over runs; shares are of the link's peak in
    one direction. None where it is not counted, or the model's shape is not known."""

    gb_s: float | None = None
    share: float | None = None
    decode_gb_s: float | None = None
    decode_share: float | None = None


def traffic(rows: Iterable[Record], shapes: Mapping[str, Shape]) -> Traffic:
    """Of the latency rows of one line, as far as each is known."""
    found = [one for row in rows if (one := _of_row(row, shapes.get(row["model"]))) is not None]
    each = zip(*((t.gb_s, t.share, t.decode_gb_s, t.decode_share) for t in found), strict=True)
    return Traffic(*(_median(values) for values in each))


def decode_part(shape: Shape, dtype: str, input_len: int, output_len: int) -> float:
    """Share of the decode in the bytes that the ranks exchange over one static batch.

    For a ring or two ranks; one-shot all-reduces of more ranks send more in the decode.
    """
    row = DTYPE_BYTES[dtype]
    # Of a vector a rank sends 2 (n - 1) / n in an all-reduce, (n - 1) / n of the logits.
    per_token = 2 * (2 * shape.layers + 1) * shape.hidden * row
    per_step = shape.vocabulary * row
    decode = (output_len - 1) * (per_token + per_step)
    return decode / (decode + input_len * per_token + per_step)


def _of_row(row: Record, shape: Shape | None) -> Traffic | None:
    sent = row["gpu_nvlink_tx_gb_s"]
    if row["tp"] == 1 or sent is None or not len(sent):
        return None
    rate = fmean(sent)
    peak = nvlink.peak_gb_s(row["gpu_link"], row["gpu_card"])
    decode = None
    is_one_stage = Layout.of(row).pp == 1  # stages pass on other things, too
    if (
        shape is not None
        and is_one_stage
        and row["dtype"] in DTYPE_BYTES
        and row["tpot_ms"]
        and row["e2e_ms"]
    ):
        part = decode_part(shape, row["dtype"], row["input_len"], row["output_len"])
        decode = rate * row["e2e_ms"] * part / ((row["output_len"] - 1) * row["tpot_ms"])
    return Traffic(
        rate,
        row["nvlink_share"],
        decode,
        decode / peak if decode is not None and peak else None,
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
