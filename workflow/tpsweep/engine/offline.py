"""An offline vLLM engine (``vllm.LLM``) behind the few calls that measuring needs."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import psutil

from tpsweep.core.errors import EngineDiedError
from tpsweep.engine import drafts, vllm_api
from tpsweep.engine.drafts import Drafts
from tpsweep.engine.profiler import Profiler
from tpsweep.engine.repeat import Finished, Repeat
from tpsweep.perfmodel.model_shape import shape_of


class OfflineEngine:
    """One loaded engine, from the arguments of ``vllm.LLM``.

    ``config`` is the model's configuration as vLLM really loaded it, ``shape`` what is read from
    it; None for an architecture whose parameters we cannot count. ``profiler`` waits for a
    capture: vLLM makes its own only when it is first started, and costs nothing before.
    """

    def __init__(self, arguments: Mapping[str, Any], profiler: Profiler | None = None) -> None:
        from vllm import LLM

        self.arguments = dict(arguments)
        self._profiler = profiler
        more = {"profiler_config": profiler.config} if profiler else {}
        self.llm: Any = LLM(**self.arguments, **more)
        self.alive = True
        config = self.llm.llm_engine.vllm_config
        self.ran = vllm_api.ran_of(config)
        hf_config = config.model_config.hf_config
        self.config: dict[str, Any] = json.loads(hf_config.to_json_string(use_diff=False))
        self.shape = shape_of(self.config)
        self.vocabulary = int(hf_config.vocab_size)
        self._can_hold = vllm_api.can_hold_requests(self.llm)
        self.outputs_at: list[float] = []
        vllm_api.record_outputs(self.llm, self.outputs_at.append)

    def generate(self, prompts: list[list[int]], output_lens: Sequence[int]) -> Repeat:
        """Hand all prompts over, each to give exactly as many tokens as asked (EOS ignored).

        They reach the engine one by one, and the first are scheduled while others are on their
        way. Prompts are built before the clock starts. Raises ``EngineDiedError`` if the engine's
        processes are gone, and ``ValueError`` for what vLLM refuses.
        """
        return self._run(prompts, output_lens, hold=False)

    def static_batch(self, prompts: list[list[int]], output_lens: Sequence[int]) -> Repeat:
        """As ``generate``, but the scheduler sees no request before it can see all of them.

        The clock starts when all are queued. Where the scheduler cannot be paused it is
        ``generate``, and the repeat says so (``held``).
        """
        return self._run(prompts, output_lens, hold=self._can_hold)

    def _run(self, prompts: list[list[int]], output_lens: Sequence[int], hold: bool) -> Repeat:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        sampling = [
            SamplingParams(temperature=1.0, ignore_eos=True, max_tokens=length, detokenize=False)
            for length in output_lens
        ]
        batch = [TokensPrompt(prompt_token_ids=ids) for ids in prompts]
        self.outputs_at.clear()
        begin = time.perf_counter()
        try:
            if hold:
                with vllm_api.requests_held(self.llm):
                    self.llm.enqueue(batch, sampling, use_tqdm=False)
                    begin = time.perf_counter()
                outputs = self.llm.wait_for_completion(use_tqdm=False)
            else:
                outputs = self.llm.generate(batch, sampling, use_tqdm=False)
        except (EngineDeadError, EngineGenerateError) as error:
            self.alive = False
            raise EngineDiedError(f"vLLM's engine died: {error}") from error
        wall = time.perf_counter() - begin
        requests = [finished(output) for output in outputs]
        return Repeat(wall, requests, tuple(self.outputs_at), held=hold)

    @contextlib.contextmanager
    def profiled(self) -> Iterator[Profiler]:
        """Record what runs inside with the engine's profiler.

        Raises ``ValueError`` if it has none or it does not work, ``EngineDiedError`` if the
        engine's processes are gone.
        """
        if self._profiler is None:
            raise ValueError("the engine was started without a profiler")
        self._profiler.start()
        try:
            self._tell(self.llm.start_profile)
            yield self._profiler
            self._tell(self.llm.stop_profile)
        finally:
            self._profiler.stop()

    def _tell(self, call: Callable[[], None]) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            call()
        except EngineDeadError as error:
            self.alive = False
            raise EngineDiedError(f"vLLM's engine died: {error}") from error

    def drafts(self) -> Drafts:
        """What became of draft tokens since its start."""
        return drafts.in_this_process()

    @property
    def processes(self) -> dict[str, psutil.Process]:
        """What to watch besides vLLM's own children: nothing."""
        return {}

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.llm.get_tokenizer()

    def kill(self) -> None:
        """End at once: vLLM's processes end with this one."""

    def close(self) -> None:
        """End vLLM's processes; what they leave behind is ended by the session's runner."""
        with contextlib.suppress(OSError, RuntimeError):
            self.llm.llm_engine.engine_core.shutdown()


def finished(output: Any) -> Finished:
    """What a ``vllm.RequestOutput`` came to."""
    (completion,) = output.outputs
    return Finished(
        prompt_tokens=len(output.prompt_token_ids),
        output_tokens=len(completion.token_ids),
        finish_reason=completion.finish_reason,
        cached_tokens=output.num_cached_tokens or 0,
        times=vllm_api.request_times(output),
    )
