"""How fast the hardware could be at best: a measured time below a floor is invalid (rule 3).

Floors are lower bounds. What they leave out (communication, launches, attention's arithmetic)
only makes a real step slower.
"""

from __future__ import annotations

from dataclasses import dataclass

from tpsweep.core.cell import Cell
from tpsweep.perfmodel.gpu_specs import Card, card_by_name
from tpsweep.perfmodel.model_shape import Shape


@dataclass(frozen=True)
class Floors:
    """Milliseconds; None with a ``note`` that says why. ``decode_ms`` is per output token of a
    sequence, that is per decode step of the batch."""

    decode_ms: float | None = None
    decode_kv_ms: float | None = None
    prefill_ms: float | None = None
    note: str | None = None


def floors_of(cell: Cell, shape: Shape | None) -> Floors:
    """The floors of a static-batch cell on the card that the site promises for it."""
    engine = cell.engine
    card = card_by_name(engine.gpu_card)
    if engine.gpu_card == "CPU":
        return Floors(note="a CPU has no datasheet floor")
    if card is None:
        return Floors(note=f"no datasheet figures for the card {engine.gpu_card!r}")
    if shape is None:
        return Floors(note="the model's architecture is not one whose bytes can be counted")
    if cell.batch is None or cell.input_len is None or cell.output_len is None:
        return Floors(note=f"no floors for the workload {cell.workload}")
    dtype, asked = engine.model.dtype, str(engine.args.get("kv_cache_dtype", "auto"))
    weights = decode_floor_ms(shape, dtype, engine.tp, card)
    kv = kv_floor_ms(
        shape,
        dtype if asked == "auto" else asked,
        engine.tp,
        card,
        batch=cell.batch,
        context=cell.input_len + cell.output_len / 2,
    )
    prefill = prefill_floor_ms(shape, engine.tp, card, cell.batch, cell.input_len)
    return Floors(weights, weights + kv, prefill)


def decode_floor_ms(shape: Shape, dtype: str, tp: int, card: Card) -> float:
    """Time to read the weights of one decode step once, each rank its share."""
    return shape.bytes_read_per_step(dtype) / tp / (card.bandwidth_tb_s * 1e12) * 1e3


def kv_floor_ms(
    shape: Shape, dtype: str, tp: int, card: Card, *, batch: int, context: float
) -> float:
    """Time to read the keys and values of ``batch`` sequences of ``context`` tokens once.

    ``dtype`` is the cache's. A sliding window bounds the context.
    """
    if shape.sliding_window is not None:
        context = min(context, shape.sliding_window)
    size = batch * context * shape.kv_bytes_per_token(dtype, tp)
    return size / (card.bandwidth_tb_s * 1e12) * 1e3


def prefill_floor_ms(shape: Shape, tp: int, card: Card, batch: int, input_len: int) -> float:
    """Time of a prefill's multiply-adds at the card's peak: 2 FLOP x parameters x tokens.

    The parameters are those that each token is multiplied with: the embedding is a look-up, and
    the output head sees the last token of a sequence only. Eight-bit weights may be multiplied at
    twice the peak of BF16: a floor must not be too high.
    """
    head = shape.vocabulary * shape.hidden
    products = shape.parameters_per_token * batch * input_len + head * batch
    factor = shape.quantization.peak_factor if shape.quantization else 1
    return 2 * products / tp / (card.bf16_tflops * 1e12 * factor) * 1e3
