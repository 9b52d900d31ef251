"""A real sweep from the matrix to the comparison, on real vLLM: the spine of everything."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

import pandas as pd
import pytest

from tests.vllm.conftest import ROOT, Project
from tpsweep.core.method import METHOD

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def swept(new_project: Callable[[], Project]) -> Project:
    """A small sweep that has ended well: TP 1 and 2, batch 1 and 2."""
    project = new_project()
    done = project.run()
    assert done.returncode == 0, done.stdout[-4000:]
    return project


def test_every_cell_is_a_row_measured_at_its_tp(swept: Project) -> None:
    rows = pd.read_parquet(swept.results / "cells")
    assert sorted(zip(rows.tp, rows.batch, strict=True)) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert (rows.tp_ran == rows.tp).all()
    assert not rows.synthetic.any()
    assert (rows.prefill_ms > 0).all()
    assert (rows.tpot_ms > 0).all()
    assert rows.tpot_ms_samples.map(len).tolist() == [8] * 4
    assert (rows.method == METHOD["latency"]).all()


def test_sessions_leave_their_rows_joined(swept: Project) -> None:
    assert (swept.results / ".rows").is_dir()  # `tables` empties it


def test_every_static_batch_is_scheduled_at_one_instant(swept: Project) -> None:
    rows = pd.read_parquet(swept.results / "cells")
    assert rows.batch_held.all()
    assert [list(found) for found in rows.scheduled_instants_samples] == [[1] * 8] * 4


def test_rows_say_how_they_were_measured(swept: Project) -> None:
    rows = pd.read_parquet(swept.results / "cells")
    assert rows.session_shuffled.all()
    assert (rows.graphs == "none").all()  # the sweep's variant is eager
    assert (rows.energy_repeats == rows.repeats).all()  # no GPU, so none go on for the energy


def test_decode_by_timestamps_agrees_with_the_difference_of_lengths(swept: Project) -> None:
    # Two ways to the same figure (measuring rule 1). The second has the noise of L(1) in it.
    rows = pd.read_parquet(swept.results / "cells")
    assert ((rows.tpot_diff_ms / rows.tpot_ms - 1).abs() < 0.35).all()


def test_cells_of_a_session_share_one_engine(swept: Project) -> None:
    rows = pd.read_parquet(swept.results / "cells")
    assert swept.engine_starts() == swept.sessions() == rows.engine_id.nunique() == 2
    assert sorted(rows.session_order) == [0, 0, 1, 1]
    gaps = rows.gap_s.dropna().tolist()
    print(f"gap between two cells of a session: {gaps} s")
    assert len(gaps) == 2


def test_the_comparison_is_complete(swept: Project) -> None:
    table = swept.table("tp_comparison")
    assert "INCOMPLETE" not in table
    assert table.count("| measured |") == 4
    check = subprocess.run(
        [sys.executable, "-m", "tpsweep", "check", str(swept.results), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 0, check.stderr
    assert json.loads(check.stdout)


def test_a_second_run_runs_no_cell(swept: Project) -> None:
    begin = time.monotonic()
    done = swept.run()
    print(f"second run: {time.monotonic() - begin:.1f} s")
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout
    assert swept.engine_starts() == 2


def test_comments_labels_and_copies_rerun_no_cell(swept: Project) -> None:
    original = (swept.folder / "sweep.yaml").read_text()
    labelled = original.replace("  tiny-llama:\n", "  tiny-llama:\n    label: another word\n", 1)
    assert labelled != original
    try:
        (swept.folder / "sweep.yaml").write_text("# a comment\n" + labelled)
        planned = swept.run("-n")
        assert jobs(planned.stdout).keys() == {
            "new_config",
            "manifest",
            "tables",
            "figures",
            "report",
            "all",
            "total",
        }
    finally:
        (swept.folder / "sweep.yaml").write_text(original)


def test_a_copied_results_folder_reruns_no_cell(
    swept: Project, new_project: Callable[[], Project]
) -> None:
    copy = new_project()
    # As a clone does it: new times, nothing of Snakemake's own, and no model folder.
    shutil.copytree(swept.results, copy.results, copy_function=shutil.copyfile)
    shutil.rmtree(copy.results / "models")
    assert "latency" not in jobs(copy.run("-n").stdout)
    copy.rows()[0].unlink()
    assert jobs(copy.run("-n").stdout)["latency"] == 1


def test_what_affects_a_number_reruns_its_cells_only(swept: Project) -> None:
    original = (swept.folder / "sweep.yaml").read_text()
    try:
        swept.configure(decode={"batch": [1, 4]})
        planned = swept.run("-n").stdout
    finally:
        (swept.folder / "sweep.yaml").write_text(original)
    assert jobs(planned)["latency"] == 2  # batch 4 at TP 1 and 2; batch 1 stays


def test_vllms_own_latency_benchmark_agrees(swept: Project) -> None:
    row = next(path for path in swept.rows() if "/tp2/" in str(path) and "/b2-" in str(path))
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/vllm/their_latency.py"), str(row), "--iterations", "20"],
        cwd=swept.folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    print(result)
    # Neither side misses or adds work, nor times anything but the call, however busy the machine.
    assert result["ours_work"] == result["theirs_work"] == [[2, 2 * 64, 2 * 32]]
    assert abs(result["ours_off_pct"]) < 5
    assert abs(result["theirs_off_pct"]) < 5
    # On a quiet machine the medians of a round are near each other; on a busy one every sample is
    # spoilt, by up to a factor of three, and the medians lie within the other's range at least.
    near = min(abs(pct) for pct in result["round_difference_pct"]) < 15
    assert near or result["agree"], result


def jobs(output: str) -> dict[str, int]:
    """Jobs per rule, from Snakemake's "Job stats"; empty if there is nothing to be done."""
    return {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE)}
