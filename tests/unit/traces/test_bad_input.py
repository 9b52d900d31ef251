"""Captures that cannot be analysed: one line that says what is wrong and what mends it."""

import gzip
import lzma
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tpsweep.cli.comm import Wanted, run

DATA = Path(__file__).parents[2] / "data/captures"
TRACE = DATA / "llama8b-tp2-bs1-h200x2.rank0.pt.trace.json.gz"
SQLITE = lzma.decompress((DATA / "llama8b-tp2-bs1-h200x2.sqlite.xz").read_bytes())
KERNELS = "CUPTI_ACTIVITY_KIND_KERNEL"


def changed(path: Path, *statements: str) -> None:
    path.write_bytes(SQLITE)
    with closing(sqlite3.connect(path)) as base, base:
        for statement in statements:
            base.execute(statement)


def empty_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as base, base:
        base.execute("CREATE TABLE x (y)")
        base.execute("DROP TABLE x")


def packed(path: Path, *statements: str) -> None:
    plain = path.with_suffix("")
    changed(plain, *statements)
    path.write_bytes(lzma.compress(plain.read_bytes(), preset=0))
    plain.unlink()


def nothing_but(path: Path, trace: str) -> None:
    path.write_text(trace)


Maker = Callable[[Path], object]

CASES: dict[str, tuple[str, Maker, tuple[str, ...]]] = {
    "truncated": (
        "a.sqlite",
        lambda path: path.write_bytes(SQLITE[: len(SQLITE) // 2]),
        ("not a whole SQLite export", "nsys export --type sqlite"),
    ),
    "empty file": ("a.sqlite", lambda path: path.write_bytes(b""), ("an empty file",)),
    "header only": (
        "a.sqlite",
        lambda path: path.write_bytes(SQLITE[:4096]),
        ("not a whole SQLite export", "nsys export --type sqlite"),
    ),
    "text for a time": (
        "a.sqlite",
        lambda path: changed(path, f"UPDATE {KERNELS} SET start = 'abc' WHERE rowid = 5"),
        ("not a whole SQLite export", "'abc'"),
    ),
    "ends before it begins": (
        "a.sqlite",
        lambda path: changed(path, f"UPDATE {KERNELS} SET end = start - 9 WHERE rowid = 5"),
        ("1 events end before they begin", "capture it again"),
    ),
    "empty database": ("a.sqlite", empty_database, ("an empty database", "nsys export")),
    "no kernel": (
        "a.sqlite",
        lambda path: changed(path, f"DELETE FROM {KERNELS}"),
        ("no GPU kernels", "--capture-range=cudaProfilerApi", "--trace-fork-before-exec=true"),
    ),
    "no table of kernels": (
        "a.sqlite",
        lambda path: changed(path, f"DROP TABLE {KERNELS}"),
        ("no GPU kernels", "--trace=cuda,nvtx"),
    ),
    "whole graphs": (
        "a.sqlite",
        lambda path: changed(
            path,
            "CREATE TABLE CUPTI_ACTIVITY_KIND_GRAPH_TRACE (start, end)",
            "INSERT INTO CUPTI_ACTIVITY_KIND_GRAPH_TRACE VALUES (1, 2)",
        ),
        ("CUDA graphs are traced as a whole", "--cuda-graph-trace=node"),
    ),
    "other schema": (
        "a.sqlite",
        lambda path: changed(path, f"ALTER TABLE {KERNELS} RENAME COLUMN demangledName TO label"),
        ("schema 3.20.3 lacks", "demangledName", "export the .nsys-rep again"),
    ),
    "one rank of two, nsys": (
        "a.sqlite",
        lambda path: changed(path, f"DELETE FROM {KERNELS} WHERE deviceId = 1"),
        ("1 of at least 2 ranks", "--trace-fork-before-exec=true"),
    ),
    "one rank of two, torch": (
        TRACE.name,
        lambda path: path.write_bytes(TRACE.read_bytes()),
        ("1 of 2 ranks", "pass the traces of all ranks"),
    ),
    "gzip cut short": (
        "a.pt.trace.json.gz",
        lambda path: path.write_bytes(TRACE.read_bytes()[:200_000]),
        ("cut short", "stop_profile()"),
    ),
    "gzip damaged": (
        "a.pt.trace.json.gz",
        lambda path: path.write_bytes(TRACE.read_bytes()[:100_000] + bytes(1000)),
        ("the gzip file is cut short or damaged",),
    ),
    "JSON cut short": (
        "a.pt.trace.json",
        lambda path: path.write_bytes(gzip.decompress(TRACE.read_bytes())[:3_000_000]),
        ("the trace is cut short",),
    ),
    "JSON of another kind": (
        "a.json",
        lambda path: nothing_but(path, '{"benchmarks": []}'),
        ("no traceEvents",),
    ),
    "trace without events": (
        "a.json",
        lambda path: nothing_but(path, '{"traceEvents": []}'),
        ("no kernels and no operators",),
    ),
    "event without a time": (
        "a.json",
        lambda path: nothing_but(path, '{"traceEvents": [{"cat": "kernel", "name": "x"}]}'),
        ("not a PyTorch profiler trace", "ts"),
    ),
    "packed, no kernel": (
        "a.sqlite.xz",
        lambda path: packed(path, f"DELETE FROM {KERNELS}"),
        ("no GPU kernels",),
    ),
    "no texts": (
        "a.sqlite",
        lambda path: changed(path, "ALTER TABLE StringIds RENAME TO Texts"),
        ("schema 3.20.3 lacks StringIds",),
    ),
    "schema of nsys 2022": (
        "a.sqlite",
        lambda path: changed(
            path,
            "ALTER TABLE META_DATA_EXPORT RENAME TO EXPORT_META_DATA",
            "UPDATE EXPORT_META_DATA SET value = '3.0.0' WHERE name = 'EXPORT_SCHEMA_VERSION'",
            f"ALTER TABLE {KERNELS} RENAME COLUMN globalPid TO pid",
        ),
        ("schema 3.0.0 lacks", "globalPid"),
    ),
    "xz cut short": (
        "a.sqlite.xz",
        lambda path: path.write_bytes(lzma.compress(SQLITE)[:100_000]),
        ("the xz file is cut short",),
    ),
    "other file": (
        "a.sqlite",
        lambda path: path.write_bytes(b"\x7fELF" + bytes(100)),
        ("not a capture; allowed: an .nsys-rep",),
    ),
    "missing file": ("a.sqlite", lambda path: None, ("No such file",)),
    "folder without traces": ("folder", lambda path: path.mkdir(), ("without PyTorch traces",)),
    "stream file": (
        "a.qdstrm",
        lambda path: path.write_bytes(b"QDSTRM"),
        ("QdstrmImporter -i a.qdstrm", "with a complete Nsight S"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_status_2(
    case: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")  # nsys or its importer may be on this machine
    monkeypatch.delenv("TPSWEEP_NSYS", raising=False)
    name, make, words = CASES[case]
    path = tmp_path / name
    make(path)
    assert run([path], None, as_json=True) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith("tpsweep comm: ") and name in printed.err
    for word in words:
        assert word in printed.err


def test_report_needs_nsys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("TPSWEEP_NSYS", raising=False)
    report = tmp_path / "a.nsys-rep"
    report.write_bytes(b"report")
    assert run([report], None, as_json=True) == 2
    assert "nsys is not on the PATH" in capsys.readouterr().err


def test_a_rank_given_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([TRACE, TRACE], None, as_json=True) == 2
    assert "rank 0 is given more than once" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"tp": "two"}', "tp: 'two'; allowed: an integer above 0, or null"),
        ('{"batch": true}', "batch: True; allowed: an integer above 0, or null"),
        ('{"link": 18}', "link: 18; allowed: text or null"),
        ('{"dtype": ["bfloat16"]}', "dtype: ['bfloat16']; allowed: text or null"),
        ('{"model": "8b"}', "model: '8b'; allowed: a config.json's content, or null"),
        (
            '{"model": {"num_hidden_layers": 0}}',
            "num_hidden_layers: 0; allowed: a whole number above 0",
        ),
        ("[]", "not a JSON object"),
    ],
)
def test_sidecar_with_an_impossible_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    (tmp_path / "a.sqlite").write_bytes(SQLITE)
    (tmp_path / "a.json").write_text(text)
    assert run([tmp_path / "a.sqlite"], None, as_json=True) == 2
    assert f"a.json: {words}" in capsys.readouterr().err


def test_an_output_never_replaces_what_is_read_or_is_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture, fifo, link = (tmp_path / name for name in ("a.sqlite", "fifo", "link"))
    capture.write_bytes(SQLITE)
    os.mkfifo(fifo)
    link.symlink_to(capture)
    for output, said in (
        (capture, "it is an input"),
        (link, "it is an input"),
        (fifo, "not a regular file"),
    ):
        assert run([capture], None, False, Wanted(output=output)) == 2
        found = capsys.readouterr().err
        assert found == f"tpsweep comm: --output: {output}: {said}; {found.rpartition('; ')[2]}"
    same = tmp_path / "same"
    assert run([capture], None, False, Wanted(output=same, timeline=same)) == 2
    assert "also the --output" in capsys.readouterr().err
    assert capture.read_bytes() == SQLITE and fifo.is_fifo() and not same.exists()


def test_a_link_to_an_output_stays_one(tmp_path: Path) -> None:
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    link.symlink_to(target)
    capture = tmp_path / "a.sqlite"
    capture.write_bytes(SQLITE)
    assert run([capture], None, False, Wanted(output=link)) == 0
    assert link.is_symlink() and target.is_file()


def test_a_reader_that_has_seen_enough_is_no_traceback(tmp_path: Path) -> None:
    traces = f"{TRACE.parent}/llama8b-tp2*.rank*.gz"
    words = f"{sys.executable} -m tpsweep comm {traces} --json | head -c 1"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=False)
    assert done.stdout == "{" and "Traceback" not in done.stderr
