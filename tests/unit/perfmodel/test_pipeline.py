"""How a static batch comes to pipeline stages, and when it leaves them, worked out by hand."""

from __future__ import annotations

import pytest

from tpsweep.perfmodel.pipeline import Filled, at_once, filled, last_end


@pytest.mark.parametrize(
    ("batch", "input_len", "step_tokens", "pp", "prompts", "group"),
    [
        (1, 512, 16384, 2, (1,), 1),
        (8, 512, 16384, 2, (1, 7), 7),
        # The third step's 24 decode with the first's one.
        (32, 512, 16384, 2, (1, 7, 24), 25),
        # 32 prompts are a full step.
        (64, 512, 16384, 2, (1, 7, 32, 24), 33),
        (64, 512, 16384, 4, (1, 7, 32, 24), 32),
        # A prompt of a step and a half: its sequence decodes from its second step on.
        (2, 1536, 1024, 2, (2 / 3, 2 / 3, 2 / 3), 1),
    ],
)
def test_the_steps_of_a_batch(
    batch: int,
    input_len: int,
    step_tokens: int,
    pp: int,
    prompts: tuple[float, ...],
    group: int,
) -> None:
    found = filled(batch, input_len, step_tokens, pp, behind=7)
    assert found.prompts == pytest.approx(prompts)
    assert found.group == group


def test_nobody_comes_behind_the_first() -> None:
    assert filled(4, 512, 16384, 2, behind=0) == Filled((1.0, 3.0), 3)


def test_a_batch_that_was_held_comes_in_full_steps() -> None:
    assert at_once(64, 512, 16384) == Filled((32.0, 32.0), 64)
    assert at_once(8, 512, 16384) == Filled((8.0,), 8)


def test_when_the_last_step_leaves_the_last_stage() -> None:
    # 1, 7 and 24 prompts, each one unit a stage: all 32 pass the first, the last 24 the second.
    assert last_end([[1, 1], [7, 7], [24, 24]], [0, 0, 0]) == 56
    # A large second step holds the third back: 1 + 20 + 20 + 11.
    assert last_end([[1, 1], [20, 20], [11, 11]], [0, 0, 0]) == 52
    # The fourth cannot begin in the first stage before the third has left it, and that cannot
    # leave before the second has left the second stage: at 1 + 20 + 20.
    assert last_end([[1, 1], [20, 20], [2, 2], [30, 30]], [0, 0, 0, 0]) == 101
    # One step passes all stages; each hand-over takes its time.
    assert last_end([[3, 4, 5]], [0.5]) == 13
