"""The state of results folders made of synthetic rows, failures and leftovers."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.growth import MOST, growth
from tpsweep.cli import check
from tpsweep.core import manifest, row_file
from tpsweep.core.atomic import replacing
from tpsweep.core.failure import Failure
from tpsweep.results.load import load


class Folder:
    """A results folder of synthetic cells."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.planned: list[dict[str, Any]] = []

    def add(self, status: str = "planned", reason: str | None = None) -> str:
        cell_id = f"{len(self.planned):012x}"
        path = f"cells/latency/{cell_id}.parquet"
        self.planned.append({"cell_id": cell_id, "path": path, "status": status, "reason": reason})
        return cell_id

    def measured(self) -> str:
        cell_id = self.add()
        self.write_row(cell_id, f"cells/latency/{cell_id}.parquet")
        return cell_id

    def failed(self, type_: str, message: str) -> str:
        cell_id = self.add()
        path = f"cells/latency/{cell_id}.parquet"
        Failure(cell_id, "latency", path, type_, message, f"logs/{cell_id}.log").write(
            self.root / "failures"
        )
        return cell_id

    def write_row(self, cell_id: str, path: str) -> None:
        row_file.write_row({"cell_id": cell_id, "synthetic": True}, self.root / path)

    def write_manifest(self) -> Path:
        self.root.mkdir(exist_ok=True)
        table = pa.Table.from_pylist(self.planned, schema=manifest.SCHEMA)
        pq.write_table(table, self.root / "matrix.parquet")
        return self.root


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "results")


def found(folder: Folder, capsys: pytest.CaptureFixture[str], code: int) -> dict[str, Any]:
    """What ``tpsweep check --json`` says of the folder, with the exit code ``code``."""
    assert check.run(folder.write_manifest(), as_json=True) == code
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


def shown(folder: Folder, capsys: pytest.CaptureFixture[str]) -> str:
    check.run(folder.write_manifest(), as_json=False)
    return capsys.readouterr().out


def mixed(folder: Folder) -> None:
    folder.measured()
    folder.measured()
    folder.failed("crash", "the engine died")
    folder.add()
    for reason in ("70B needs 141 GB", "70B needs 141 GB", "no node has 8"):
        folder.add("infeasible", reason)
    folder.add("excluded", "too slow")


