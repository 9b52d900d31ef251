"""Pure parts of the analysis: covered time, annotations, sidecars, bandwidth."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpsweep.traces.attribution import Covered, shares_clock
from tpsweep.traces.bandwidth import bandwidth
from tpsweep.traces.collectives import find
from tpsweep.traces.events import Annotation, RankEvents, parse_annotation
from tpsweep.traces.kernels import classify
from tpsweep.traces.nsys import look_up
from tpsweep.traces.sidecar import Sidecar, place
from tpsweep.traces.steps import cut

INTERVALS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12)


@given(INTERVALS, st.integers(0, 90), st.integers(0, 90))
def test_covered_time_is_that_of_counting_every_nanosecond(
    intervals: list[tuple[int, int]], one: int, other: int
) -> None:
    low, high = sorted((one, other))
    intervals.sort()
    start = np.array([begin for begin, _ in intervals], dtype=np.int64)
    end = start + np.array([length for _, length in intervals], dtype=np.int64)
    seconds = {t for a, b in zip(start.tolist(), end.tolist(), strict=True) for t in range(a, b)}
    found = Covered(start, end).within(np.array([low]), np.array([high]))
    assert found[0] == sum(low <= t < high for t in seconds)


@pytest.mark.parametrize(
    ("text", "phase", "tokens"),
    [
        ("execute_context_1(256)_generation_0(0)", "prefill", 256),
        ("execute_context_0(0)_generation_8(8)", "decode", 8),
        ("execute_context_2(30)_generation_3(3)", "mixed", 33),
        (
            "execute_18_context_1(sq16sk48sqsq256sqsk768)_generation_2(sq2sk90sqsq2sqsk90)",
            "mixed",
            18,
        ),
    ],
)
def test_annotation(text: str, phase: str, tokens: int) -> None:
    found = parse_annotation(5, text)
    assert found and (found.start, found.phase, found.tokens) == (5, phase, tokens)


@pytest.mark.parametrize("text", ["execute_context_0(0)_generation_0(0)", "NCCL", "execute_model"])
def test_no_step(text: str) -> None:
    assert parse_annotation(0, text) is None


@pytest.mark.parametrize(
    ("capture", "sidecar"),
    [
        ("a/x-tp2.sqlite", "a/x-tp2.json"),
        ("a/x-tp2.sqlite.xz", "a/x-tp2.json"),
        ("a/x.5-tp2.nsys-rep", "a/x.5-tp2.json"),
        ("a/x.rank1.pt.trace.json.gz", "a/x.json"),
        ("a/x_rank0.1795385489.pt.trace.json", "a/x.json"),
    ],
)
def test_place_of_the_sidecar(capture: str, sidecar: str) -> None:
    assert place(Path(capture)) == Path(sidecar)


@pytest.mark.parametrize(
    ("link", "peak"),
    [("NV18", 450.0), ("NV12", 300.0), ("NV0", None), ("NV999", None), ("PIX", None), (None, None)],
)
def test_peak_of_the_link(link: str | None, peak: float | None) -> None:
    assert Sidecar(link=link).link_gb_s == peak


def test_launch_times_by_correlation() -> None:
    calls = np.array([[3, 30], [7, 70]])
    assert look_up(calls, np.array([7, 5, 3, 9])).tolist() == [70, -1, 30, -1]
    assert look_up(calls[:0], np.array([7])).tolist() == [-1]


def test_bandwidth_at_four_ranks() -> None:
    """1 MB in 10 us: algbw 100 GB/s, busbw 150; one-shot moves 3 MB per rank, a ring 1.5."""
    size, time = np.array([1e6]), np.array([10_000.0])
    one_shot, ring, other = (
        bandwidth(size, time, 4, algorithm, 450.0) for algorithm in ("one_shot", "ring", "multimem")
    )
    assert one_shot.algbw_gb_s == pytest.approx(100) and one_shot.busbw_gb_s == pytest.approx(150)
    assert one_shot.link_share == pytest.approx(300 / 450)
    assert ring.link_share == pytest.approx(150 / 450) and other.link_share is None
    assert bandwidth(size, time, 4, "ring", None).link_share is None


def test_a_clock_is_shared_if_ends_lie_close() -> None:
    transfer = np.array([4, 4, 4])
    assert shares_clock(np.array([[10, 20, 30], [10, 21, 30]]), transfer)
    assert not shares_clock(np.array([[10, 20, 30], [60, 70, 80]]), transfer)
    assert not shares_clock(np.array([[10, 20, 30]]), transfer)


def events(*rows: tuple[str, int, int, int]) -> RankEvents:
    """A made-up rank of (name, start, end, stream)."""
    names = list(dict.fromkeys(row[0] for row in rows))
    start, end, stream = (np.array([row[i] for row in rows], dtype=np.int64) for i in (1, 2, 3))
    name = np.array([names.index(row[0]) for row in rows], dtype=np.int64)
    return RankEvents(0, "synthetic", names, name, start, end, stream, [], lambda: start)


def test_a_copy_belongs_to_one_collective_of_its_stream() -> None:
    """One copy between two collectives: the result of the first, no input of the second. A copy
    on another stream, though nearest in time, belongs to none."""
    one = events(
        ("one_shot_all_reduce_kernel", 0, 10, 7),
        ("Memcpy DtoD (Device -> Device)", 10, 13, 7),
        ("one_shot_all_reduce_kernel", 13, 23, 7),
        ("gemm", 23, 30, 7),
        ("Memcpy DtoD", 23, 25, 5),
        ("one_shot_all_reduce_kernel", 30, 40, 7),
    )
    found = find(one, classify(one.names))
    assert found.busy.tolist() == [13, 10, 10] and found.kernels.tolist() == [2, 1, 1]
    assert found.first.tolist() == [0, 13, 30] and found.last.tolist() == [13, 23, 40]
    assert found.member.tolist() == [True, True, True, False, False, True]
    other = events(("Memcpy DtoD", 0, 5, 6), ("cross_device_reduce_1stage", 6, 9, 7))
    assert find(other, classify(other.names)).busy.tolist() == [3]


def test_a_copy_that_runs_ahead_begins_no_step() -> None:
    """The next step's input copy, on a stream of its own, runs beside this step's last kernel."""
    rank = events(
        ("gemm", 10, 20, 7), ("gemm", 20, 40, 7), ("Memcpy HtoD", 25, 26, 5), ("gemm", 40, 50, 7)
    )
    launched = np.array([1, 2, 22, 23])
    annotations = [Annotation(0, 0, 1, 1), Annotation(21, 0, 1, 1)]
    rank = replace(rank, annotations=annotations, launched=lambda: launched)
    found = cut([rank], [find(rank, classify(rank.names))], Sidecar())
    assert found.start.tolist() == [[10, 40]] and found.end.tolist() == [[40, 50]]
