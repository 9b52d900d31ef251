"""Load on a server, sent by vLLM's own code: that of ``vllm bench serve``, kept warm in a process.

Importing it takes seconds, so a session's daemon does it once, while its server starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tpsweep.core.failure import STOPPED
from tpsweep.core.schema import PERCENTILES
from tpsweep.core.slo_counts import Stop, Times, Watch
from tpsweep.sweep.request_set import RequestSet

MODEL_NAME = "tpsweep"
"""What the server calls its model: a name of the user's might be anything."""
_BACKEND = "openai"
_LOOK_S = 0.25
"""How long a pause between two requests hides that the run is over."""
_SLO_NAMES = {"ttft_ms": "ttft", "tpot_ms": "tpot", "e2e_ms": "e2el"}


@dataclass(frozen=True)
class Sent:
    """One seed's run. Lists have one element per request, in the order of the set; seconds.

    ``start_s`` is on any clock that is common to all. ``queued_s``: spent in the client, waiting
    for ``max_concurrency``; None where vLLM (before 0.30) does not tell. ``errors``: "" for a
    request that came back. ``client_cpu_s``: processor time of this process during the run.
    ``raw``: vLLM's result. ``lost``: of a run that was cut off as hopeless, the limit that each SLO
    lost; only the first requests of the set are in it. None: it ran to its end.
    """

    duration_s: float
    input_lens: list[int]
    output_lens: list[int]
    ttft_s: list[float]
    itl_s: list[list[float]]
    start_s: list[float]
    queued_s: list[float] | None
    errors: list[str]
    client_cpu_s: float
    raw: dict[str, Any] = field(repr=False)
    lost: Mapping[str, str] | None = None

    @property
    def e2e_s(self) -> list[float]:
        """From send to last chunk, per request."""
        return [ttft + sum(itl) for ttft, itl in zip(self.ttft_s, self.itl_s, strict=True)]

    @property
    def tpot_s(self) -> list[float]:
        """Per request with more than one output token."""
        return [
            sum(itl) / (length - 1)
            for itl, length in zip(self.itl_s, self.output_lens, strict=True)
            if length > 1
        ]

    @property
    def end_s(self) -> list[float]:
        """When each request's last chunk came."""
        return [start + e2e for start, e2e in zip(self.start_s, self.e2e_s, strict=True)]

    @property
    def arrival_s(self) -> list[float]:
        """When each request wanted to be sent, as far as that is known."""
        waits = self.queued_s or [0.0] * len(self.start_s)
        return [start - wait for start, wait in zip(self.start_s, waits, strict=True)]


@dataclass(frozen=True)
class Target:
    """A server on loopback: its address, and the key that it wants."""

    url: str
    key: str = field(repr=False)
    tokenizer: Any = field(repr=False)


class _Hopeless:
    """Ends a run of vLLM's benchmark early: looks at each request that ends, and cuts off those
    that are under way once no SLO can be kept any more."""

    def __init__(self, stop: Stop) -> None:
        self.watch = Watch(stop)
        self.is_over = False
        self._began = time.perf_counter()
        self._flying: set[asyncio.Task[Any]] = set()
        self._sent = 0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """In place of what vLLM sends a request with."""
        from vllm.benchmarks import serve

        own = serve.ASYNC_REQUEST_FUNCS[_BACKEND]

        async def watched(request_func_input: Any, *rest: Any, **named: Any) -> Any:
            place, self._sent = self._sent, self._sent + 1
            began = time.perf_counter()
            task = asyncio.current_task()
            assert task is not None
            self._flying.add(task)
            try:
                if self.is_over:
                    return _cut_off(request_func_input, began)
                output = await own(request_func_input, *rest, **named)
            except asyncio.CancelledError:
                if not self.is_over:
                    raise
                return _cut_off(request_func_input, began)
            finally:
                self._flying.discard(task)
            if output.success and not self.is_over:
                self._look(place, output)
            return output

        serve.ASYNC_REQUEST_FUNCS[_BACKEND] = watched
        try:
            yield
        finally:
            serve.ASYNC_REQUEST_FUNCS[_BACKEND] = own

    def _look(self, place: int, output: Any) -> None:
        times = times_of(output.ttft, output.itl, output.output_tokens)
        self.watch.add(place, times, self._sent, time.perf_counter() - self._began)
        if self.watch.is_hopeless:
            self.is_over = True
            for task in self._flying:
                task.cancel()


def _cut_off(asked: Any, began: float) -> Any:
    from vllm.benchmarks.lib.endpoint_request_func import RequestFuncOutput

    return RequestFuncOutput(prompt_len=asked.prompt_len, start_time=began, error=STOPPED)


