"""The steps of one engine: a model, a card and the engine's arguments, all but the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tpsweep.core.cell import Engine
from tpsweep.perfmodel.constants import NoExpectationError
from tpsweep.perfmodel.gpu_specs import Card, card_by_name, unknown_card
from tpsweep.perfmodel.memory import Limits, Load, fit, in_blocks
from tpsweep.perfmodel.model_shape import Shape
from tpsweep.perfmodel.step_time import GRAPH_TOKENS, Batch, Expected, decode, prefill
from tpsweep.perfmodel.work import Work, work_of


@dataclass(frozen=True)
class EngineSteps:
    """A model on an engine: everything but the batch. Times are ms."""

    work: Work
    card: Card
    engine: Engine

    @classmethod
    def of(cls, engine: Engine, shape: Shape) -> EngineSteps:
        """The steps of ``engine``. Raises ``NoExpectationError`` and ``NoWorkError``."""
        card = card_by_name(engine.gpu_card)
        if card is None:
            raise NoExpectationError(unknown_card(engine.gpu_card))
        work = work_of(engine, shape)
        if why := work.no_expectation or _exchanged(engine):
            raise NoExpectationError(f"no constants for {why}")
        return cls(work, card, engine)

    @property
    def batched_tokens(self) -> int:
        """Tokens of a step, prompts included."""
        return int(self.engine.args["max_num_batched_tokens"])

    def batch(
        self, batch: int, input_len: int, output_len: int, chunks: int, prompt_tokens: float = 0
    ) -> Batch:
        """A batch of these lengths on this engine."""
        # What vLLM takes by itself is taken to be its custom all-reduce.
        asked = self.engine.allreduce_backend
        backend = "custom" if asked in ("auto", "none") else asked
        eager = bool(self.engine.args.get("enforce_eager"))
        lengths = batch, input_len, output_len
        cache = self.work.cache_dtype
        layout = self.engine.pp, chunks, self.engine.ep
        more = prompt_tokens, self.graph_tokens
        return Batch(self.engine.tp, *lengths, backend, eager, cache, *layout, *more)

    @property
    def graph_tokens(self) -> float:
        """Tokens of the largest step that vLLM runs as CUDA graphs: as asked, else by its rule."""
        args = self.engine.args
        given = args.get("compilation_config")
        asked = {**(given if isinstance(given, Mapping) else {}), **args}
        if sizes := asked.get("cudagraph_capture_sizes"):
            return float(max(sizes))
        if (most := asked.get("max_cudagraph_capture_size")) is not None:
            return float(most)
        return float(min(2 * int(args["max_num_seqs"]), GRAPH_TOKENS))

    def sequences(self, tokens: int) -> int:
        """How many sequences of ``tokens`` tokens run at a time: as many as the engine allows, and
        its KV cache should hold."""
        work, limits = self.work, Limits.of(self.engine.args, self.card.memory_gib)
        if work.no_fit or not work.shape.has_full_attention:
            return limits.sequences
        load = Load(work.shape, work.dtype, work.cache_dtype, offloaded=work.offloaded)
        held = fit(load, limits, self.engine.layout).expected_cache_tokens // in_blocks(tokens)
        return max(1, min(limits.sequences, held))

    def chunks(self, batch: int, input_len: int) -> int:
        """Steps in which a pipeline computes the prompts of a static batch."""
        if self.engine.pp == 1:
            return 1
        return math.ceil(batch * input_len / self.batched_tokens)

    def decode(
        self, batch: int, input_len: int, output_len: int, chunks: int, prompt_tokens: float = 0
    ) -> float:
        """One decode step, at the middle of the output."""
        return self.step(batch, input_len, output_len, chunks, prompt_tokens).ms

    def step(
        self, batch: int, input_len: int, output_len: int, chunks: int, prompt_tokens: float = 0
    ) -> Expected:
        """One decode step by its terms."""
        run = self.batch(batch, input_len, output_len, chunks, prompt_tokens)
        return decode(self.work.shape, self.work.dtype, self.card, run)

    def prefill(self, batch: int, input_len: int, output_len: int, chunks: int = 1) -> float:
        """The prefill of a whole batch."""
        run = self.batch(batch, input_len, output_len, chunks)
        return prefill(self.work.shape, self.work.dtype, self.card, run).ms

    def known_prefill(self, ms: float) -> float | None:
        """``ms`` of a prefill, if the constants are of such a model: those of a mixture of experts
        took 1.5 to 4 times as long, and it only serves to plan."""
        return None if self.work.shape.experts else ms


def _exchanged(engine: Engine) -> str | None:
    """What ranks of the layout exchange and no row here tells the time of."""
    if engine.nodes > 1:
        return f"the network between {engine.nodes} nodes"
    if engine.dcp > 1:
        return "decode context parallelism"
    if engine.dp > 1:
        return "the tokens that engines with joined experts exchange at each layer"
    return None
