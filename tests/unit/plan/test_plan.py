"""``tpsweep plan``: counts, cost and packing, worked out by hand on small sweeps."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from snakemake_executor_plugin_submitit.site import load_site
from tests.unit.sweep.test_expand import BASE, DECODE, model
from tpsweep.cli.main import main
from tpsweep.core.row_file import write_row
from tpsweep.perfmodel.cell_time import cost, expected_of, start_seconds
from tpsweep.plan.evidence import Evidence
from tpsweep.plan.plan import Plan, make_plan
from tpsweep.plan.scripts import make_scripts
from tpsweep.plan.sessions import make_arrays, make_sessions
from tpsweep.plan.text import text
from tpsweep.sweep.sweep import Sweep, load_sweep

ROOT = Path(__file__).parents[3]
SITE: dict[str, Any] = {
    "name": "made-up",
    "cluster": "slurm",
    "account_env": "NOBODY_HAS_SET_THIS",
    "qos": "day",
    "qos_limits": {"day": {"max_minutes": 480}, "long": {"max_minutes": 2880, "max_submit": 4}},
    "parallel": 2,
    "gpus": {
        "H100": {"card": "NVIDIA H100 80GB HBM3", "memory_gib": 80, "per_node": 8},
        "H200": {"card": "NVIDIA H200", "memory_gib": 141, "per_node": 8},
        "A100": {"card": "NVIDIA A100 80GB PCIe", "memory_gib": 80, "per_node": 2},
        "cpu": {"card": "CPU", "per_node": 2},
    },
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where relative results lie: not in the repository."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sweep(folder: Path, site: dict[str, Any] | None = None, **changes: Any) -> Sweep:
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump({**SITE, **(site or {})}))
    data = {**copy.deepcopy(BASE), **changes, "results": str(folder / "results")}
    return load_sweep({**data, "site": str(path)}, ROOT)


def test_one_session_per_engine_and_the_cost_by_hand(folder: Path) -> None:
    made = sweep(folder, runs=2)
    plan = make_plan(made)
    assert plan.cells == {"planned": 8}
    assert (plan.to_run, plan.measured, plan.preflights) == (8, 0, 2)
    assert plan.cost.sessions == 4
    one, two = plan.cost.classes
    assert (one.gpu, one.gpus, one.cells, one.sessions, one.arrays) == ("H100", 1, 4, 2, (2,))
    assert (two.gpus, two.cells, two.sessions, two.arrays) == (2, 4, 2, (2,))
    # 15 minutes for the start and 10 for each of 2 cells, 2 of margin: the grid's 45
    assert (one.longest_limit_minutes, one.allowed_minutes) == (45, 480)
    assert one.limit_gpu_hours == 2 * 45 / 60
    start = cost("engine_start_s") + 16.0605 * cost("engine_start_s_per_gb")
    cells = [item.cell for item in made.planned if item.cell.engine.tp == 1]
    shape = made.config.shapes["8b"]
    seconds = sum(expected_of(cell, shape).seconds or 0 for cell in cells)
    assert start_seconds(cells[0].engine, made.config.shapes) == pytest.approx(start, rel=1e-4)
    end = cost("session_end_s")
    assert one.gpu_hours * 3600 == pytest.approx(2 * (start + end) + seconds, rel=1e-4)
    assert one.gpu_hours_unpacked * 3600 == pytest.approx(4 * (start + end) + seconds, rel=1e-4)
    assert plan.cost.saving == pytest.approx(plan.cost.gpu_hours_unpacked / plan.cost.gpu_hours)
    # two sessions of a class at a time: no second round
    assert plan.cost.hours == pytest.approx(max(one.longest_hours, two.longest_hours))


def test_a_cells_seconds_by_hand(folder: Path) -> None:
    made = sweep(folder, tp=[1])
    cell, shape = made.planned[0].cell, made.config.shapes["8b"]
    found = expected_of(cell, shape)
    assert found.prefill_ms is not None and found.tpot_ms is not None
    whole = found.prefill_ms + 127 * found.tpot_ms
    # 3 warm-ups and 20 repeats; then 1 + 20 of one token each
    assert found.seconds == pytest.approx((23 * whole + 21 * found.prefill_ms) / 1e3 + 0.3)


def test_parallel_sessions_make_rounds(folder: Path) -> None:
    plan = make_plan(sweep(folder, runs=5, tp=[1]))
    (one,) = plan.cost.classes
    assert one.sessions == 5
    assert plan.cost.hours == pytest.approx(3 * one.longest_hours)
    local = {**SITE, "cluster": "local", "parallel": 1}
    for key in ("account_env", "qos", "qos_limits"):
        local.pop(key)
    path = folder / "local.yaml"
    path.write_text(yaml.safe_dump(local))
    data = {**copy.deepcopy(BASE), "runs": 5, "tp": [1], "results": str(folder / "results")}
    plan = make_plan(load_sweep({**data, "site": str(path)}, ROOT))
    assert plan.cost.hours == pytest.approx(5 * plan.cost.classes[0].longest_hours)
    assert plan.cost.classes[0].arrays == ()


def test_what_is_measured_is_not_paid_again(folder: Path) -> None:
    made = sweep(folder, tp=[1])
    first, second = made.jobs
    Path(first).parent.mkdir(parents=True)
    Path(first).write_bytes(b"PAR1" + b"0" * 16 + b"PAR1")
    plan = make_plan(sweep(folder, tp=[1]))
    assert plan.to_run + plan.measured == 2
    again = {f"{made.results}/{path}" for path in made.damaged}
    assert plan.measured == (0 if first in again else 1)
    Path(first).unlink()
    assert make_plan(made).to_run == 2
    assert second in made.jobs


def test_sessions_split_where_the_site_ends_and_arrays_too(folder: Path) -> None:
    many = {"decode": {**DECODE, "batch": list(range(1, 101))}}
    made = sweep(folder, workloads=many, tp=[1])
    sessions = make_sessions(made.jobs, made.site, 15)
    # 478 minutes: 46 cells of 10 after a start of 15
    assert [len(one.jobs) for one in sessions] == [46, 46, 8]
    assert [one.limit_minutes for one in sessions] == [480, 480, 120]
    assert [len(a.sessions) for a in make_arrays(sessions, made.site)] == [2, 1]
    for size in (2, 1):  # 1: the cluster has no arrays
        few = made.site.model_copy(update={"max_array_size": size})
        assert [len(a.sessions) for a in make_arrays(sessions, few)] == [1, 1, 1]
    by_cell = sweep(folder, {"max_cells_per_session": 1}, workloads=many, tp=[1])
    assert len(make_sessions(by_cell.jobs, by_cell.site, 15)) == 100
    limited = by_cell.site.with_qos("long")
    sizes = [
        len(a.sessions) for a in make_arrays(make_sessions(by_cell.jobs, limited, 15), limited)
    ]
    assert sizes == [4] * 25


def test_the_scripts_are_those_of_preflights_then_of_cells(folder: Path) -> None:
    found = make_scripts(sweep(folder, {"max_array_size": 2}, runs=2), {})
    assert [len(sessions) for _, sessions in found.preflights] == [1, 1]
    assert [len(sessions) for _, sessions in found.cells] == [1] * 4
    preflight, cells = found.preflights[0][0], found.cells[0][0]
    assert "#SBATCH --time=15\n" in preflight and "#SBATCH --time=45\n" in cells
    assert found.note == "NOBODY_HAS_SET_THIS is not set here: its value will be the account"
    assert "#SBATCH --account='$NOBODY_HAS_SET_THIS'\n" in cells
    found = make_scripts(sweep(folder, runs=2), {"NOBODY_HAS_SET_THIS": "ours"})
    assert "#SBATCH --account=ours\n" in found.cells[0][0] and not found.note
    assert [len(sessions) for _, sessions in found.cells] == [2, 2]
    assert "#SBATCH --array=0-1%2\n" in found.cells[0][0]
    text = found.as_text()
    heads = ("# preflights, which the cells wait for: 2 scripts, 2 jobs", "# cells: 2 scripts, 4")
    assert text.startswith(heads[0]) and heads[1] in text
    assert text.endswith("# nothing was submitted\n") and text.count("#!/bin/bash") == 4
    rows = [job for one in found.as_json()[2:] for of in one["sessions"] for job in of["jobs"]]
    assert len(rows) == 8 and all(row.endswith(".parquet") for row in rows)
    assert not (folder / ".snakemake").exists()


def test_what_cannot_run_is_grouped_by_reason(folder: Path) -> None:
    models = {"70b": model("70b")}
    plan = make_plan(sweep(folder, models=models, gpus=["H100", "H200", "A100"], tp=[1, 2, 4]))
    by_place = {(hole.gpus, hole.tps): hole for hole in plan.holes}
    assert by_place[("H100",), (1,)].reason.endswith("it fits from tp 2")
    assert "141.1 GB a GPU > 136.3 GB (141 GiB x 0.9 of H200)" in by_place[("H200",), (1,)].reason
    assert by_place[("A100",), (4,)].cells == 2
    assert sum(hole.cells for hole in plan.holes) == plan.cells["infeasible"]


def test_what_cannot_run_is_called_by_its_layout(folder: Path) -> None:
    said = text(make_plan(sweep(folder, gpus=["H100", "A100"], tp=[1, 2], pp=[1, 2])))
    assert "2 cells of 8b at TP=2 x PP=2 on A100: infeasible: tp 2 x pp 2" in said
    left_out = [{"pp": 2, "reason": "later"}]
    said = text(make_plan(sweep(folder, tp=[1, 2], pp=[1, 2], exclude=left_out)))
    assert "4 cells of 8b at TP=1 x PP=2, TP=2 x PP=2 on H100: excluded: later" in said


def test_a_sweep_that_packs_nothing_is_not_called_a_saving(folder: Path) -> None:
    said = text(make_plan(sweep(folder, workloads={"decode": {**DECODE, "batch": [1]}})))
    assert "times less" not in said
    assert "Packing: each of 2 sessions has one cell.\n" in said


def test_the_text_says_all_of_it(folder: Path) -> None:
    plan = make_plan(sweep(folder, gpus=["H100", "cpu"]))
    said = text(plan)
    assert "To run: 8 cells (0 are measured) in 4 sessions" in said
    assert f"{plan.cost.saving:.3g} times less" in said
    assert "4 cells: no datasheet figures for the card 'CPU'" in said
    assert "4 cells have no expected time and count with their own limit" in said
    assert "1/4" in said  # batches side by side
    assert max(map(len, said.splitlines())) < 250


def measured(made: Sweep, minutes: float, start_s: float) -> None:
    """A made-up row of the first cell of the sweep, at the place of that cell's row."""
    path, job = next(iter(made.jobs.items()))
    began = datetime(2026, 1, 1, tzinfo=UTC)
    row = {
        **job.cell.columns(),
        "cell_id": job.cell.cell_id,
        "started_at": began.isoformat(),
        "ended_at": (began + timedelta(minutes=minutes)).isoformat(),
        "engine_id": "one",
        "engine_start_s": start_s,
        "warmups": job.cell.warmups,
        "repeats": job.cell.repeats,
        "synthetic": True,
    }
    write_row(row, Path(path))


