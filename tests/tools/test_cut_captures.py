"""Cut captures give what the whole ones give; a cut that would not is not kept."""

import gzip
import json
import lzma
import shutil
import sqlite3
from collections.abc import Set
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools import cut_trace
from tools.cut_captures import Analysed, captures, main
from tools.grouping import grouped
from tpsweep import traces
from tpsweep.traces import timeline

DATA = Path(__file__).parents[1] / "data/captures"
H200, CPU = "llama8b-tp2-bs1-h200x2", "tiny4l-tp2-bs2-cpu"
NSYS = [f"{H200}.sqlite.xz"]
TORCH = [f"{H200}.rank{rank}.pt.trace.json.gz" for rank in (0, 1)]
OPERATORS = [f"{CPU}.rank{rank}.pt.trace.json.gz" for rank in (0, 1)]


def copied(names: list[str], folder: Path) -> list[Path]:
    """A capture and its sidecar in a folder of their own."""
    shutil.copy(DATA / f"{names[0].split('.')[0]}.json", folder)
    return [Path(shutil.copy(DATA / name, folder)) for name in names]


def events(trace: Path) -> list[dict[str, object]]:
    return list(json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"])


def rewritten(trace: Path, kept: list[dict[str, object]]) -> None:
    trace.write_bytes(gzip.compress(json.dumps({"traceEvents": kept}).encode()))


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the captures of this file, cut: that takes a minute of a processor."""
    folder = tmp_path_factory.mktemp("cut")
    copied([*NSYS, *TORCH], folder)
    copied(OPERATORS, folder)
    assert len(captures([folder])) == 3  # two profilers of one sidecar
    assert main([str(folder)]) == 0
    return folder


@pytest.mark.parametrize("names", [NSYS, TORCH, OPERATORS], ids=["nsys", "torch", "operators"])
def test_report_and_picture_are_the_same_from_less(names: list[str], cut: Path) -> None:
    whole, less = [DATA / name for name in names], [cut / name for name in names]
    assert sum(f.stat().st_size for f in less) < 0.6 * sum(f.stat().st_size for f in whole)
    assert traces.analyse(less) == traces.analyse(whole)
    assert timeline.draw(less) == timeline.draw(whole)


@pytest.mark.parametrize("names", [NSYS, TORCH], ids=["nsys", "torch"])
def test_steps_can_still_be_cut_at_their_launches(names: list[str], cut: Path) -> None:
    whole = [rank.step_starts for rank in Analysed.of([DATA / name for name in names]).ranks]
    assert [len(starts) for starts in whole] == [16, 16]
    less = Analysed.of([cut / name for name in names]).ranks
    assert [rank.step_starts for rank in less] == whole


def test_what_nobody_reads_is_gone_from_a_trace(cut: Path) -> None:
    gone = {"cpu_op", "ac2g", "gpu_user_annotation", "overhead"}
    assert gone <= {event.get("cat") for event in events(DATA / TORCH[0])}
    kept = events(cut / TORCH[0])
    assert not gone & {event.get("cat") for event in kept}
    assert sum(event.get("cat") == "user_annotation" for event in kept) == 16
    launches = [event for event in kept if event.get("cat") in ("cuda_runtime", "cuda_driver")]
    assert 16 <= len(launches) <= 32


def test_what_nobody_reads_is_gone_from_an_export(cut: Path, tmp_path: Path) -> None:
    export = tmp_path / "cut.sqlite"
    export.write_bytes(lzma.decompress((cut / NSYS[0]).read_bytes()))
    with closing(sqlite3.connect(export)) as base:
        tables = {name for (name,) in base.execute("SELECT name FROM sqlite_master")}
        facts = dict(base.execute("SELECT * FROM META_DATA_EXPORT"))
    assert {"CUPTI_ACTIVITY_KIND_KERNEL", "NVTX_EVENTS", "TPSWEEP_CUT"} <= tables
    assert not {"PROCESSES", "ThreadNames", "TARGET_INFO_SYSTEM_ENV"} & tables
    assert "EXPORT_SCHEMA_VERSION" in facts and not any("HOST" in name for name in facts)


def test_a_cut_capture_is_left_alone(cut: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [cut / name for name in [*NSYS, *TORCH, *OPERATORS]]
    first = [file.read_bytes() for file in files]
    assert main([str(cut)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert sorted(said) == [f"{name}: cut already" for name in (H200, H200, CPU)]
    assert [file.read_bytes() for file in files] == first


def test_a_run_that_ended_between_two_files_is_taken_up(cut: Path, tmp_path: Path) -> None:
    files = copied(TORCH, tmp_path)
    shutil.copy(cut / TORCH[0], tmp_path)
    done = files[0].read_bytes()
    assert main([str(tmp_path)]) == 0
    assert files[0].read_bytes() == done
    assert all(cut_trace.is_cut(file) for file in files)


def test_a_cut_that_would_change_a_value_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = copied(TORCH, tmp_path)
    whole = [file.read_bytes() for file in files]
    right = cut_trace.cut

    def loses_a_kernel(path: Path, target: Path, step_starts: Set[int]) -> None:
        right(path, target, step_starts)
        kernels = [event for event in events(target) if event.get("cat") == "kernel"]
        rewritten(target, [event for event in events(target) if event != kernels[-1]])

    monkeypatch.setattr(cut_trace, "cut", loses_a_kernel)
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"{H200}: left as it is: ranks\n"
    assert [file.read_bytes() for file in files] == whole


def test_a_capture_that_cannot_be_analysed_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = copied(OPERATORS, tmp_path), copied(TORCH[:1], tmp_path)
    alone = bad[0].read_bytes()
    assert main([str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "1 of 2 ranks" in said.err and said.err.count("\n") == 1
    assert bad[0].read_bytes() == alone
    assert all(cut_trace.is_cut(file) for file in good)


def test_a_path_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["no/such/folder"])
    assert ended.value.code == 2
    assert "no/such/folder: not there" in capsys.readouterr().err


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=30))
def test_grouped_events_read_as_before(found: list[tuple[str, int]]) -> None:
    names, starts = [name for name, _ in found], [start for _, start in found]
    order = grouped(names, starts)
    read = sorted(range(len(found)), key=starts.__getitem__)
    assert sorted(order, key=starts.__getitem__) == read


def test_grouped_events_of_one_name_stand_together() -> None:
    assert grouped(["a", "b", "a", "b"], [1, 2, 3, 4]) == [0, 2, 1, 3]
    # The second b starts with the second a, which comes first: it stays behind it.
    assert grouped(["a", "b", "a", "b"], [1, 2, 3, 3]) == [0, 2, 3, 1]
