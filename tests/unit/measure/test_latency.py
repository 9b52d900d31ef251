"""The latency workload on a stand-in engine with known times: nothing here runs vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from tests.unit.cells import engine, latency_cell
from tpsweep.engine.repeat import Finished, Repeat
from tpsweep.engine.vllm_api import RequestTimes
from tpsweep.measure import latency
from tpsweep.measure.latency import Measured
from tpsweep.measure.measurement import Times

PREFILL_S, STEP_S = 0.030, 0.002


def finished(output_len: int = 5, **changes: object) -> Finished:
    times = RequestTimes(1.0, 1.0 + PREFILL_S, 1.0 + PREFILL_S + STEP_S * (output_len - 1))
    return replace(Finished(64, output_len, "length", 0, times), **changes)  # type: ignore[arg-type]


@dataclass
class StandInEngine:
    """Answers a batch with fixed times; remembers what it was asked."""

    asked: list[tuple[list[list[int]], int]] = field(default_factory=list)

    def __call__(self, prompts: list[list[int]], output_lens: Sequence[int]) -> Repeat:
        (output_len,) = set(output_lens)
        assert len(prompts) == len(output_lens)
        self.asked.append((prompts, output_len))
        wall = PREFILL_S + STEP_S * (output_len - 1)
        return Repeat(wall, [finished(output_len) for _ in prompts])


def test_prefill_and_decode_come_apart() -> None:
    cell = latency_cell()
    figures = latency.figures(cell, latency.measure(cell, StandInEngine(), vocabulary=1000))
    assert figures["prefill_ms"] == pytest.approx(30.0)
    assert figures["tpot_ms"] == pytest.approx(2.0)
    assert figures["tpot_diff_ms"] == pytest.approx(2.0)
    assert figures["e2e_ms"] == pytest.approx(38.0)
    assert figures["output_tok_s"] == pytest.approx(2 * 5 / 0.038)
    assert figures["output_tok_s_per_gpu"] == pytest.approx(2 * 5 / 0.038 / 2)
    assert len(figures["tpot_ms_samples"]) == 3


def test_prefill_waits_for_the_last_first_token() -> None:
    early = finished(times=RequestTimes(1.0, 1.1, 1.5))
    late = finished(times=RequestTimes(1.05, 1.3, 1.7))
    repeat = Repeat(0.7, [early, late])
    assert latency.prefill_ms(repeat) == pytest.approx(300.0)
    assert latency.tpot_ms(repeat, 5) == pytest.approx(1e3 * (1.7 - 1.3) / 4)
    assert latency.tpot_ms(repeat, 1) is None


def test_warmups_are_thrown_away_and_prompts_never_repeat() -> None:
    standin = StandInEngine()
    measured = latency.measure(latency_cell(warmups=2), standin, vocabulary=1000)
    assert len(measured.repeats) == len(measured.repeats_out1) == 3
    assert [output_len for _, output_len in standin.asked] == [5] * 5 + [1] * 4
    prompts = [tuple(map(tuple, prompt)) for prompt, _ in standin.asked]
    assert len(set(prompts)) == len(prompts)
    assert all(0 <= token < 1000 for prompt, _ in standin.asked for ids in prompt for token in ids)


def test_equal_cells_see_equal_prompts() -> None:
    one, two = StandInEngine(), StandInEngine()
    latency.measure(latency_cell(), one, vocabulary=1000)
    latency.measure(latency_cell(), two, vocabulary=1000)
    assert one.asked == two.asked


def test_chunked_prefill_is_flagged() -> None:
    for batch, chunked in ((4, False), (5, True)):  # max_num_batched_tokens is 256, input 64
        cell = latency_cell(batch=batch)
        measured = latency.measure(cell, StandInEngine(), vocabulary=9)
        assert latency.figures(cell, measured)["prefill_chunked"] is chunked


def in_steps(scheduled: Sequence[float], step_ms: Sequence[float], held: bool = True) -> Repeat:
    """A repeat whose requests were scheduled at these times, with a prefill of 30 ms."""
    first = max(scheduled) + PREFILL_S
    at = [first + sum(step_ms[:k]) / 1e3 for k in range(len(step_ms) + 1)]
    requests = [finished(len(at), times=RequestTimes(one, first, at[-1])) for one in scheduled]
    return Repeat(at[-1] - scheduled[0], requests, tuple(at), held)


def measured_steps(*repeats: Repeat) -> Measured:
    one = [replace(r, requests=[replace(q, output_tokens=1) for q in r.requests]) for r in repeats]
    return Measured(list(repeats), one, Times(0, 1, 2))


def test_the_value_is_of_undisturbed_steps_and_the_plain_one_stands_beside_it() -> None:
    quiet, stalled = in_steps([1.0, 1.0], [2.0] * 4), in_steps([1.0, 1.0], [2.0, 2.0, 42.0, 2.0])
    found = latency.figures(latency_cell(), measured_steps(quiet, stalled, quiet, stalled, quiet))
    assert found["tpot_ms_samples"] == pytest.approx([2.0] * 5)
    assert found["tpot_plain_ms_samples"] == pytest.approx([2.0, 12.0, 2.0, 12.0, 2.0])
    assert (found["stalls"], found["stalls_samples"]) == (2, [0, 1, 0, 1, 0])
    assert found["stall_ms"] == pytest.approx(80.0)
    assert found["unsteady"]
    assert found["steps_note"].startswith("2 stalls: repeat 2 step 3 +40.0 ms")
    assert len(found["step_ms_samples"]) == 5 * 4
    assert found["step_ms_samples"][4:8] == pytest.approx([2.0, 2.0, 42.0, 2.0])


def test_without_the_steps_the_value_is_the_plain_one_and_says_so() -> None:
    cell = latency_cell()
    found = latency.figures(cell, latency.measure(cell, StandInEngine(), vocabulary=1000))
    assert found["tpot_ms_samples"] == found["tpot_plain_ms_samples"]
    assert found["steps_note"] == "the engine's outputs are not one per step: stalls are not seen"
    assert "stalls" not in found


def test_a_batch_that_was_split_although_it_was_held_refuses_the_cell() -> None:
    whole, split = in_steps([1.0, 1.0], [2.0] * 4), in_steps([1.0, 1.1], [2.0] * 4)
    assert latency.refusals(latency_cell(), measured_steps(whole, whole)) == []
    said = latency.refusals(latency_cell(), measured_steps(whole, split))
    assert said == ["2 of 4 batches were scheduled in 2 steps, not in 1: no static batch"]


def test_a_batch_that_could_not_be_held_is_marked() -> None:
    split = in_steps([1.0, 1.1], [2.0] * 4, held=False)
    assert latency.refusals(latency_cell(), measured_steps(split)) == []
    found = latency.figures(latency_cell(), measured_steps(split))
    assert (found["batch_held"], found["scheduled_instants_samples"]) == (False, [2])


@pytest.mark.parametrize(
    ("batch", "instants"),
    # Prompts of 64 tokens, 256 in a step. Of 24, the sequences that decode already take a token
    # each: 1536 tokens at 232 or more a step.
    [(1, 1), (4, 1), (5, 2), (8, 3), (24, 7)],
)
def test_a_chunked_prefill_may_begin_in_as_many_steps(batch: int, instants: int) -> None:
    assert latency.most_instants(latency_cell(batch=batch)) == instants


def test_repeats_go_on_for_the_energy_and_are_not_kept() -> None:
    now = iter(range(100))
    standin = StandInEngine()
    cell = latency_cell(warmups=1)
    measured = latency.measure(cell, standin, 1000, least_s=4.0, clock=lambda: next(now))
    assert (len(measured.repeats), len(measured.further)) == (3, 3)
    assert latency.figures(cell, measured)["energy_repeats"] == 6
    assert len(latency.figures(cell, measured)["tpot_ms_samples"]) == 3
    assert measured.times.kept_until >= measured.times.measured + 4.0
    assert len(measured.times.phases["decode"]) == 6
    assert latency.measure(cell, standin, 1000).further == []


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (finished(output_tokens=4), "another number of tokens"),
        (finished(prompt_tokens=63), "prompts had 63 tokens"),
        (finished(finish_reason="stop"), "stop"),
        (finished(finish_reason=None), "None"),
        (finished(cached_tokens=16), "16 prompt tokens came from the prefix cache"),
    ],
)
def test_a_spoilt_request_refuses_the_cell(spoilt: Finished, reason: str) -> None:
    cell = latency_cell(engine=engine())
    good, out1 = Repeat(0.1, [finished(), finished()]), Repeat(0.1, [finished(1), finished(1)])
    times = Times(0, 1, 2)
    assert latency.refusals(cell, Measured([good], [out1], times)) == []
    bad = Repeat(0.1, [finished(), spoilt])
    (said,) = latency.refusals(cell, Measured([good, bad], [out1], times))
    assert reason in said


def test_a_lost_request_refuses_the_cell() -> None:
    lost, out1 = Repeat(0.1, [finished()]), Repeat(0.1, [finished(1), finished(1)])
    (said,) = latency.refusals(latency_cell(), Measured([lost], [out1], Times(0, 1, 2)))
    assert said == "a repeat returned another number of requests than 2"
