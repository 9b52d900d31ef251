"""A real sweep from the matrix to the comparison and the communication table, on real vLLM.

One sweep for all tests of this file: an engine start takes half a minute.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.vllm.conftest import ROOT, Project
from tpsweep.core.method import METHOD

pytestmark = [pytest.mark.vllm, pytest.mark.alone]
LAYERS = 4
RUNS = 3


@pytest.fixture(scope="module")
def swept(new_project: Callable[[], Project]) -> Project:
    """A sweep that has ended well: latency cells and captures, TP 1 and 2, batch 1 and 2."""
    project = new_project()
    path = project.folder / "sweep.yaml"
    config = yaml.safe_load(path.read_text())
    shipped = yaml.safe_load((project.folder / "cluster/local/sweep.yaml").read_text())
    capture = shipped["workloads"]["communication"] | {"batch": [1, 2]}
    config["workloads"]["communication"] = capture
    path.write_text(yaml.safe_dump(config))
    done = project.run()
    assert done.returncode == 0, done.stdout[-4000:]
    (project.folder / "said.log").write_text(done.stdout)
    return project


def latency(swept: Project) -> pd.DataFrame:
    return pd.read_parquet(swept.results / "cells/latency")


def captures(swept: Project) -> pd.DataFrame:
    return pd.read_parquet(swept.results / "cells/capture")


def reports(swept: Project) -> list[Path]:
    return sorted(swept.results.glob("captures/**/*.comm.json"))


def test_every_cell_is_a_row_measured_at_its_tp(swept: Project) -> None:
    rows = latency(swept)
    assert sorted(zip(rows.tp, rows.batch, strict=True)) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert (rows.tp_ran == rows.tp).all()
    assert not rows.synthetic.any()
    assert (rows.prefill_ms > 0).all()
    assert (rows.tpot_ms > 0).all()
    assert rows.tpot_ms_samples.map(len).tolist() == [8] * 4
    assert (rows.method == METHOD["latency"]).all()


def test_each_cell_is_named_with_its_first_result_as_it_ends(swept: Project) -> None:
    said = (swept.folder / "said.log").read_text()
    found = re.findall(r"^tpsweep: tiny-llama TP=(\d), batch (\d): (\S+) ms/token$", said, re.M)
    rows = latency(swept).to_dict("records")
    assert sorted(found) == sorted(
        (str(row["tp"]), str(row["batch"]), f"{row['tpot_ms']:.3g}") for row in rows
    )


def test_sessions_leave_their_rows_joined(swept: Project) -> None:
    assert (swept.results / ".rows").is_dir()  # `tables` empties it


def test_every_static_batch_is_scheduled_at_one_instant(swept: Project) -> None:
    rows = latency(swept)
    assert rows.batch_held.all()
    assert [list(found) for found in rows.scheduled_instants_samples] == [[1] * 8] * 4


def test_rows_say_how_they_were_measured(swept: Project) -> None:
    rows = latency(swept)
    assert rows.session_shuffled.all()
    assert (rows.graphs == "none").all()  # the sweep's variant is eager
    assert (rows.energy_repeats == rows.repeats).all()  # no GPU, so none go on for the energy


def test_decode_by_timestamps_agrees_with_the_difference_of_lengths(swept: Project) -> None:
    # Two ways to the same figure (measuring rule 1). The second has the noise of L(1) in it.
    rows = latency(swept)
    assert ((rows.tpot_diff_ms / rows.tpot_ms - 1).abs() < 0.35).all()


def test_cells_of_a_session_share_one_engine(swept: Project) -> None:
    rows = latency(swept)
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


def test_a_capture_costs_no_engine_start_and_comes_last(swept: Project) -> None:
    rows = pd.read_parquet(swept.results / "cells")
    assert swept.engine_starts() == rows.engine_id.nunique() == 2
    for _, session in rows.groupby("engine_id"):
        workloads = session.sort_values("session_order").workload.tolist()
        assert workloads == ["latency", "latency", "capture", "capture"]


def test_every_all_reduce_of_every_step_is_found(swept: Project) -> None:
    assert len(reports(swept)) == 4
    for path in reports(swept):
        report = json.loads(path.read_text())
        decode = report["phases"]["decode"]
        tp = 2 if "/tp2/" in str(path) else 1
        assert report["ranks"] == tp
        assert report["self_check"]["ok"], report
        expected = (2 * LAYERS + 1, 1) if tp == 2 else (0, 0)
        assert (decode["all_reduce_per_step"], decode["all_gather_per_step"]) == expected
        steps = {name: phase["steps"] for name, phase in report["phases"].items()}
        # The batch is scheduled in one piece, and the later half of its decode is looked at.
        assert steps == {"prefill": RUNS, "early": RUNS * 7, "decode": RUNS * 8}
        assert report["steady_from"] == 7


def test_the_communication_table_has_them(swept: Project) -> None:
    table = pd.read_parquet(swept.results / "tables/communication.parquet")
    assert sorted(zip(table.tp, table.batch, strict=True)) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    split = table[table.tp == 2]
    assert split.all_reduce_per_step.tolist() == [9, 9]
    assert (split.transfer_fraction_profiled > 0).all()
    # Of the step without a profiler, from the latency cell beside it.
    assert (split.transfer_fraction > 0).all()
    assert "INCOMPLETE" not in swept.table("communication")


def test_a_profiled_run_is_in_no_latency_table(swept: Project) -> None:
    rows = captures(swept)
    assert rows.tpot_ms.isna().all()
    assert rows.profiler_ran.str.startswith("torch ").all()
    comparison = pd.read_parquet(swept.results / "tables/tp_comparison.parquet")
    assert set(comparison.workload) == {"latency"}


def test_the_row_names_the_files_of_its_capture(swept: Project) -> None:
    for names in captures(swept).capture_files:
        assert all((swept.results / name).is_file() for name in names)
        sidecar = json.loads((swept.results / names[-1]).read_text())
        assert sidecar["model"]["num_hidden_layers"] == LAYERS
        assert str(swept.folder) not in json.dumps(sidecar)


def test_a_second_run_runs_no_cell(swept: Project) -> None:
    begin = time.monotonic()
    done = swept.run()
    print(f"second run: {time.monotonic() - begin:.1f} s")
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout
    assert "tpsweep: page: results/report.html; " in done.stdout
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


def test_a_copied_results_folder_reruns_no_cell_and_no_analysis(
    swept: Project, new_project: Callable[[], Project]
) -> None:
    copy = new_project()
    # As a clone does it: new times, nothing of Snakemake's own, and no model folder.
    shutil.copy(swept.folder / "sweep.yaml", copy.folder)
    shutil.copytree(swept.results, copy.results, copy_function=shutil.copyfile)
    shutil.rmtree(copy.results / "models")
    measures = {"latency", "capture", "communication"}
    assert not measures & jobs(copy.run("-n").stdout).keys()
    next(path for path in copy.rows() if "/latency/" in str(path)).unlink()
    reports(copy)[0].unlink()
    planned = jobs(copy.run("-n").stdout)
    # The analysis of a capture that is still there, and no capture.
    assert [planned.get(rule) for rule in sorted(measures)] == [None, 1, 1]


def test_what_affects_a_number_reruns_its_cells_only(swept: Project) -> None:
    original = (swept.folder / "sweep.yaml").read_text()
    try:
        swept.configure(decode={"batch": [1, 4]})
        planned = swept.run("-n").stdout
    finally:
        (swept.folder / "sweep.yaml").write_text(original)
    assert jobs(planned)["latency"] == 2  # batch 4 at TP 1 and 2; batch 1 stays


def test_vllms_own_latency_benchmark_agrees(swept: Project) -> None:
    rows = (str(path) for path in swept.rows())
    row = next(path for path in rows if "/latency/" in path and "/tp2/" in path and "/b2-" in path)
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/vllm/their_latency.py"), row, "--iterations", "20"],
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