def times_of(ttft_s: float, itl_s: Sequence[float], tokens: int) -> Times:
    """What a request took. As in vLLM's goodput an answer of one token keeps every TPOT."""
    decode_s = sum(itl_s)
    tpot_s = decode_s / (tokens - 1) if tokens > 1 else 0.0
    return Times(1e3 * ttft_s, 1e3 * tpot_s, 1e3 * (ttft_s + decode_s), [1e3 * x for x in itl_s])


@contextlib.contextmanager
def _arriving(
    times_s: Sequence[float] | None, is_over: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """vLLM's benchmark with requests at these times after its start, in place of a rate's: not
    every version that we support has such a mode. Nothing changes for None. No further request is
    sent when ``is_over``."""
    if times_s is None:
        yield
        return
    from vllm.benchmarks import serve

    async def at_their_times(
        input_requests: Iterable[Any], request_rate: float, *_args: Any, **_options: Any
    ) -> AsyncIterator[tuple[Any, float]]:
        start = time.perf_counter()
        for request, at in zip(input_requests, times_s, strict=True):
            await asyncio.sleep(0)
            while (left := start + at - time.perf_counter()) > 0 and not is_over():
                await asyncio.sleep(min(left, _LOOK_S))
            if is_over():
                return
            yield request, request_rate

    own = serve.get_request
    serve.get_request = at_their_times
    try:
        yield
    finally:
        serve.get_request = own


def import_vllm() -> None:
    """Do the slow part now."""
    import vllm.benchmarks.serve  # noqa: F401


def send(
    target: Target,
    requests: RequestSet,
    rate: float | None,
    concurrency: int | None,
    seed: int,
    slo: Mapping[str, float],
    stop: Stop | None = None,
) -> Sent:
    """Send ``requests`` once: ``rate`` of them a second (Poisson arrivals by ``seed``), or when
    the set itself says. ``stop``: when to end before that.

    EOS is ignored and the temperature is 0, so that every answer has the requested length.
    Failed requests are in the result, too: nothing here judges.
    """
    from vllm.benchmarks.datasets import SampleRequest
    from vllm.benchmarks.serve import TaskType, benchmark

    samples = [
        SampleRequest(prompt=prompt, prompt_len=len(prompt), expected_output_len=length)
        for prompt, length in zip(requests.prompts, requests.output_lens, strict=True)
    ]
    os.environ["OPENAI_API_KEY"] = target.key  # where vLLM's client looks for it
    random.seed(seed)
    np.random.seed(seed)  # the generator that vLLM draws the arrivals from
    gc.collect()
    gc.freeze()  # a collection among thousands of requests would pause their clocks
    busy_s = time.process_time()
    hopeless = _Hopeless(stop) if stop else None
    with contextlib.ExitStack() as stack:
        is_over = (lambda: hopeless.is_over) if hopeless else (lambda: False)
        stack.enter_context(_arriving(requests.arrivals_s, is_over))
        if hopeless:
            stack.enter_context(hopeless.watching())
        result: dict[str, Any] = asyncio.run(
            benchmark(
                task_type=TaskType.GENERATION,
                endpoint_type=_BACKEND,
                api_url=f"{target.url}/v1/completions",
                base_url=target.url,
                model_id=MODEL_NAME,
                model_name=MODEL_NAME,
                tokenizer=target.tokenizer,
                input_requests=samples,
                logprobs=None,
                request_rate=float("inf") if rate is None else rate,
                burstiness=1.0,
                disable_tqdm=True,
                num_warmups=0,
                profile=False,
                selected_percentile_metrics=["ttft", "tpot", "itl", "e2el"],
                selected_percentiles=[float(p) for p in PERCENTILES],
                ignore_eos=True,
                goodput_config_dict={_SLO_NAMES[name]: limit for name, limit in slo.items()},
                max_concurrency=concurrency,
                lora_modules=None,
                extra_headers=None,
                extra_body={"temperature": 0.0},
                ready_check_timeout_sec=0,  # the daemon has awaited the server already
            )
        )
    busy_s = time.process_time() - busy_s
    gc.unfreeze()
    result.pop("generated_texts", None)
    return Sent(
        duration_s=result["duration"],
        input_lens=result["input_lens"],
        output_lens=result["output_lens"],
        ttft_s=result["ttfts"],
        itl_s=result["itls"],
        start_s=result["start_times"],
        queued_s=result.get("queue_times"),
        errors=result["errors"],
        client_cpu_s=busy_s,
        raw={"seed": seed, "request_rate": rate, "max_concurrency": concurrency, **result},
        lost=dict(hopeless.watch.lost) if hopeless and hopeless.is_over else None,
    )
