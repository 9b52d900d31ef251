"""The comparison with other trace analysers: its repeated capture, its steps, its refusal."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.bench.trace_peers import (
    CAPTURE,
    RANK,
    Found,
    Run,
    Shape,
    by_phase,
    disagree,
    repeat,
    shape_of,
    timed,
)
from tpsweep.traces import analyse


def test_a_repeated_capture_is_that_many_equal_ones(tmp_path: Path) -> None:
    names = [CAPTURE.stem + RANK.format(rank) for rank in range(2)]
    (tmp_path / CAPTURE.name).write_bytes(CAPTURE.read_bytes())
    for name in names:
        repeat(CAPTURE.parent / name, tmp_path / name, 3)
    once = analyse([CAPTURE.parent / name for name in names]).phases
    thrice = analyse([tmp_path / name for name in names]).phases
    for phase in ("prefill", "decode"):
        assert thrice[phase].steps == 3 * once[phase].steps
        assert thrice[phase].all_reduce_per_step == once[phase].all_reduce_per_step == 65
        assert thrice[phase].transfer_us["p50"] == once[phase].transfer_us["p50"]


def test_the_first_step_of_each_request_is_the_prefill() -> None:
    # Two all-reduces a step, three steps a request, two requests.
    transfers = [50.0, 60.0, 4.0, 5.0, 4.0, 5.0, 52.0, 62.0, 6.0, 7.0, 6.0, 7.0]
    assert by_phase(transfers, Shape(per_step=2, steps=3)) == Found(12, 5.5, 56.0)


def test_the_shape_is_the_captures() -> None:
    assert shape_of(CAPTURE) == Shape(per_step=65, steps=16)


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (Found(65, 3.88, 12.0), []),
        (Found(66, 3.88, 12.0), ["all-reduces: 65, 66"]),
        (Found(65, 4.0, 12.0), ["decode: 3.872, 4.0"]),
    ],
)
def test_no_page_is_made_of_values_that_differ(theirs: Found, words: list[str]) -> None:
    runs = {
        "tpsweep": [Run(1.0, 80.0, Found(65, 3.872, 13.7))],
        "TraceLens": [Run(4.0, 130.0, theirs)],
    }
    assert disagree(runs) == words


def test_memory_is_of_the_command_and_failures_are_told() -> None:
    small = timed([sys.executable, "-c", "print('x')"])
    large = timed([sys.executable, "-c", "a = bytearray(200_000_000); print('x')"])
    assert large[1] - small[1] == pytest.approx(200, rel=0.1)
    assert small[2] == "x\n"
    with pytest.raises(ValueError, match="ended with 3"):
        timed([sys.executable, "-c", "raise SystemExit(3)"])
