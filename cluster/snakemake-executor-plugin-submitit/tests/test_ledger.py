"""The ledger, cut short in every way, and the lock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.ledger import Ledger
from snakemake_executor_plugin_submitit.lock import Lock, LockedError


def followed(path: Path) -> dict[str, str]:
    """Open sessions and their jobs, as whoever opens the ledger next finds them."""
    entries = Ledger(path).entries.values()
    return {
        session: e.job_of(session) if e.jobs else "?" for e in entries for session in e.sessions
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def test_what_is_open_survives(path: Path) -> None:
    ledger = Ledger(path)
    ledger.intend("one", ["a", "b", "c"], 10)
    ledger.submitted("one", ["7_0", "7_1", "7_2"])
    ledger.intend("two", ["d"], 10)
    ledger.intend("three", ["e"], 10)
    ledger.refused("three")
    ledger.close("b")
    for _ in range(3):  # rewritten each time, and the same
        assert followed(path) == {"a": "7_0", "c": "7_2", "d": "?"}
    again = Ledger(path)
    again.close("a")
    again.close("c")
    again.close("never heard of")
    assert followed(path) == {"d": "?"}
    assert len(path.read_text().splitlines()) == 1


def test_cut_short_at_every_byte(path: Path) -> None:
    ledger = Ledger(path)
    ledger.intend("one", ["a", "b"], 10)
    ledger.submitted("one", ["7_0", "7_1"])
    ledger.close("a")
    whole = path.read_bytes()
    ends = [k + 1 for k, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        found = followed(path)
        lines = sum(end <= length for end in ends)
        assert (
            found
            == [
                {},
                {"a": "?", "b": "?"},
                {"a": "7_0", "b": "7_1"},
                {"b": "7_1"},
            ][lines]
        )
        assert Ledger(path).damaged == 0


def test_damaged_lines_are_counted_and_left_out(path: Path) -> None:
    ledger = Ledger(path)
    ledger.intend("one", ["a"], 10)
    with path.open("a") as file:
        file.write('gibberish\n{"event": "submitted", "name": "unknown", "jobs": []}\n')
    again = Ledger(path)
    assert again.damaged == 2
    assert list(again.entries) == ["one"]


def test_a_full_disk_leaves_whole_lines(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(path)
    ledger.intend("one", ["a"], 10)
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:5]))
    with pytest.raises(OSError, match="No space left"):
        ledger.intend("two", ["b"], 10)
    monkeypatch.undo()
    assert [json.loads(line)["name"] for line in path.read_text().splitlines()] == ["one"]


def test_one_process_at_a_time_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; "
        "from snakemake_executor_plugin_submitit.lock import Lock; "
        "lock = Lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    path = tmp_path / "lock"
    words = [sys.executable, "-c", program, str(path)]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match=rf"another snakemake .* process {holder.pid} on"):
        Lock(path)
    holder.kill()
    holder.wait()
    lock = Lock(path)
    assert lock.is_held
    lock.release()


def test_an_intent_without_sessions_is_damage_and_no_crash(path: Path) -> None:
    path.write_text('{"event": "intent", "name": "one", "sessions": [""], "minutes": 1}\n')
    ledger = Ledger(path)
    assert (ledger.damaged, ledger.entries, ledger.is_new) == (1, {}, False)


def test_only_an_intent_has_to_be_written(path: Path) -> None:
    said: list[str] = []
    ledger = Ledger(path, said.append)
    assert ledger.is_new
    ledger.intend("one", ["a"], 10)
    path.unlink()
    path.mkdir()
    ledger.submitted("one", ["7"])
    ledger.close("a")
    assert [line.partition(": ")[2] for line in said] == ["Is a directory"] * 2
    assert ledger.entries == {}
    with pytest.raises(OSError, match="Is a directory"):
        ledger.intend("two", ["b"], 10)
