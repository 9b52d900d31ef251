"""The picture of one decode step: its bars add up to the step's terms, and it can be read."""

import gzip
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.unit.traces.test_made_up_captures import GATHER, GEMM, MadeUp
from tpsweep.cli.comm import Wanted, run
from tpsweep.traces import CaptureError, timeline, timeline_svg
from tpsweep.traces.cut_capture import read_capture
from tpsweep.traces.timeline_bars import Picture, clipped, finest, merged

DATA = Path(__file__).parents[2] / "data/captures"
NSYS = [DATA / "llama8b-tp2-bs1-h200x2.sqlite.xz"]
TORCH = [DATA / f"llama8b-tp2-bs1-h200x2.rank{rank}.pt.trace.json.gz" for rank in (0, 1)]
CPU = [DATA / f"tiny4l-tp2-bs2-cpu.rank{rank}.pt.trace.json.gz" for rank in (0, 1)]


def picture(paths: list[Path]) -> Picture:
    return timeline.picture_of(read_capture(paths))


def words_of(svg: str) -> str:
    root = ElementTree.fromstring(svg)
    return "\n".join("".join(part.itertext()) for part in root.iter() if part.tag.endswith("text"))


@pytest.mark.parametrize("paths", [NSYS, TORCH, CPU], ids=["nsys", "torch", "cpu"])
def test_bars_add_up_to_the_terms(paths: list[Path]) -> None:
    """Compute is drawn below: where operators enclose a collective, the collective covers it."""
    for lane in picture(paths).lanes:
        length = {kind: (spans[:, 1] - spans[:, 0]).sum() for kind, spans in lane.bars.items()}
        assert length["transfer"] == pytest.approx(lane.terms["transfer"])
        assert length["all_gather"] == pytest.approx(lane.terms["all_gather"])
        assert length["wait"] == pytest.approx(lane.terms["wait"])
        assert length["compute"] >= lane.terms["compute"] - 1e-6
        assert sum(lane.terms.values()) == pytest.approx(lane.end - lane.begin)


def test_the_step_is_the_one_of_median_length() -> None:
    lanes = picture(NSYS).lanes
    assert np.mean([lane.end - lane.begin for lane in lanes]) == pytest.approx(4337, abs=1)
    assert [len(lane.bars["transfer"]) for lane in lanes] == [65, 65]
    assert [len(lane.bars["all_gather"]) for lane in lanes] == [1, 1]


def test_words_for_people_who_never_saw_a_trace() -> None:
    svg = timeline.draw(NSYS)
    words = words_of(svg)
    for part in (
        "One decode step: Llama of 32 layers, TP=2, batch 1, NVIDIA H200 (NV18), vLLM 0.25.1",
        "waits for the slowest rank",
        "an all-reduce moves data between the ranks",
        "nothing runs on the rank",
        "the first two layers, from all-reduce 1 to 5 of 65",
        "4,337 \N{MICRO SIGN}s under the profiler",
        "rank 1",
    ):
        assert part in words, part
    assert len(svg) < 100_000
    assert svg == timeline.draw(NSYS)  # the same bytes whenever it is drawn


def test_it_is_dark_on_white_and_well_formed() -> None:
    svg = timeline.draw(CPU)
    assert "var(--" not in svg and "#ffffff" in svg and "currentColor" not in svg
    ElementTree.fromstring(svg)


def test_clocks_that_differ_are_said_and_lanes_begin_together(tmp_path: Path) -> None:
    made = MadeUp(clock_offset=5_000_000_000)
    for _ in range(3):
        made.step()
    shown = picture([made.write(tmp_path / "a.sqlite")])
    assert shown.clocks is not None and "clocks differ" in shown.clocks
    assert [lane.begin for lane in shown.lanes] == [0, 0]
    assert max(lane.end for lane in shown.lanes) < 1000
    assert "clocks differ" in words_of(timeline_svg.draw(shown))


def test_one_clock_says_nothing_of_clocks(tmp_path: Path) -> None:
    assert picture(NSYS).clocks is None


def test_a_single_rank(tmp_path: Path) -> None:
    made = MadeUp(ranks=1)
    for _ in range(3):
        made.announce()
        for _ in range(20):
            made.run(GEMM, 10_000, gap=1_000)
    svg = timeline.draw([made.write(tmp_path / "a.sqlite")])
    assert "rank 0" in words_of(svg) and "rank 1" not in words_of(svg)
    assert "twentieth" in words_of(svg)


def test_many_ranks_and_kernels_stay_small(tmp_path: Path) -> None:
    made = MadeUp(ranks=8)
    for _ in range(2):
        made.announce()
        for _ in range(161):
            for _ in range(10):
                made.run(GEMM, 5_000, gap=1_500)
            made.collective("cross_device_reduce_1stage", 4_000)
        made.collective(GATHER, 6_000)
    assert len(timeline.draw([made.write(tmp_path / "a.sqlite")])) < 300_000


def test_made_up_captures_say_so(tmp_path: Path) -> None:
    made = MadeUp()
    made.step()
    assert "SYNTHETIC" in words_of(timeline.draw([made.write(tmp_path / "a.sqlite", tp=2)]))


@pytest.mark.parametrize("text", ["execute_context_1(9)_generation_0(0)", "nothing announced"])
def test_no_decode_step_is_one_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = MadeUp()
    made.step()
    made.notes = [(rank, at, text) for rank, at, _ in made.notes]
    path = made.write(tmp_path / "a.sqlite")
    with pytest.raises(CaptureError, match="no decode step"):
        timeline.draw([path])
    target = tmp_path / "a.svg"
    assert run([path], None, as_json=True, wanted=Wanted(timeline=target)) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["ranks"] == 2
    assert "--timeline: a.sqlite: no picture: no decode step" in printed.err
    assert "no decode step" in words_of(target.read_text())


def test_a_failed_self_check_is_not_drawn(tmp_path: Path) -> None:
    made = MadeUp()
    made.step()
    made.step(layers=2)
    with pytest.raises(CaptureError, match="the self-check failed"):
        timeline.draw([made.write(tmp_path / "a.sqlite", tp=2)])


def test_without_matplotlib_one_line_and_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    target = tmp_path / "a.svg"
    assert run(NSYS, None, as_json=False, wanted=Wanted(timeline=target)) == 1
    printed = capsys.readouterr()
    assert "decode: 15 steps" in printed.out
    assert printed.err.count("\n") == 1 and "matplotlib is not installed" in printed.err
    assert "matplotlib is not installed" in words_of(target.read_text())


def test_texts_are_escaped(tmp_path: Path) -> None:
    traces = []
    for source in CPU:
        traces.append(tmp_path / source.name)
        traces[-1].write_bytes(gzip.compress(gzip.decompress(source.read_bytes()), 1))
    known = json.loads((DATA / "tiny4l-tp2-bs2-cpu.json").read_text())
    known["model_name"] = "<script>$x$</script>"
    (tmp_path / "tiny4l-tp2-bs2-cpu.json").write_text(json.dumps(known))
    svg = timeline.draw(traces)
    assert "<script" not in svg and "<script>$x$</script> of 4 layers" in words_of(svg)


def test_spans() -> None:
    spans = np.array([[0, 1], [1.5, 2], [4, 6], [6, 7]], dtype=np.float64)
    assert merged(spans, 1).tolist() == [[0, 2], [4, 7]]
    assert merged(spans[:0], 1).tolist() == []
    assert clipped(spans, (0.5, 5)).tolist() == [[0.5, 1], [1.5, 2], [4, 5]]
    assert finest([], 4.0) == 1.0
