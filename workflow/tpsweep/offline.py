"""An offline vLLM engine (``vllm.LLM``) behind the few calls that measuring needs."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from tpsweep import vllm_api
from tpsweep.cell import Engine
from tpsweep.latency import Finished, Repeat
from tpsweep.models import Shape


class EngineDiedError(RuntimeError):
    """The engine's processes are gone; no further cell can be measured with it."""


class OfflineEngine:
    """One loaded engine. ``shape`` is read from the configuration that vLLM really loaded."""

    def __init__(self, engine: Engine) -> None:
        from vllm import LLM

        self._llm: Any = LLM(**vllm_api.llm_arguments(engine))
        self.alive = True
        config = self._llm.llm_engine.vllm_config
        self.tp = int(config.parallel_config.tensor_parallel_size)
        hf_config = config.model_config.hf_config
        self.shape = Shape.from_config(hf_config.to_dict())
        self.vocabulary = int(hf_config.vocab_size)

    def generate(self, prompts: list[list[int]], output_len: int) -> Repeat:
        """Run one static batch to exactly ``output_len`` tokens each (EOS ignored).

        Prompts are built before the clock starts. Raises ``EngineDiedError`` if the engine's
        processes are gone, and ``ValueError`` for what vLLM refuses.
        """
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        sampling = SamplingParams(
            temperature=1.0, ignore_eos=True, max_tokens=output_len, detokenize=False
        )
        batch = [TokensPrompt(prompt_token_ids=ids) for ids in prompts]
        begin = time.perf_counter()
        try:
            outputs = self._llm.generate(batch, sampling, use_tqdm=False)
        except (EngineDeadError, EngineGenerateError) as error:
            self.alive = False
            raise EngineDiedError(f"vLLM's engine died: {error}") from error
        wall = time.perf_counter() - begin
        return Repeat(wall, [_finished(output) for output in outputs])

    def close(self) -> None:
        """End vLLM's processes; what they leave behind is ended by the session's runner."""
        with contextlib.suppress(OSError, RuntimeError):
            self._llm.llm_engine.engine_core.shutdown()


def _finished(output: Any) -> Finished:
    (completion,) = output.outputs
    return Finished(
        prompt_tokens=len(output.prompt_token_ids),
        output_tokens=len(completion.token_ids),
        finish_reason=completion.finish_reason,
        cached_tokens=output.num_cached_tokens or 0,
        times=vllm_api.request_times(output),
    )
