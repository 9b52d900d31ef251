"""Arrivals of a trace in place of a rate's, and hopeless runs, without vLLM."""

import asyncio
import sys
import time
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tpsweep.core.failure import STOPPED
from tpsweep.core.slo_counts import JudgedSlo, Stop
from tpsweep.engine import load_generator


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What stands for vLLM's module."""
    module = SimpleNamespace(get_request="vLLM's")
    for name in ("vllm", "vllm.benchmarks"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["vllm.benchmarks"], "serve", module, raising=False)
    return module


def test_requests_come_at_their_times_and_vllms_generator_is_put_back(
    serve: SimpleNamespace,
) -> None:
    async def collected() -> list[tuple[str, float]]:
        began = time.perf_counter()
        arrivals = serve.get_request(["a", "b", "c"], 4.0, 1.0, self_timed=False)
        return [(name, time.perf_counter() - began) async for name, _ in arrivals]

    with load_generator._arriving([0.0, 0.05, 0.06]):
        found = asyncio.run(collected())
    assert [name for name, _ in found] == ["a", "b", "c"]
    for (_, at), due in zip(found, (0.0, 0.05, 0.06), strict=True):
        assert due <= at < due + 1.0
    assert serve.get_request == "vLLM's"


def test_without_times_nothing_is_changed(serve: SimpleNamespace) -> None:
    with load_generator._arriving(None):
        assert serve.get_request == "vLLM's"


SLOW = JudgedSlo.of("slow", {"ttft_p50_ms": 100.0})


@dataclass
class Output:
    """What vLLM's request function returns."""

    prompt_len: int = 3
    start_time: float = 0.0
    error: str = ""
    success: bool = False
    ttft: float = 0.0
    itl: list[float] = field(default_factory=list)
    output_tokens: int = 0


def sent_to(
    serve: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    ttft_s: list[float],
    takes_s: list[float],
) -> tuple[list[Output], load_generator._Hopeless]:
    """Requests 10 ms apart, as vLLM's benchmark sends them; each takes so long, and says so."""
    library = ModuleType("vllm.benchmarks.lib.endpoint_request_func")
    library.RequestFuncOutput = Output  # type: ignore[attr-defined]
    for name in ("vllm.benchmarks.lib", library.__name__):
        monkeypatch.setitem(sys.modules, name, library)

    async def request(place: Any, **_: Any) -> Output:
        await asyncio.sleep(takes_s[place.number])
        return Output(success=True, ttft=ttft_s[place.number], itl=[0.001], output_tokens=2)

    serve.ASYNC_REQUEST_FUNCS = {"openai": request}
    stop = Stop((SLOW,), first=2, last=len(ttft_s), tokens=len(ttft_s), patience_s=0.4)
    hopeless = load_generator._Hopeless(stop)

    async def benchmark() -> list[Output]:
        asked = [SimpleNamespace(number=number, prompt_len=3) for number in range(len(ttft_s))]
        tasks = [
            asyncio.create_task(serve.ASYNC_REQUEST_FUNCS["openai"](one, session=None))
            async for one, _ in serve.get_request(asked, 100.0)
        ]
        return await asyncio.gather(*tasks)

    times = [0.01 * place for place in range(len(ttft_s))]
    with load_generator._arriving(times, lambda: hopeless.is_over), hopeless.watching():
        found = asyncio.run(benchmark())
    assert {"openai": request} == serve.ASYNC_REQUEST_FUNCS
    return found, hopeless


def test_a_hopeless_run_is_cut_off(serve: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of 38 judged requests 19 may be late: the 20th ends the run, and what is under way with it.
    began = time.perf_counter()
    found, hopeless = sent_to(serve, monkeypatch, [0.2] * 40, [0.01] * 30 + [60.0] * 10)
    assert time.perf_counter() - began < 30
    assert hopeless.is_over and hopeless.watch.lost == {"slow": "ttft_p50_ms"}
    assert 22 <= len(found) < 40
    assert {output.error for output in found} <= {"", STOPPED}
    assert sum(output.success for output in found) >= 22


def test_what_was_under_way_is_marked_as_cut_off(
    serve: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes = [0.01 if place % 4 else 60.0 for place in range(80)]
    found, hopeless = sent_to(serve, monkeypatch, [0.2] * 80, takes)
    cut = [output for output in found if output.error == STOPPED]
    assert hopeless.watch.lost == {"slow": "ttft_p50_ms"}
    assert len(cut) >= 10 and not any(output.success for output in cut)
    assert all(output.prompt_len == 3 and output.start_time > 0 for output in cut)
    assert hopeless.is_over


def test_a_queue_that_only_grows_is_hopeless(
    serve: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each keeps the limit, but of those that were sent most are still under way.
    takes = [0.01 if place % 5 == 0 else 60.0 for place in range(100)]
    found, hopeless = sent_to(serve, monkeypatch, [0.01] * 100, takes)
    assert hopeless.watch.lost == {"slow": "saturated"}
    assert 40 <= len(found) < 100  # not before its patience of 0.4 s


def test_a_run_that_keeps_its_slo_is_left_alone(
    serve: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = [0.2 if place % 3 == 0 else 0.01 for place in range(40)]
    found, hopeless = sent_to(serve, monkeypatch, late, [0.01] * 40)
    assert len(found) == 40 and all(output.success for output in found)
    assert not hopeless.is_over
