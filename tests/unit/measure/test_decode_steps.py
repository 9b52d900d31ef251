"""Disturbances of decode steps, on made-up steps with known ones."""

from __future__ import annotations

import numpy as np
import pytest

from tpsweep.engine.repeat import Finished, Repeat
from tpsweep.engine.vllm_api import RequestTimes
from tpsweep.measure.decode_steps import Floats, durations, judge

REPEATS, COUNT = 8, 127


def steps(seed: int = 1, noise: float = 0.003, repeats: int = REPEATS) -> Floats:
    """Steps of 6.5 ms that grow by 2 % over the decode, as the KV cache does."""
    random = np.random.default_rng(seed)
    base = 6.5 * np.linspace(1.0, 1.02, COUNT)
    return base * random.normal(1.0, noise, size=(repeats, COUNT))


def plain(found: Floats) -> list[float]:
    return [float(value) for value in found.mean(axis=1)]


def test_undisturbed_steps_give_the_plain_value_itself() -> None:
    quiet = steps()
    judged = judge(quiet, plain(quiet))
    assert judged.undisturbed_ms == plain(quiet)
    assert (judged.stalls, judged.recovery, judged.unsteady, judged.notes) == ([], 0, False, [])


@pytest.mark.parametrize("repeats", [1, 2, 3, 8])
def test_a_stall_is_found_named_and_taken_out(repeats: int) -> None:
    quiet = steps(repeats=repeats)
    disturbed = quiet.copy()
    disturbed[-1, 56] += 30.0
    judged = judge(disturbed, plain(disturbed))
    (stall,) = judged.stalls
    assert (stall.repeat, stall.step) == (repeats, 57)
    assert stall.excess_ms == pytest.approx(30.0, abs=0.1)
    assert judged.undisturbed_ms == pytest.approx(plain(quiet), rel=2e-4)
    assert plain(disturbed)[-1] > 1.03 * plain(quiet)[-1]
    assert judged.notes[0].startswith(f"1 stall: repeat {repeats} step 57 +")
    assert [judged.stalls_in(r + 1) for r in range(repeats)] == [0] * (repeats - 1) + [1]


def test_steps_that_catch_up_belong_to_the_stall() -> None:
    # Of a step that was queued already, only the output comes late: the next one comes at once.
    quiet = steps()
    disturbed = quiet.copy()
    disturbed[2, 40] += 20.0
    disturbed[2, 41] = 0.2
    judged = judge(disturbed, plain(disturbed))
    assert len(judged.stalls) == 1
    assert judged.undisturbed_ms == pytest.approx(plain(quiet), rel=2e-4)


def test_a_fast_step_alone_is_no_disturbance() -> None:
    disturbed = steps()
    disturbed[2, 41] = 0.2
    judged = judge(disturbed, plain(disturbed))
    assert judged.undisturbed_ms == plain(disturbed)


def test_a_repeat_that_is_slow_as_a_whole_stays_slow() -> None:
    disturbed = steps()
    disturbed[3] *= 1.05
    disturbed[3, 10] += 40.0
    judged = judge(disturbed, plain(disturbed))
    assert judged.undisturbed_ms[3] == pytest.approx(6.5 * 1.01 * 1.05, rel=1e-3)


def test_many_stalls_flag_the_cell() -> None:
    disturbed = steps()
    for repeat in (1, 4):
        disturbed[repeat, 30] += 30.0
    assert not judge(disturbed, plain(disturbed)).unsteady  # in a quarter of the repeats
    disturbed[6, 90] += 30.0
    assert judge(disturbed, plain(disturbed)).unsteady


def test_stalls_that_cost_little_do_not_flag_the_cell_however_many() -> None:
    # A stall of 3 ms in every repeat is 0.4 % of 127 steps of 6.5 ms; one of 12 ms is 1.5 %.
    disturbed = steps()
    for repeat in range(REPEATS):
        disturbed[repeat, 20 + 10 * repeat] += 3.0
    judged = judge(disturbed, plain(disturbed))
    assert len(judged.stalls) == REPEATS and not judged.unsteady
    for repeat in range(3):
        disturbed[repeat, 20 + 10 * repeat] += 9.0
    assert judge(disturbed, plain(disturbed)).unsteady


def test_one_slow_step_is_said_as_one() -> None:
    first = steps()
    first[:, 0] *= 1.5
    judged = judge(first, plain(first))
    assert (judged.recovery, judged.notes) == (1, ["the first step is slow"])


def test_slow_steps_after_the_prefill_are_counted_and_taken_out() -> None:
    quiet = steps()
    throttled = quiet.copy()
    throttled[:, :20] *= np.linspace(1.19, 1.01, 20)
    judged = judge(throttled, plain(throttled))
    assert judged.recovery is not None
    assert 17 <= judged.recovery <= 20
    assert judged.undisturbed_ms == pytest.approx(plain(quiet), rel=2e-3)
    assert np.median(plain(throttled)) > 1.01 * np.median(plain(quiet))
    assert judged.notes == [f"the first {judged.recovery} of {COUNT} steps are slow"]
    assert not judged.unsteady


def test_a_recovery_without_an_end_is_left_in_and_flagged() -> None:
    throttled = steps(noise=0.0005)
    throttled[:, :90] *= np.linspace(1.3, 1.0, 90)
    judged = judge(throttled, plain(throttled))
    assert judged.recovery is None
    assert judged.unsteady
    assert judged.undisturbed_ms == plain(throttled)


def test_a_drift_is_told_from_scatter() -> None:
    drifting = steps() * np.linspace(1.02, 1.0, REPEATS)[:, None]
    judged = judge(drifting, plain(drifting))
    assert judged.drift == pytest.approx(-0.02, abs=0.002)
    assert judged.unsteady
    assert judged.notes == ["drift of -2.0 % over 8 repeats"]
    scattered = steps() * np.array([1.02, 1, 1.02, 1, 1, 1.02, 1, 1.02])[:, None]
    assert not judge(scattered, plain(scattered)).unsteady
    few = steps(repeats=3)
    assert judge(few, plain(few)).drift is None


def test_few_steps_say_nothing_of_a_recovery() -> None:
    few = steps()[:, :15]
    judged = judge(few, plain(few))
    assert (judged.recovery, judged.unsteady) == (None, False)


def repeat(outputs_at: list[float]) -> Repeat:
    times = RequestTimes(0.5, 1.0, 1.3)
    return Repeat(0.9, [Finished(8, 4, "length", 0, times)], tuple(outputs_at))


def test_steps_are_those_between_first_and_last_token() -> None:
    # What an earlier batch left and the end of this one belong to no decode step.
    found = durations(repeat([0.2, 1.0, 1.1, 1.25, 1.3, 1.9]), 4)
    assert found == pytest.approx([100.0, 150.0, 50.0])


def test_steps_are_not_known_if_outputs_are_not_one_a_step() -> None:
    assert durations(repeat([1.0, 1.1, 1.3]), 4) is None
    assert durations(repeat([]), 4) is None