def test_where_nothing_is_known_no_saving_is_claimed(folder: Path) -> None:
    plan = make_plan(sweep(folder, gpus=["cpu"]))
    said = text(plan)
    assert plan.cost.saving is None and plan.as_json()["cost"]["saving"] is None
    assert "2 engine starts instead of 4; how many GPU hours that saves is not known." in said
    assert "it takes at most " in said and "times less" not in said
    assert "4 cells have no expected time and count with their own limit: the hours are" in said


def test_rows_that_are_there_say_how_long_the_others_take(folder: Path) -> None:
    """Even those of an older matrix, by the iteration: here 23 then, 46 now."""
    measured(sweep(folder, gpus=["cpu"], tp=[1]), minutes=0.5, start_s=40.0)
    twice = {"decode": {**DECODE, "batch": [1], "warmups": 6, "repeats": 40}}
    plan = make_plan(sweep(folder, gpus=["cpu"], workloads=twice))
    assert (plan.to_run, plan.from_rows, plan.cost.at_limit) == (2, 2, 0)
    both = 2 * (40 + 60 + cost("session_end_s"))
    seconds = sum(one.gpu_hours / one.gpus for one in plan.cost.classes) * 3600
    assert seconds == pytest.approx(both)
    said = text(plan)
    assert (
        f"2 cells without an expected time count as long as rows like them in {plan.results}"
        in said
    )
    assert "2 cells: no datasheet figures for the card 'CPU'; seconds: as rows like it took" in said
    assert "at most" not in said.replace("preflights of at most", "")


