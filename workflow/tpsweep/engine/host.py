"""The engine host: one vLLM engine that runs static batches and serves HTTP, from one start.

The engine is vLLM's ``AsyncLLM``, its API server vLLM's own around the same object. Both live in
an event loop in a thread of this process; whoever measures calls from another thread. A batch that
is run by calls does not pass HTTP, and a server that nobody asks does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import psutil

from tpsweep.core.errors import EngineDiedError, StartError
from tpsweep.core.slo_counts import Stop
from tpsweep.engine import drafts, vllm_api
from tpsweep.engine.api_server import HOST, Counters, read_counters
from tpsweep.engine.drafts import Drafts
from tpsweep.engine.load_generator import MODEL_NAME, Sent
from tpsweep.engine.load_process import LoadProcess
from tpsweep.engine.offline import finished
from tpsweep.engine.profiler import Profiler
from tpsweep.engine.repeat import Repeat
from tpsweep.perfmodel.model_shape import shape_of
from tpsweep.sweep.request_set import RequestSet

T = TypeVar("T")
END_S = 20.0
HTTP_START_S = 60.0


class EngineHost:
    """One loaded engine, from the arguments of ``vllm.LLM``; attributes as of ``OfflineEngine``.

    ``served``: its server and its load generator are wanted from the start, so that they cost no
    time when they are first used; ``http_s`` says what they cost then. Raises ``StartError`` where
    this vLLM lacks what a host is made of, and what vLLM raises.
    """

    def __init__(
        self,
        arguments: Mapping[str, Any],
        profiler: Profiler | None = None,
        *,
        served: bool = False,
    ) -> None:
        self.arguments = dict(arguments)
        self._profiler = profiler
        self._key = secrets.token_urlsafe(32)
        os.environ["VLLM_API_KEY"] = self._key  # vLLM's server and nobody's command line
        self._load: LoadProcess | None = self._start_load(forked=True) if served else None
        self._url = ""
        self._exit = contextlib.AsyncExitStack()
        self._loop = _event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="engine-loop").start()
        more = {"profiler_config": profiler.config} if profiler else {}
        try:
            self.engine: Any = self._run(self._start({**self.arguments, **more}))
            began = time.monotonic()
            if served:
                self._serve()
            self.http_s = time.monotonic() - began
        except ImportError as error:
            said = f"this vLLM has no engine for calls and HTTP at once ({error})"
            raise StartError("engine_start", f"{said}; allowed: one_start: false") from error
        self.alive = True
        config = self.engine.vllm_config
        self.ran = vllm_api.ran_of(config)
        hf_config = config.model_config.hf_config
        self.config: dict[str, Any] = json.loads(hf_config.to_json_string(use_diff=False))
        self.shape = shape_of(self.config)
        self.vocabulary = int(hf_config.vocab_size)
        self._can_hold = vllm_api.is_one_engine(config)
        self._names = (f"tpsweep-{number}" for number in itertools.count())
        self.outputs_at: list[float] = []
        self._is_recording = False
        vllm_api.record_async_outputs(self.engine, self._record)

    def generate(self, prompts: list[list[int]], output_lens: Sequence[int]) -> Repeat:
        """As ``OfflineEngine.generate``."""
        return self._batch(prompts, output_lens, hold=False)

    def static_batch(self, prompts: list[list[int]], output_lens: Sequence[int]) -> Repeat:
        """As ``OfflineEngine.static_batch``."""
        return self._batch(prompts, output_lens, hold=self._can_hold)

    @contextlib.contextmanager
    def profiled(self) -> Iterator[Profiler]:
        """As ``OfflineEngine.profiled``."""
        if self._profiler is None:
            raise ValueError("the engine was started without a profiler")
        self._profiler.start()
        try:
            self._call(self.engine.start_profile())
            yield self._profiler
            self._call(self.engine.stop_profile())
        finally:
            self._profiler.stop()

    def send(
        self,
        requests: RequestSet,
        rate: float | None,
        concurrency: int | None,
        seed: int,
        slo: Mapping[str, float],
        stop: Stop | None = None,
    ) -> Sent:
        """Send a request set once, over HTTP; raises ``EngineDiedError`` if engine or load
        generator is gone after it."""
        if self._load is None or not self._load.alive:  # nothing of its own is running
            self._load = self._start_load(forked=False)
        if not self._url:
            self._serve()
        try:
            sent = self._load.send(
                self._url, self._key, requests, rate, concurrency, seed, slo, stop
            )
        except (EngineDiedError, ValueError) as error:
            if isinstance(error, EngineDiedError) or self.engine.errored:
                self.alive = False
                raise EngineDiedError(str(error)) from error
            raise
        if any(sent.errors) and self.engine.errored:
            self.alive = False
            raise EngineDiedError("vLLM's engine died while requests were being sent")
        return sent

    def counters(self) -> Counters:
        """What the engine has counted since its start; its server is started for it."""
        if not self._url:
            self._serve()
        return read_counters(self._url)

    def drafts(self) -> Drafts:
        """What became of draft tokens since its start."""
        return drafts.in_this_process()

    @property
    def processes(self) -> dict[str, psutil.Process]:
        """What to watch besides vLLM's own children: nothing, a lost load generator is noticed."""
        return {}

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.engine.get_tokenizer()

    def kill(self) -> None:
        """End at once: vLLM's processes end with this one."""
        if self._load:
            self._load.close()

    def close(self) -> None:
        """End server, engine and load generator; what is left is ended by the session's runner."""
        if self._load:
            self._load.close()
        with contextlib.suppress(Exception):  # it is ended either way, and a cell's end is told
            self._run(self._exit.aclose(), END_S)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _batch(self, prompts: list[list[int]], output_lens: Sequence[int], hold: bool) -> Repeat:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = [
            SamplingParams(
                temperature=1.0,
                ignore_eos=True,
                max_tokens=length,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            for length in output_lens
        ]
        self.outputs_at.clear()
        self._is_recording = True
        try:
            wall, outputs = self._call(self._queue_and_wait(prompts, sampling, hold))
        finally:
            self._is_recording = False
        requests = [finished(output) for output in outputs]
        return Repeat(wall, requests, tuple(self.outputs_at), held=hold)

    async def _queue_and_wait(
        self, prompts: list[list[int]], sampling: list[Any], hold: bool
    ) -> tuple[float, list[Any]]:
        begin = time.perf_counter()
        async with vllm_api.held(self.engine) if hold else contextlib.nullcontext():
            queued = await vllm_api.queue_requests(self.engine, prompts, sampling, self._names)
            if hold:
                begin = time.perf_counter()
        outputs = [await vllm_api.await_request(one) for one in queued]
        return time.perf_counter() - begin, outputs

    def _record(self, at: float) -> None:
        if self._is_recording and self.outputs_at[-1:] != [at]:
            self.outputs_at.append(at)

    def _call(self, what: Coroutine[Any, Any, T]) -> T:
        """Run it in the loop; raises ``EngineDiedError`` if the engine's processes are gone."""
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        try:
            return self._run(what)
        except (EngineDeadError, EngineGenerateError) as error:
            self.alive = False
            raise EngineDiedError(f"vLLM's engine died: {error}") from error

    def _run(self, what: Coroutine[Any, Any, T], limit_s: float | None = None) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(limit_s)

    async def _start(self, arguments: dict[str, Any]) -> Any:
        return await self._exit.enter_async_context(vllm_api.async_engine(arguments))

    def _start_load(self, *, forked: bool) -> LoadProcess:
        model, revision = self.arguments["model"], self.arguments.get("revision")
        return LoadProcess(model, revision, forked=forked)

    def _serve(self) -> None:
        """Start the server, on a port that it holds from the start."""
        listener = socket.create_server((HOST, 0))
        self._run(self._start_server(listener), HTTP_START_S)
        self._url = f"http://{HOST}:{listener.getsockname()[1]}"

    async def _start_server(self, listener: socket.socket) -> None:
        server = await vllm_api.http_server(self.engine, self.arguments["model"], MODEL_NAME)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            if task.done():
                raise StartError("engine_start", f"vLLM's server ended: {task.exception()}")
            await asyncio.sleep(0.01)

        async def stop() -> None:
            server.should_exit = True
            await task

        self._exit.push_async_callback(stop)


def _event_loop() -> asyncio.AbstractEventLoop:
    """The loop that vLLM's own server runs in."""
    import uvloop

    return uvloop.new_event_loop()
