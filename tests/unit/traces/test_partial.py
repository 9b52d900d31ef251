"""Steps that hold a part of the batch are no decode steps of it."""

from __future__ import annotations

from tpsweep.traces.events import Annotation
from tpsweep.traces.steps import _whole_batches, _with_early


def step(context: int, generation: int) -> Annotation:
    return Annotation(0, context, generation, context * 512 + generation)


def test_parts_of_the_batch_stand_apart() -> None:
    # 2 of 32 requests are there at the first step, the others come while these decode.
    found = [step(2, 0), step(30, 2), step(0, 32), step(0, 32), step(0, 30)]
    assert _whole_batches(found, 32) == ["partial", "mixed", "decode", "decode", "partial"]


def test_without_a_known_batch_the_most_sequences_are_it() -> None:
    found = [step(4, 0), step(0, 4), step(0, 3), step(0, 4)]
    assert _whole_batches(found, None) == ["prefill", "decode", "partial", "decode"]


def test_an_engine_that_holds_fewer_than_asked_has_decode_steps_all_the_same() -> None:
    assert _whole_batches([step(16, 0), step(0, 16)], 32) == ["partial", "decode"]


def test_a_whole_batch_has_no_parts() -> None:
    assert _whole_batches([step(8, 0), step(0, 8), step(8, 0)], 8) == [
        "prefill",
        "decode",
        "prefill",
    ]


def test_decode_steps_right_after_a_prefill_stand_apart() -> None:
    batch = ["prefill", "decode", "decode", "decode", "decode"]
    late = ["prefill", "early", "early", "decode", "decode"]
    assert _with_early(batch * 2, 2) == late * 2
    assert _with_early(batch * 2, 0) == batch * 2
    # A prefill in chunks, then a last step with fewer sequences.
    chunked = ["partial", "mixed", "decode", "decode", "decode", "partial"]
    assert _with_early(chunked, 1) == ["partial", "mixed", "early", "decode", "decode", "partial"]
