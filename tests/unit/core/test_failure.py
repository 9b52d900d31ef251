"""Failure records, and what is read out of logs for them."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from tpsweep.core.failure import (
    STOPPED,
    Failure,
    classify,
    log_since,
    log_size,
    telling_lines,
)
from tpsweep.core.request import StartFailure
from tpsweep.measure import daemon


def test_a_record_is_whole_and_says_when(tmp_path: Path) -> None:
    failure = Failure("0123456789ab", "latency", "cells/x.parquet", "crash", "died", "a.log", ["x"])
    path = failure.write(tmp_path / "failures")
    assert path == tmp_path / "failures" / "0123456789ab.json"
    assert Failure(**json.loads(path.read_text("utf-8"))) == failure
    assert datetime.fromisoformat(failure.when).utcoffset() is not None
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_newer_record_replaces_the_older(tmp_path: Path) -> None:
    for type_ in ("crash", "timeout"):
        path = Failure("a", "latency", "cells/x", type_, type_).write(tmp_path)
    assert json.loads(path.read_text("utf-8"))["type"] == "timeout"


def test_a_log_is_read_from_an_offset_and_only_its_end(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    assert (log_size(str(log)), log_since(str(log)), log_size(""), log_since("")) == (0, "", 0, "")
    log.write_bytes(b"before\n")
    offset = log_size(str(log))
    assert offset == 7
    assert log_since(str(log), offset) == ""
    with log.open("ab") as file:
        file.write(b"after \xff\n")
    assert log_since(str(log), offset) == "after \N{REPLACEMENT CHARACTER}\n"
    log.write_bytes(b"x" * 1_000_000 + b"end")
    assert len(log_since(str(log))) == 400_000
    assert log_since(str(log)).endswith("xend")


def test_telling_lines_are_the_last_that_look_like_a_cause() -> None:
    noise = "INFO loading weights\n" * 50
    causes = "".join(f"ValueError: number {i}\n" for i in range(20))
    found = telling_lines(noise + causes + noise)
    assert found == [f"ValueError: number {i}" for i in range(8, 20)]
    assert telling_lines("a\nb\n\nc\nd\n") == ["b", "c", "d"]
    assert telling_lines("error " + "x" * 1000) == [("error " + "x" * 1000)[:300]]
    assert telling_lines("") == []


def test_requests_that_we_cut_off_tell_nothing() -> None:
    cut = "".join(f"Error {k}: {STOPPED}\n" for k in range(10))  # as vLLM's benchmark prints them
    log = f"RuntimeError: broken\n{cut}Error 9: connection refused\n{cut}"
    assert telling_lines(log) == ["RuntimeError: broken", "Error 9: connection refused"]
    assert telling_lines(f"a\n{cut}b\n{cut}") == ["a", "b"]
    assert telling_lines(cut) == []


@pytest.mark.parametrize(
    "text",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB.",
        "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=12.0",
        "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory",
        "ValueError: No available memory for the cache blocks.",
        "ValueError: Free memory on device is less than desired GPU memory utilization (0.9)",
        "To serve at least one request, 16.0 GiB KV cache is needed, which is larger than the "
        "available KV cache memory (1.0 GiB)",
    ],
)
def test_lack_of_memory_is_recognised(text: str) -> None:
    assert classify("crash", f"INFO a\n{text}\nINFO b") == "out_of_memory"


def test_other_ends_keep_their_type() -> None:
    assert classify("crash", "RuntimeError: cancelled; 90 % of memory used") == "crash"


@pytest.mark.parametrize(("begin", "type_"), [(None, "engine_start"), (0, "out_of_memory")])
def test_a_failed_start_is_judged_by_its_own_part_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: int | None, type_: str
) -> None:
    log = tmp_path / "session.log"
    log.write_text("torch.OutOfMemoryError: of the start before\n", "utf-8")
    monkeypatch.setenv("SESSION_LOG", str(log))
    offset = log_size(str(log)) if begin is None else begin
    daemon._leave_start_failure(tmp_path, RuntimeError("port in use\nmore"), offset)
    assert StartFailure.read(tmp_path) == StartFailure(type_, "RuntimeError: port in use")