def test_the_nearest_rows_count(folder: Path) -> None:
    made = sweep(folder, gpus=["cpu"])
    first, *others = (job.cell for job in made.jobs.values())
    rows = [
        {
            **cell.columns(),
            "warmups": 0,
            "repeats": 1,
            "started_at": "2026-01-01T00:00:00+00:00",
            "ended_at": f"2026-01-01T00:00:{at + 1:02}+00:00",
            "engine_id": str(at),
            "engine_start_s": 30.0 + at,
        }
        for at, cell in enumerate(others)
    ]
    evidence = Evidence(rows)
    same_tp = next(row for row in rows if row["tp"] == first.engine.tp)
    took = int(same_tp["ended_at"][17:19])
    assert evidence.seconds(first) == took * (first.warmups + first.repeats)
    assert evidence.start_seconds(first.engine) == 31.0
    assert Evidence().seconds(first) is None and Evidence().start_seconds(first.engine) is None


def test_few_runs_are_a_warning(folder: Path) -> None:
    workloads = {"decode": DECODE, "often": {**DECODE, "input_len": [64], "runs": 3}}
    asking = {"slurm": {"exclusive": True}}
    (said,) = make_plan(sweep(folder, asking, workloads=workloads)).warnings
    assert said.startswith("runs: 1 (decode): no difference can be significant; 3 runs")
    assert not make_plan(sweep(folder, asking, runs=3)).warnings


