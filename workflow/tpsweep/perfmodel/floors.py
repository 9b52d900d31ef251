"""How fast the hardware could be at best: a measured time below a floor is invalid (rule 3).

Floors are lower bounds. What they leave out (communication, launches, attention's arithmetic)
only makes a real step slower.
"""

from __future__ import annotations

from dataclasses import dataclass

from tpsweep.core.cell import Cell
from tpsweep.core.layout import Layout
from tpsweep.perfmodel.gpu_specs import Card, card_by_name, unknown_card
from tpsweep.perfmodel.model_shape import Shape
from tpsweep.perfmodel.work import NoWorkError, Work, work_of


@dataclass(frozen=True)
class Floors:
    """Milliseconds; None with a ``note`` that says why. ``decode_ms`` is per output token of a
    sequence: a decode step of the batch, shared by the tokens that it may give."""

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
        return Floors(note=unknown_card(engine.gpu_card))
    if shape is None:
        said = "architecture or quantization is not one whose bytes can be counted"
        return Floors(note=f"the model's {said}")
    if cell.batch is None or cell.input_len is None or cell.output_len is None:
        return Floors(note=f"no floors for the workload {cell.workload}")
    try:
        work = work_of(engine, shape)
    except NoWorkError as error:
        return Floors(note=f"no floors: {error}")
    # Stages of a pipeline may work at a time: on chunks of the prompts, on parts of the batch.
    prefill = prefill_floor_ms(work.shape, engine.shards, card, cell.batch, cell.input_len)
    batch = -(-cell.batch // engine.pp)
    if work.no_floors:
        return Floors(prefill_ms=prefill, note=work.no_floors)
    context = cell.input_len + cell.output_len / 2
    return Floors(*_decode(work, engine, card, batch, context), prefill)


def _decode(
    work: Work, layout: Layout, card: Card, batch: int, context: float
) -> tuple[float, float]:
    """The two floors of a token: of the weights, and of these and the cache.

    What the host keeps of the weights is not read from the GPU's memory; ranks that share a
    sequence's cache read a part each.
    """
    tp = layout.tp
    weights = decode_floor_ms(work.shape, work.dtype, tp, card)
    weights = max(weights - work.offloaded / (card.bandwidth_tb_s * 1e12) * 1e3, 0.0)
    kv = kv_floor_ms(work.shape, work.cache_dtype, tp, card, batch=batch, context=context)
    return weights / work.most_tokens, (weights + kv / layout.dcp) / work.most_tokens


def decode_floor_ms(shape: Shape, dtype: str, tp: int, card: Card) -> float:
    """Time to read the weights of one decode step once, each rank its share."""
    return shape.bytes_read_per_step(dtype) / tp / (card.bandwidth_tb_s * 1e12) * 1e3


def kv_floor_ms(
    shape: Shape, dtype: str, tp: int, card: Card, *, batch: int, context: float
) -> float:
    """Time to read the keys and values of ``batch`` sequences of ``context`` tokens once.

    ``dtype`` is the cache's. A sliding window bounds the context.
    """
    size = batch * shape.kv_bytes_read(dtype, tp, context)
    return size / (card.bandwidth_tb_s * 1e12) * 1e3


def prefill_floor_ms(shape: Shape, gpus: int, card: Card, batch: int, input_len: int) -> float:
    """Time of a prefill's multiply-adds at the card's peak: 2 FLOP x parameters x tokens.

    The parameters are those that each token is multiplied with: the embedding is a look-up, and
    the output head sees the last token of a sequence only. Eight-bit weights may be multiplied at
    twice the peak of BF16, four-bit floats at four times: a floor must not be too high.
    """
    head = shape.vocabulary * shape.hidden * batch
    products = shape.fast_parameters_per_token * batch * input_len + head / shape.head_peak_factor
    return 2 * products / gpus / (card.bf16_tflops * 1e12) * 1e3