def test_a_complete_sweep_is_good(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.measured()
    folder.add("infeasible", "too big")
    said = found(folder, capsys, code=0)
    assert said["complete"] is True
    assert said["planned"] == 1
    assert said["engine_starts"] == 0
    assert said["failed"] == said["stale"] == said["unreadable"] == said["temporary"] == []
    assert shown(folder, capsys).startswith(
        f"{folder.root}: 1/1 cells measured, 1 infeasible\nengine starts: 0\n"
    )


def test_every_state_is_counted(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    mixed(folder)
    (folder.root / "engine_starts.jsonl").write_text('{"at": 1}\n{"at": 2}\n{"at": 3}\n', "utf-8")
    said = found(folder, capsys, code=1)
    assert said["counts"] == {
        "measured": 2,
        "failed": 1,
        "missing": 1,
        "infeasible": 3,
        "excluded": 1,
    }
    assert (said["planned"], said["complete"]) == (4, False)
    # The page counts those that made rows: so does this, and names the others apart.
    assert (said["engine_starts"], said["engines_started"]) == (0, 3)
    assert "engine starts: 0 (and 3 without a row of this matrix)" in shown(folder, capsys)
    assert said["failed"] == [
        {
            "cell_id": "000000000002",
            "path": "cells/latency/000000000002.parquet",
            "type": "crash",
            "message": "the engine died",
            "log": "logs/000000000002.log",
        }
    ]
    assert said["reasons"] == {
        "infeasible": {"70B needs 141 GB": 2, "no node has 8": 1},
        "excluded": {"too slow": 1},
    }


def test_people_see_what_failed_and_why(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    mixed(folder)
    text = shown(folder, capsys)
    first = "2/4 cells measured, 1 failed, 1 missing, 3 infeasible, 1 excluded"
    assert text.splitlines()[0] == f"{folder.root}: {first}"
    for words in (
        "crash: the engine died",
        "log: logs/000000000002.log",
        "2 cells: 70B needs 141 GB",
        "1 cells: too slow",
    ):
        assert words in text


def test_a_preflight_is_named_once(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.failed("preflight", "preflight of h100x1: card: NVIDIA L4; the site file says H100")
    text = shown(folder, capsys)
    assert "    preflight of h100x1: card: " in text and "preflight: preflight" not in text


def test_long_lists_are_cut_for_people_only(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(25):
        folder.failed("crash", f"message {i}")
    text = shown(folder, capsys)
    assert text.count("crash: ") == check.SHOWN
    assert "and 15 more: see --json" in text
    assert len(found(folder, capsys, code=1)["failed"]) == 25


def test_a_missing_cell_alone_is_not_good(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.measured()
    folder.add()
    assert found(folder, capsys, code=1)["counts"]["missing"] == 1


def test_stale_rows_are_those_that_the_manifest_does_not_plan(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.measured()
    excluded = folder.add("excluded", "too slow")
    folder.write_row("f" * 12, "cells/old/gpu/x.parquet")
    folder.write_row(excluded, f"cells/latency/{excluded}.parquet")
    folder.write_row("e" * 12, "tables/cells.parquet")  # not a row file: not below cells/
    said = found(folder, capsys, code=0)
    assert said["stale"] == [
        f"cells/latency/{excluded}.parquet",
        "cells/old/gpu/x.parquet",
    ]
    assert "stale row files, not planned by the manifest (2):" in shown(folder, capsys)


def test_damaged_files_are_named_once_each(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = folder.measured()
    (folder.root / f"cells/latency/{damaged}.parquet").write_bytes(b"PAR1 cut off")
    record = folder.failed("crash", "x")
    (folder.root / f"failures/{record}.json").write_text("{", "utf-8")
    (folder.root / "cells/stale.parquet").write_bytes(b"")
    said = found(folder, capsys, code=1)
    assert [file["path"] for file in said["unreadable"]] == [
        f"cells/latency/{damaged}.parquet",
        f"failures/{record}.json",
        "cells/stale.parquet",
    ]
    assert all("\n" not in file["message"] for file in said["unreadable"])
    assert said["counts"]["failed"] == 2


def test_a_damaged_stale_row_alone_is_not_good(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.measured()
    (folder.root / "cells/stale.parquet").write_bytes(b"PAR1")
    said = found(folder, capsys, code=1)
    assert said["complete"] is True
    assert [file["path"] for file in said["unreadable"]] == ["cells/stale.parquet"]


def test_a_write_under_way_is_seen_and_is_no_fault(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    cell_id = folder.measured()
    with replacing(folder.root / f"cells/latency/{cell_id}.parquet") as temporary:
        shutil.copy(folder.root / f"cells/latency/{cell_id}.parquet", temporary)
        said = found(folder, capsys, code=0)
    assert said["temporary"] == [f"cells/latency/{temporary.name}"]
    assert said["stale"] == []
    assert found(folder, capsys, code=0)["temporary"] == []


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "tpsweep", "check", *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_keeps_stdout_to_one_json_document(folder: Folder) -> None:
    cell_id = folder.measured()
    (folder.root / f"cells/latency/{cell_id}.parquet").write_bytes(b"cut off")
    done = command(str(folder.write_manifest()), "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["counts"]["failed"] == 1
    assert "unreadable row" in done.stderr


@pytest.mark.parametrize("content", [None, b"", b"not Parquet"])
def test_without_a_manifest_one_line_says_what_to_do(folder: Folder, content: bytes | None) -> None:
    folder.root.mkdir()
    if content is not None:
        (folder.root / "matrix.parquet").write_bytes(content)
    done = command(str(folder.root))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "matrix.parquet: " in line
    assert ("run of the sweep writes it" if content is None else "not a manifest") in line


def test_without_a_folder_one_line_says_what_to_do(tmp_path: Path) -> None:
    done = command(str(tmp_path / "nowhere"))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "nowhere: no such folder" in line and "tpsweep check DIR" in line


def test_a_large_sweep_takes_no_search_per_failure(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20,000 cells, all failed, read beforehand: what is timed is the report alone."""
    cells = [folder.add() for _ in range(20_000)]
    everything = load(folder.write_manifest())
    failures = pd.DataFrame({"cell_id": cells, "type": "crash", "message": "x", "log": ""})

    def examine(size: int) -> Callable[[], object]:
        loaded = dataclasses.replace(
            everything, manifest=everything.manifest[:size], failures=failures[:size]
        )

        def work() -> None:
            monkeypatch.setattr(check, "load", lambda _: loaded)
            assert len(check.examine(folder.root).failed) == size

        return work

    assert growth(examine, 5_000) < MOST