def test_a_card_by_a_short_name_is_told_its_own(folder: Path) -> None:
    short = {"gpus": {**SITE["gpus"], "H100": {"card": "H100", "per_node": 8}}}
    said = "card 'H100'; allowed: nvidia-smi's name, such as NVIDIA H100 80GB HBM3 or"
    assert said in text(make_plan(sweep(folder, short)))


def test_a_class_whose_jobs_ask_for_no_gpu_is_a_warning(folder: Path) -> None:
    said = "gpus.H100.slurm of the site file asks for no GPU"
    assert any(w.startswith(said) for w in make_plan(sweep(folder)).warnings)
    for flags in ({"gres": "gpu:{n}"}, {"gpus-per-node": "{n}"}, {"exclusive": True}):
        asking = {"gpus": {**SITE["gpus"], "H100": {**SITE["gpus"]["H100"], "slurm": flags}}}
        warnings = make_plan(sweep(folder, asking)).warnings
        assert not any(w.startswith(said) for w in warnings), flags
    no_gpu = make_plan(sweep(folder, gpus=["cpu"])).warnings
    assert not any("asks for no GPU" in warning for warning in no_gpu)


def test_cells_that_their_own_limit_would_end_are_a_warning(folder: Path) -> None:
    long = {**DECODE, "batch": [1, 4], "output_len": [4000], "repeats": 50, "minutes": 20}
    long["engine"] = {"max_model_len": 8192}
    plan = make_plan(sweep(folder, workloads={"long": long}, tp=[1]))
    late = [expected.seconds for _, expected in plan.expected if expected.seconds > 1200]
    (said,) = [w for w in plan.warnings if w.startswith("workloads.long.minutes: 20, but ")]
    assert len(late) == 2 and "2 cells should take longer" in said
    assert f"up to {max(late) / 60:.0f} minutes, TP=1 b4-" in said
    short = make_plan(sweep(folder))
    assert not any("should take longer" in warning for warning in short.warnings)


def test_requests_in_flight_are_those_that_the_cache_holds(folder: Path) -> None:
    """70B at TP=2 leaves an H100 room for few sequences: more cannot share a step."""
    serve = {"kind": "serve", "num_prompts": [256], "input_len": [2048], "output_len": [512]}
    serve |= {"request_rate": ["inf"], "warmups": 1, "repeats": 3, "minutes": 60}
    limits = {"max_model_len": 4096, "max_num_batched_tokens": 2048, "gpu_memory_utilization": 0.93}
    found = {}
    for sequences in (256, 8):
        engine = {**limits, "max_num_seqs": sequences}
        entry = {"s": {**serve, "engine": engine}}
        made = sweep(folder, models={"70b": model("70b")}, tp=[2], gpus=["H100"], workloads=entry)
        plan = make_plan(made)
        (memory,) = plan.memory
        ((_, expected),) = plan.expected
        found[sequences] = expected.tpot_ms, memory.cache_tokens // 2560
    (many, room), (few, _) = found[256], found[8]
    assert 8 <= room < 30 and few <= many < 2 * few


