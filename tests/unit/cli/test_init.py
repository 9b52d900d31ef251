"""``tpsweep init``: what it writes is what a run takes, and a wrong flag is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from snakemake_executor_plugin_submitit.site import load_site
from tpsweep.cli.main import main
from tpsweep.config.load import load_config
from tpsweep.plan.plan import make_plan
from tpsweep.sweep.snakemake_profile import configfile_of, read_profile, read_sweep, site_of

ROOT = Path(__file__).parents[3]
SHAPE = str(ROOT / "workflow/models/llama-3.1-8b.json")
SITE = [
    *("site", "grete", "--gpu", "A100", "--card", "NVIDIA A100-SXM4-80GB", "--per-node", "4"),
    *("--slurm", "partition=grete", "--slurm", "constraint=80gb&inet"),
    *("--slurm", "gpus-per-node=A100:{n}", "--python", "~/envs/vllm/bin/python"),
    *("--environment", "HF_HUB_OFFLINE=1", "--setup", "module load cuda: 12", "--qos", "2h"),
]
SWEEP = ["sweep", "--model", SHAPE, "--gpus", "A100", "--vllm-version", "0.32.0"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["init", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


def test_a_folder_without_a_tokenizer_is_a_shape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "My-Model"
    folder.mkdir()
    (folder / "config.json").write_text((ROOT / "workflow/models/tiny-llama.json").read_text())
    written = {}
    for model in (folder, folder / "config.json"):
        asked = ["--model", str(model), "--gpus", "H100", "--vllm-version", "0.32.0"]
        assert main(["init", "sweep", *asked, "--output", "-"]) == 0
        written[model] = yaml.safe_load(capsys.readouterr().out)["models"]
    assert len({str(models) for models in written.values()}) == 1
    assert written[folder]["my-model"]["shape"] == str(folder / "config.json")
    (folder / "tokenizer.json").write_text("{}")
    assert (
        main(["init", "sweep", "--model", str(folder), *asked[2:], "--dummy", "--output", "-"]) == 0
    )
    assert yaml.safe_load(capsys.readouterr().out)["models"]["my-model"]["path"] == str(folder)


def test_a_site_and_a_sweep_make_a_plan(folder: Path) -> None:
    assert main(["init", *SITE]) == 0
    profile = Path("cluster", "grete")
    workloads = ("latency", "throughput", "serve", "capacity", "capture")
    sweep = [*SWEEP, "--tp", "1", "2", "4", "--output", str(profile / "sweep.yaml")]
    assert main(["init", *sweep, "--workloads", *workloads]) == 0
    read = read_sweep(site_of(profile), configfile_of(profile))
    assert {item.status for item in read.planned} == {"planned"}
    assert {item.cell.workload for item in read.planned} == set(workloads)
    # Three TPs and three runs: all workloads of one share an engine's start, captures apart (nsys).
    assert make_plan(read).cost.sessions in (9, 18)
    site = read.site
    assert site.gpus["A100"].slurm == {
        "partition": "grete",
        "constraint": "80gb&inet",
        "gpus-per-node": "A100:{n}",
    }
    assert (site.python, site.qos, site.setup) == (
        "~/envs/vllm/bin/python",
        "2h",
        ["module load cuda: 12"],
    )
    assert site.environment == {"HF_HUB_OFFLINE": "1"}
    assert site.gpus["A100"].memory_gib == 80, "the datasheet's"


def test_the_profile_is_that_of_the_repository() -> None:
    assert main(["init", *SITE]) == 0
    made, ours = read_profile(Path("cluster/grete")), read_profile(ROOT / "cluster/pace")
    for mine in (made, ours):
        del mine["config"], mine["configfile"]
    assert made == ours


def test_a_host_without_slurm() -> None:
    assert main(["init", "site", "box", "--local"]) == 0
    site = load_site(Path("cluster/box/site.yaml"))
    assert (site.cluster, list(site.gpus)) == ("local", ["gpu"])


def test_comments_say_what_else_there_is() -> None:
    assert main(["init", "site", "box", "--local"]) == 0
    assert main(["init", *SWEEP, "--dummy"]) == 0
    written = Path("cluster/box/site.yaml").read_text(), Path("sweep.yaml").read_text()
    assert all("\n# python:" in text or "\n# prices:" in text for text in written)
    assert "# variants:" in written[1]


def test_names_that_yaml_would_take_for_something_else() -> None:
    model = Path("no")
    model.mkdir()
    (model / "config.json").write_text(Path(SHAPE).read_text())
    sweep = ["sweep", "--model", "no", "--gpus", "off", "--vllm-version", "0.32.0", "--dummy"]
    assert main(["init", *sweep]) == 0
    read = yaml.safe_load(Path("sweep.yaml").read_text())
    assert (list(read["models"]), read["gpus"]) == (["no"], ["off"])
    assert load_config(read, Path.cwd()).models["no"].weights == "dummy"


def test_a_sweep_on_stdout(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", *SWEEP, "--output", "-"]) == 0
    printed = capsys.readouterr()
    read = yaml.safe_load(printed.out)
    assert load_config(read, Path.cwd()) and read["gpus"] == ["A100"]
    assert printed.err.splitlines() == [
        "tpsweep init: next: tpsweep plan --profile cluster/<site> --configfile FILE"
    ]
    assert not list(folder.iterdir()), "nothing is written"


def test_nothing_is_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("sweep.yaml").write_text("mine")
    assert "--output: sweep.yaml exists, allowed: a new place" in refusal(capsys, *SWEEP)
    assert Path("sweep.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*SWEEP, "--tp", "3"], "config: tp: 3: it does not divide the model's 32 attention heads"),
        ([w.replace("0.32.0", "new") for w in SWEEP], "config: vllm_version: 'new'"),
        ([*SWEEP, "--model", SHAPE], "allowed: models of unequal names"),
        (
            ["site", "x", "--card", "H100", "--per-node", "8"],
            "--slurm: missing, allowed: how a job",
        ),
        (["site", "x"], "--card and --per-node: missing"),
        ([*SITE, "--slurm", "gres"], "--slurm: 'gres', allowed: NAME=VALUE"),
        ([*SITE, "--slurm", "time=10"], "time: set by the executor"),
        ([*SITE, "--account-env", "my account"], "site.yaml: account_env: 'my account'"),
    ],
)
def test_a_wrong_flag_is_one_line(
    words: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refusal(capsys, *words)
    assert not list(folder.iterdir()), "nothing is written"
