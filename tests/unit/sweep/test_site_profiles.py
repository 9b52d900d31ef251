"""The committed profiles: each loads, plans its sweep, and holds nobody's account."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tpsweep.perfmodel.gpu_specs import card_by_name
from tpsweep.sweep.expand import Planned
from tpsweep.sweep.sweep import Sweep, load_sweep

ROOT = Path(__file__).parents[3]
PROFILES = sorted(path.parent for path in ROOT.glob("cluster/*/site.yaml"))
each_profile = pytest.mark.parametrize("folder", PROFILES, ids=lambda folder: folder.name)


def settings(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    return data


def load(folder: Path) -> Sweep:
    """The sweep that `snakemake --profile FOLDER` reads: the profile's configfile and site."""
    profile = settings(folder)
    raw = yaml.safe_load((folder / profile["configfile"]).read_text("utf-8"))
    (site,) = profile["config"]
    raw["site"] = site.removeprefix("site=")
    return load_sweep(raw, ROOT)


@pytest.fixture(scope="module")
def pace() -> Sweep:
    return load(ROOT / "cluster" / "pace")


def test_all_profiles_are_seen() -> None:
    assert {"local", "gpu-host", "pace"} <= {folder.name for folder in PROFILES}
    assert sorted(path.parent for path in ROOT.glob("cluster/*/config.yaml")) == PROFILES


@each_profile
def test_a_profile_plans_its_sweep(folder: Path) -> None:
    sweep = load(folder)
    assert sweep.site.name == folder.name
    assert sweep.jobs
    assert {job.gpu_type for job in sweep.jobs.values()} <= set(sweep.site.gpus)


@each_profile
def test_the_executor_reads_the_same_site_file(folder: Path) -> None:
    profile = settings(folder)
    assert profile["executor"] == "submitit"
    assert profile["config"] == [f"site=cluster/{folder.name}/{profile['submitit-site']}"]


@each_profile
def test_a_profile_lets_the_executor_pack(folder: Path) -> None:
    profile = settings(folder)
    assert profile["scheduler"] == "first-fit"
    assert profile["jobs"] >= 10_000
    assert int(profile["max-jobs-per-timespan"].split("/")[0]) >= 10_000


@each_profile
def test_a_profile_reruns_for_identity_and_goes_on_after_a_failure(folder: Path) -> None:
    profile = settings(folder)
    # `params` holds the identity; `code` would rerun GPU-hours for a comment in a rule.
    assert set(profile["rerun-triggers"]) == {"mtime", "params"}
    assert profile["keep-going"] is True
    # To resume: outputs of a killed Snakemake stay marked as incomplete until they are recorded.
    assert profile["rerun-incomplete"] is True
    assert "keep-incomplete" not in profile


@each_profile
def test_no_profile_holds_an_account(folder: Path) -> None:
    site = load(folder).site
    flags = [site.slurm, *(gpu.slurm for gpu in site.gpus.values())]
    assert not {"account", "A"} & {name for given in flags for name in given}
    # Only the NAME of a variable: an account in its place has small letters and dashes.
    assert site.account_env is None or re.fullmatch(r"[A-Z][A-Z0-9_]*", site.account_env)
    text = "".join(path.read_text("utf-8") for path in folder.glob("*.yaml"))
    assert not re.search(r"--account|(?m:^\s*account\s*:)|\bgts-\w|HF_TOKEN\s*[:=]", text)


def infeasible(sweep: Sweep, gpu: str, model: str, tp: int) -> set[str | None]:
    """Reasons of all latency cells of an engine size; None for a planned one."""

    def is_asked(item: Planned) -> bool:
        engine = item.cell.engine
        asked = (engine.gpu, engine.model.name, engine.tp) == (gpu, model, tp)
        return asked and item.cell.workload == "latency"

    found = [item for item in sweep.planned if is_asked(item)]
    assert found
    assert {item.status for item in found} in ({"infeasible"}, {"planned"})
    return {item.reason for item in found}


@pytest.mark.parametrize("gpu", ["H100", "A100"])
def test_70b_at_tp1_does_not_fit_80_gb(pace: Sweep, gpu: str) -> None:
    # 70,553,706,496 parameters of 2 bytes; 80 GiB x 0.92 = 79.0e9 bytes.
    arithmetic = "weights 141.1 GB / tp 1 = 141.1 GB a GPU > 79.0 GB (80 GiB x 0.92 of "
    assert infeasible(pace, gpu, "llama-3.1-70b", 1) == {f"{arithmetic}{gpu}); it fits from tp 2"}


def test_tp4_does_not_fit_a_node_of_two(pace: Sweep) -> None:
    reason = "tp 4 x replicas 1 = 4 GPUs > 2 on a node of A100"
    assert infeasible(pace, "A100", "llama-3.1-8b", 4) == {reason}
    assert infeasible(pace, "H100", "llama-3.1-8b", 4) == {None}


def test_70b_is_planned_where_it_fits(pace: Sweep) -> None:
    for gpu in ("H100", "H200", "A100"):
        assert infeasible(pace, gpu, "llama-3.1-70b", 2) == {None}


def test_pace_names_its_cards_as_the_datasheet_table_does(pace: Sweep) -> None:
    assert set(pace.site.gpus) == {"H100", "H200", "A100", "L40S"}
    for name, gpu in pace.site.gpus.items():
        card = card_by_name(gpu.card)
        assert card is not None, name
        assert card.memory_gib == gpu.memory_gib, name
    per_node = {name: gpu.per_node for name, gpu in pace.site.gpus.items()}
    assert per_node == {"H100": 8, "H200": 8, "A100": 2, "L40S": 8}


def test_pace_asks_slurm_for_as_many_gpus_as_the_engine_holds(pace: Sweep) -> None:
    for name, gpu in pace.site.gpus.items():
        assert gpu.slurm["gres"].format(n=2) == f"gpu:{name}:2"


def test_pace_plans_every_cell_with_snakemake(
    pace: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(str(pace.site.account_env), "of-a-test")
    for part in ("Snakefile", "config.yaml", "workflow", "scripts", "cluster/pace"):
        source, target = ROOT / part, tmp_path / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    command = [sys.executable, "-m", "snakemake", "--profile", "cluster/pace", "-n"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-2000:]
    counts = dict(re.findall(r"^(latency|throughput|serve|capture)\s+(\d+)$", said, re.MULTILINE))
    assert len(counts) == 4, said[-2000:]
    assert sum(map(int, counts.values())) == len(pace.jobs)