def test_json_has_every_cell_and_no_infinity(folder: Path) -> None:
    serve = {
        "kind": "serve",
        "num_prompts": [50],
        "input_len": [220],
        "output_len": [190],
        "request_rate": [4, "inf"],
        "replicas": [1, 2],
        "max_concurrency": [None, 8],
    }
    plan = make_plan(sweep(folder, workloads={"decode": DECODE, "serve": serve}))
    found = json.loads(json.dumps(plan.as_json(), allow_nan=False))
    assert len(found["expected"]) == found["cells"]["planned"] == 4 + 16
    assert {line["request_rate"] for line in found["expected"]} == {None, 4.0, "inf"}
    for line in found["expected"]:
        assert line["prefill_ms"] > 0 and line["tpot_ms"] > 0 and line["seconds"] > 0
    assert found["cost"]["gpu_hours"] == pytest.approx(plan.cost.gpu_hours)


def test_a_server_under_load_as_the_smoke_test_found_it(folder: Path) -> None:
    """Measured on H200, 8B, TP=1: TPOT 5.16 ms at 4 requests/s; when 128 were offered, 18.6 and
    19.4 ms on two hosts, and 68.4 and 65.8 requests/s. Nothing is fitted on these."""
    serve = {
        "kind": "serve",
        "num_prompts": [1280],
        "input_len": [220],
        "output_len": [190],
        "request_rate": [4, 128],
        "engine": {"max_num_batched_tokens": 16384},
        "repeats": 3,
    }
    made = sweep(folder, workloads={"serve": serve}, gpus=["H200"], tp=[1])
    calm, busy = (expected_of(item.cell, made.config.shapes["8b"]) for item in made.planned)
    assert calm.tpot_ms == pytest.approx(5.16, rel=0.05)
    assert busy.tpot_ms == pytest.approx((18.6 + 19.4) / 2, rel=0.05)
    assert busy.seconds is not None
    assert 3 * 1280 / busy.seconds == pytest.approx((68.4 + 65.8) / 2, rel=0.1)


SYNTHETIC_DRAFTS = {
    "num_speculative_tokens": 3,
    "rejection_sample_method": "synthetic",
    "synthetic_acceptance_length": 2.0,
}


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"allreduce_backends": ["flashinfer"]}, "allreduce_backend: 'flashinfer'"),
        ({"tp": [8]}, "all-reduce curve for 8 x NVIDIA H100"),
        (
            {"variants": {"drafts": {"speculative_config": SYNTHETIC_DRAFTS}}},
            "no constants for speculative_config",
        ),
        (
            {"models": {"8b": model("8b", path="some/where", shape=None)}},
            "the model's shape is not known before it is fetched",
        ),
        (
            {
                "models": {
                    "8b": {
                        **model("8b", dtype="float16"),
                        "shape": "tests/data/models/llama-3.1-8b-awq.json",
                    }
                }
            },
            "no constants for awq weights",
        ),
    ],
)
def test_where_nothing_is_expected_it_says_why(
    folder: Path, changes: dict[str, Any], note: str
) -> None:
    plan: Plan = make_plan(sweep(folder, **{"tp": [2], **changes}))
    assert plan.expected
    assert all(note in str(expected.note) for _, expected in plan.expected)
    assert plan.cost.classes[0].at_limit == 2


def test_eager_mode_is_expected_to_be_slow(folder: Path) -> None:
    variants = {"default": {}, "eager": {"enforce_eager": True}}
    plan = make_plan(sweep(folder, tp=[2], variants=variants, workloads={"d": DECODE}))
    default, eager = (
        next(e.tpot_ms for p, e in plan.expected if p.cell.engine.variant == name)
        for name in variants
    )
    assert default is not None and eager is not None
    assert eager > 4 * default


def test_the_command_plans_a_profile(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACE_ACCOUNT", "of-a-test")
    assert main(["plan", "--profile", str(ROOT / "cluster" / "pace"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cells"]["planned"] == len(found["expected"])
    assert load_site(ROOT / "cluster" / "pace" / "site.yaml").name == found["site"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--profile: missing"),
        (["--profile", "nowhere"], "nowhere: not a profile, it has no config.yaml; allowed: a fo"),
        (["--profile", "cluster/pace", "--qos", "gold"], "--qos: 'gold', allowed: inferno, embers"),
        (["--site", "cluster/pace/site.yaml", "--configfile", "Makefile"], "Makefile"),
        (["--profile", "cluster/local", "--sbatch"], "--sbatch: site local has no scheduler"),
        (["--explain", "llama-3.1-8b", "--sbatch"], "--sbatch: not with --explain"),
    ],
)
def test_bad_usage_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["plan", *words]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1 and not captured.out
