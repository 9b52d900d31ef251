"""The throughput workload on a stand-in engine with known times: nothing here runs vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.unit.cells import latency_cell
from tpsweep.engine.repeat import Finished, Repeat
from tpsweep.engine.vllm_api import RequestTimes
from tpsweep.measure import throughput
from tpsweep.sweep.request_set import RequestSet

REQUESTS = RequestSet([[1] * 10, [2] * 30], [5, 15])
CELL = latency_cell(workload="throughput", batch=None, num_prompts=2, warmups=2, repeats=3)


class StandInEngine:
    """Takes longer from call to call; the first calls are the warm-ups."""

    def __init__(self, spoilt: Finished | None = None) -> None:
        self.calls = 0
        self.spoilt = spoilt

    def __call__(self, prompts: list[list[int]], output_lens: Sequence[int]) -> Repeat:
        self.calls += 1
        times = RequestTimes(0.0, 0.1, 0.2)
        requests = [
            Finished(len(prompt), length, "length", 0, times)
            for prompt, length in zip(prompts, output_lens, strict=True)
        ]
        if self.spoilt and self.calls == 4:
            requests[1] = self.spoilt
        return Repeat(0.1 * self.calls, requests)


def test_rates_are_those_of_the_whole_set() -> None:
    measured = throughput.run(CELL, REQUESTS, StandInEngine())
    figures = measured.figures
    assert measured.refusals == []
    assert measured.output_tokens == 3 * 20
    assert figures["e2e_ms_samples"] == pytest.approx([300, 400, 500])
    assert figures["request_s"] == pytest.approx(2 / 0.4)
    assert figures["output_tok_s"] == pytest.approx(20 / 0.4)
    assert figures["output_tok_s_per_gpu"] == pytest.approx(10 / 0.4)
    assert figures["total_tok_s"] == pytest.approx(60 / 0.4)
    assert figures["request_s_lo"] is None  # three repeats
    assert figures["request_set_digest"] == REQUESTS.digest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"output_tokens": 14}, "1 of 6 requests gave another number of tokens than 15, e.g. 14"),
        ({"prompt_tokens": 29}, "prompts had 29 tokens, not 30"),
        ({"finish_reason": "stop"}, "requests ended with ['stop'], not only by length"),
        ({"cached_tokens": 16}, "16 prompt tokens came from the prefix cache"),
    ],
)
def test_a_spoilt_request_refuses_the_cell(change: dict[str, object], said: str) -> None:
    good = Finished(30, 15, "length", 0, RequestTimes(0.0, 0.1, 0.2))
    spoilt = replace(good, **change)  # type: ignore[arg-type]
    assert throughput.run(CELL, REQUESTS, StandInEngine(spoilt)).refusals == [said]
