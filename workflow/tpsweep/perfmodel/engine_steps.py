"""The steps of one engine: a model, a card and the engine's arguments, all but the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tpsweep.core.cell import Engine
from tpsweep.perfmodel.constants import NoExpectationError, constants
from tpsweep.perfmodel.gpu_specs import Card, card_by_name, unknown_card
from tpsweep.perfmodel.memory import Limits, Load, fit, in_blocks
from tpsweep.perfmodel.mixture import is_known
from tpsweep.perfmodel.model_shape import Shape
from tpsweep.perfmodel.pipeline import at_once, filled
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

    def static(self, batch: int, input_len: int, output_len: int) -> Batch:
        """A static batch of these lengths on this engine."""
        engine, budget = self.engine, self.batched_tokens
        if engine.pp > 1:
            steps = filled(batch, input_len, budget, engine.pp, constants().behind_first)
        else:
            steps = at_once(batch, input_len, budget)
        # A dense model's prefill is as long in one step as in several, but for a millisecond each.
        is_one = engine.pp == 1 and not self.work.shape.experts
        prompts = () if is_one else steps.prompts
        return replace(
            self._batch(batch, input_len, output_len), prompts=prompts, group=steps.group
        )

    def served(
        self, running: int, input_len: int, output_len: int, prompt_tokens: float = 0
    ) -> Batch:
        """Requests that come and go: all stages of a pipeline have some at a time."""
        return replace(
            self._batch(running, input_len, output_len),
            group=math.ceil(running / self.engine.pp),
            prompt_tokens=prompt_tokens,
        )

    def _batch(self, batch: int, input_len: int, output_len: int) -> Batch:
        # What vLLM takes by itself is taken to be its custom all-reduce.
        asked = self.engine.allreduce_backend
        return Batch(
            tp=self.engine.tp,
            batch=batch,
            input_len=input_len,
            output_len=output_len,
            backend="custom" if asked in ("auto", "none") else asked,
            eager=bool(self.engine.args.get("enforce_eager")),
            cache_dtype=self.work.cache_dtype,
            pp=self.engine.pp,
            ep=self.engine.ep,
            graph_tokens=self.graph_tokens,
        )

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

    def decode(self, run: Batch) -> float:
        """One decode step, at the middle of the output."""
        return self.step(run).ms

    def step(self, run: Batch) -> Expected:
        """One decode step by its terms."""
        return decode(self.work.shape, self.work.dtype, self.card, run)

    def prefill(self, run: Batch) -> float:
        """The prefill of a whole batch."""
        return prefill(self.work.shape, self.work.dtype, self.card, run).ms

    def known_prefill(self, ms: float) -> float | None:
        """``ms`` of a prefill, where it is an expectation. Else it serves to plan alone."""
        return ms if is_known(self.work.shape) else None


def _exchanged(engine: Engine) -> str | None:
    """What ranks of the layout exchange and no row here tells the time of."""
    if engine.nodes > 1:
        return f"the network between {engine.nodes} nodes"
    if engine.dcp > 1:
        return "decode context parallelism"
    if engine.dp > 1:
        return "the tokens that engines with joined experts exchange at each layer"
    return None
