"""Table ``cost`` from synthetic rows: planned and taken, worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.made_up import Record, Sweep
from tpsweep.cli import report
from tpsweep.perfmodel.cell_time import cost


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def add(sweep: Sweep, session: str, seconds: float | None, **more: Any) -> str:
    cell_id = sweep.add(more.pop("tp", 2), **more)
    planned = {"session": session, "minutes": 10, "expected_s": seconds, "expected_start_s": 100.0}
    sweep.manifest[-1].update(planned)
    return cell_id


def lines(sweep: Sweep) -> dict[tuple[str, int], Record]:
    sweep.tables()
    return {(line["gpu"], line["gpus"]): line for line in sweep.read("cost")}


def took(session: str, start: float, began: str, kept: str, ended: str) -> Record:
    times = {"started_at": began, "measured_at": kept, "ended_at": ended}
    at = {name: f"2026-01-01T00:{time}+00:00" for name, time in times.items()}
    return {"session_id": session, "engine_start_s": start, **at}


def test_packed_unpacked_and_taken(sweep: Sweep) -> None:
    add(sweep, "a", 20.0, measured=took("a-1", 90, "10:00", "10:05", "10:30"))
    add(sweep, "a", 40.0, batch=4, measured=took("a-1", 90, "10:31", "10:40", "11:00"))
    add(sweep, "b", None, run=2)
    add(sweep, "c", 7.0, tp=1, status="infeasible", reason="no")
    (line,) = lines(sweep).values()
    end = cost("session_end_s")
    assert (line["cells"], line["sessions"], line["at_limit"]) == (3, 2, 1)
    assert line["gpu_h"] == pytest.approx(2 * (2 * (100 + end) + 20 + 40 + 600) / 3600)
    assert line["gpu_h_unpacked"] == pytest.approx(2 * (3 * (100 + end) + 660) / 3600)
    assert line["saving"] == pytest.approx(line["gpu_h_unpacked"] / line["gpu_h"])
    assert (line["cells_measured"], line["sessions_taken"]) == (2, 1)
    assert line["gpu_h_taken"] == pytest.approx(2 * (90 + 60) / 3600)
    assert line["gpu_h_floor"] == pytest.approx(2 * (90 + 25 + 20) / 3600)
    assert line["floor_ratio"] == pytest.approx(150 / 135)
    assert line["gpu_h_taken_unpacked"] == pytest.approx(2 * (2 * 90 + 60) / 3600)
    assert line["saving_taken"] == pytest.approx(240 / 150)
    assert line["synthetic"]
    assert "never measured" in sweep.markdown("cost")


def test_the_floor_is_the_kept_repeats(sweep: Sweep) -> None:
    """Not the cross-check, nor repeats for the energy: both come before the cell's end."""
    static = {"e2e_ms_samples": [2000.0, 3000.0]}
    add(sweep, "a", 20.0, measured=took("a-1", 90, "10:00", "10:05", "10:30") | static)
    requests = {"e2e_ms_samples": [7000.0] * 9}  # of each request, side by side
    times = took("a-1", 90, "10:31", "10:40", "11:00") | requests
    add(sweep, "a", 40.0, batch=None, workload="serve", measured=times)
    (line,) = lines(sweep).values()
    assert line["gpu_h_floor"] == pytest.approx(2 * (90 + 2 + 3 + 20) / 3600)


def test_each_start_counts_once_in_the_seconds_of_a_start(sweep: Sweep) -> None:
    for run, (engine_id, imports) in enumerate((("e1", 8.0), ("e1", 8.0), ("e2", 12.0))):
        found = took(f"a-{run}", 90, "10:00", "10:05", "10:30")
        found |= {"engine_id": engine_id, "start_imports_s": imports}
        add(sweep, "a", 20.0, run=run, measured=found)
    (line,) = lines(sweep).values()
    assert (line["starts"], line["start_s"], line["start_imports_s"]) == (2, 90, 10.0)
    assert line["start_weights_s"] is None


def test_what_is_not_known_is_null(sweep: Sweep) -> None:
    add(sweep, "a", 20.0, measured={"session_id": "a-1"})
    add(sweep, "b", 20.0, tp=1)
    found = lines(sweep)
    unknown = ("gpu_h_taken", "gpu_h_floor", "floor_ratio", "gpu_h_taken_unpacked", "saving_taken")
    assert all(found["H200", 2][name] is None for name in unknown)
    assert (found["H200", 1]["cells_measured"], found["H200", 1]["gpu_h_taken"]) == (0, None)


def test_an_older_manifest_says_so(sweep: Sweep) -> None:
    sweep.add(1, tpot=5.0)
    assert lines(sweep) == {}
    assert "older one" in sweep.markdown("cost")


def test_the_page_has_it(sweep: Sweep) -> None:
    add(sweep, "a", 20.0, measured=took("a-1", 90, "10:00", "10:05", "10:30"))
    sweep.write_manifest()
    assert report.run([sweep.root]) == 0
    assert "Cost: planned and taken: llama on H200" in (sweep.root / "report.html").read_text()
