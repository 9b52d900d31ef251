"""Arrivals of a trace in place of a rate's, without vLLM."""

import asyncio
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest

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
