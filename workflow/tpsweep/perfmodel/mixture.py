"""The prefill of a mixture of experts: what its routed experts take, and what the host needs.

vLLM sorts the pairs of (token, chosen expert) by expert and multiplies each expert's rows in
tiles: a tile that is not full is computed as if it were. What lies between the two products, and
the sum over a token's experts, passes through memory. Pure; times in ms, of one layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from tpsweep.perfmodel.constants import Constants
from tpsweep.perfmodel.gpu_specs import Card
from tpsweep.perfmodel.model_shape import DTYPE_BYTES, Shape
from tpsweep.perfmodel.modules import Experts, Grouped

_TILES = ((32, 16), (96, 32), (512, 64))
_LARGE_TILE = 128
_KERNELS, _KERNELS_EP = 20, 22
"""That the host launches for a layer with experts in a step without CUDA graphs (captures of
Qwen3-30B-A3B at TP=2, prefills of 4,096 tokens)."""


def tile_rows(tokens: float) -> int:
    """Rows of a tile in a step of ``tokens`` tokens (vLLM's ``get_default_config``; what it ships
    for 128 experts on an H200 differs between 48 and 256 tokens only)."""
    return next((rows for most, rows in _TILES if tokens <= most), _LARGE_TILE)


@dataclass(frozen=True)
class Routed:
    """The routed experts of a layer on one rank. ``split``: ranks that share each expert;
    ``spread``: ranks that have whole ones, another part of them each."""

    mlp: Experts
    hidden: int
    hit: int
    tokens: float
    split: int = 1
    spread: int = 1

    @property
    def inner(self) -> float:
        """Inner width that a rank has of an expert."""
        return self.mlp.inner / self.split

    @property
    def pairs(self) -> float:
        """Of token and expert, over all ranks."""
        return self.tokens * self.mlp.active

    @property
    def rank_pairs(self) -> float:
        """Of the rank with the most, for which the others wait: choices taken as independent."""
        return fullest(self.pairs / self.spread, 1 - 1 / self.spread, self.spread)

    @property
    def rows(self) -> float:
        """Rows that are multiplied, unfilled ones of the last tile of each expert included: half
        a tile on average, and a whole one at least."""
        experts, tile = self.hit / self.spread, tile_rows(self.tokens)
        return max(experts * tile, self.rank_pairs + experts * tile / 2)

    def products_ms(self, bytes_each: int, card: Card, known: Constants) -> float:
        """The two grouped products: arithmetic, or weights and rows through memory."""
        weights = 3 * self.hidden * self.inner * self.hit / self.spread
        moved = self.rank_pairs * (2 * self.hidden + 3 * self.inner)
        at_peak = 2 * self.rows * 3 * self.hidden * self.inner / (card.bf16_tflops * 1e12)
        arithmetic = 1e3 * at_peak / known.expert_flops_share
        return max(arithmetic, _moved_ms((weights + moved) * bytes_each, card, known))

    def between_ms(self, bytes_each: int, card: Card, known: Constants) -> float:
        """Activation and sum over a token's experts: of all pairs, also those of other ranks."""
        numbers = self.pairs * (3 * self.inner + self.hidden) + self.tokens * self.hidden
        return _moved_ms(numbers * bytes_each, card, known)


def fullest(mean: float, missed: float, ranks: int) -> float:
    """Of ``ranks`` ranks with ``mean`` hits on average, how many the fullest is expected to have.

    ``missed``: share of tries that do not hit. The number on a rank is taken as normal; the largest
    of n normal numbers by G. Blom, Statistical Estimates and Transformed Beta-Variables (1958).
    """
    largest = NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25))
    return mean + largest * math.sqrt(mean * missed)


def around_ms(shape: Shape, dtype: str, tokens: float, tp: int, card: Card, k: Constants) -> float:
    """Norms, positions and cache of the layers with experts: what is read and written of them.

    In a dense model the share of the peak covers it; here there is a quarter of the arithmetic.
    """
    numbers = 0.0
    for layer in shape.decoder:
        if isinstance(layer.mlp, Experts) and isinstance(layer.attention, Grouped):
            heads = layer.attention.heads + 2 * layer.attention.kv_heads
            # Two norms with the residual, read and written; queries, keys and values twice.
            numbers += 8 * shape.hidden + 4 * heads * layer.attention.head_dim / tp
    return _moved_ms(tokens * numbers * DTYPE_BYTES[dtype], card, k)


def routed_ms(
    shape: Shape, dtype: str, tokens: float, tp: int, ep: bool, card: Card, known: Constants
) -> float:
    """All layers' routed experts in a step of ``tokens`` tokens."""
    each, hit = DTYPE_BYTES[dtype], shape.experts_hit(tokens)
    ranks = {"spread": tp} if ep else {"split": tp}
    return math.fsum(
        one.products_ms(each, card, known) + one.between_ms(each, card, known)
        for layer in shape.decoder
        if isinstance(layer.mlp, Experts)
        for one in (Routed(layer.mlp, shape.hidden, hit, tokens, **ranks),)
    )


def launch_ms(shape: Shape, ep: bool, known: Constants) -> float:
    """What the host needs to launch the layers with experts of a step, kernel by kernel."""
    kernels = _KERNELS_EP if ep else _KERNELS
    return shape.sparse_layers * kernels * known.launch_us / 1e3


def is_known(shape: Shape) -> bool:
    """Whether a prefill has an expectation: no row says what quantized experts take."""
    return not (shape.experts and shape.quantization)


def _moved_ms(size: float, card: Card, known: Constants) -> float:
    return 1e3 * size / (card.bandwidth_tb_s * 1e12 * known.weight_bandwidth_share)
