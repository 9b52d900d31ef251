"""No name and no path reaches a shell as anything but itself, whatever characters it has."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from snakemake.utils import format as snakemake_format
from submitit.slurm.slurm import _make_sbatch_string

from snakemake_executor_plugin_submitit.command import command_of
from snakemake_executor_plugin_submitit.flags import SlurmParameters, slurm_parameters
from snakemake_executor_plugin_submitit.packing import SessionKey
from snakemake_executor_plugin_submitit.site import Site
from tpsweep.config.load import PERIODIC
from tpsweep.core.cell import Cell, Engine, slug
from tpsweep.sweep.sweep import Job, Sweep, load_sweep

ROOT = Path(__file__).parents[3]
SITE = "name: testbed\ncluster: local\ngpus: {cpu: {card: CPU, per_node: 2}}\n"
AWKWARD = """it's "a" $HOME `id` $(id) {x} {{y}} \\ ; & | * ? ~ #! -e é 漢"""
PRINTABLE = st.characters(codec="utf-8", exclude_categories=("C", "Z"), include_characters=" ")
TEXTS = st.text(PRINTABLE, min_size=1, max_size=60).filter(
    lambda text: bool(text.strip()) and text.isprintable()
)
"""What ``tpsweep.config.settings`` takes as a path."""
NAMES = TEXTS.filter(lambda text: text == text.strip())
MODELS = NAMES.filter(lambda text: not PERIODIC.search(slug(text)))
"""As a model's: not what Snakemake would take for a loop."""
PATHS = TEXTS.filter(lambda text: not text.startswith("~"))
"""As ``hf_home``, whose ``~`` is somebody's home."""
ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)
"""What a program can be given as a word at all: newlines, too."""
MARK = "the next word"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("site") / "site.yaml"
    path.write_text(SITE, "utf-8")
    return path


def sweep_of(site: Path, model: str, variant: str, hf_home: str, dataset: str) -> Sweep:
    workload = {"kind": "latency", "batch": [1], "input_len": [8], "output_len": [4]}
    shape = {"shape": "workflow/models/tiny-llama.json", "dtype": "float32", "weights": "dummy"}
    config: dict[str, Any] = {
        "vllm_version": "0.32.0",
        "hf_home": hf_home,
        "models": {model: shape},
        "variants": {variant: {"some_argument": dataset}},
        "gpus": ["cpu"],
        "tp": [1],
        "workloads": {"decode": {**workload, "engine": {"max_model_len": 512}}},
        "site": str(site),
    }
    return load_sweep(config, ROOT)


@settings(deadline=None, max_examples=80)
@given(model=MODELS, variant=NAMES, hf_home=PATHS, value=ANY_TEXT)
@example(model=AWKWARD, variant=AWKWARD, hf_home=AWKWARD, value=f"{AWKWARD}\n$(id)")
@example(model="m", variant="v", hf_home="h", value="Infinity")
def test_the_session_command_splits_back_to_its_words(
    site: Path, model: str, variant: str, hf_home: str, value: str
) -> None:
    (job,) = sweep_of(site, model, variant, hf_home, value).jobs.values()
    engine = job.cell.engine
    assert (engine.model.name, engine.variant) == (model, variant)
    assert shlex.split(job.session_command) == [
        *(sys.executable, "-m", "tpsweep.measure.daemon", "--engine", engine.shared.to_json()),
        *("--starts", "results/engine_starts.jsonl", "--hf-home", hf_home),
    ]
    assert Engine.from_json(engine.to_json()).args["some_argument"] == value


def job_of(template: str, **names: Any) -> Any:
    """A stand-in for Snakemake's job of a shell rule, with the command that Snakemake makes."""
    return SimpleNamespace(
        shellcmd=snakemake_format(template, **names),
        rule=SimpleNamespace(shadow_depth=None),
        **dict.fromkeys(("conda_env_spec", "container_img_url", "env_modules", "benchmark")),
        is_containerized=False,
        is_shell=True,
        is_group=lambda: False,
        input=[],
        output=[],
        log=[],
        threads=1,
        resources={},
        dag=SimpleNamespace(workflow=SimpleNamespace(persistence=SimpleNamespace())),
    )


def rule_template() -> str:
    """The shell command of the cells' rules, with printf in place of the client."""
    text = (ROOT / "workflow/rules/cells.smk").read_text("utf-8")
    words = text[text.index('f"{PYTHON} scripts') :]
    literals = [line.strip() for line in words.splitlines() if line.strip().startswith(('"', 'f"'))]
    given = {"PYTHON": "printf '%s\\0'", "WORKLOAD": "latency", "ROOT": shlex.quote(AWKWARD)}
    given["ROOT"] = given["ROOT"].replace("{", "{{").replace("}", "}}")
    return "".join(str(eval(line, given)) for line in literals)


@settings(deadline=None, max_examples=80)
@given(model=MODELS, hf_home=PATHS, dataset=TEXTS, log=TEXTS)
@example(model=AWKWARD, hf_home=AWKWARD, dataset=AWKWARD, log=AWKWARD)
def test_the_rules_words_come_through_the_shell(
    site: Path, model: str, hf_home: str, dataset: str, log: str
) -> None:
    sweep = sweep_of(site, model, "default", hf_home, dataset)
    (job,) = sweep.jobs.values()
    assert isinstance(job, Job)
    command = command_of(
        job_of(
            rule_template(),
            params=SimpleNamespace(cell=job.cell.to_json()),
            resources=SimpleNamespace(session_command=job.session_command, dataset=dataset),
            log=log,
        ),
        lambda job: pytest.fail("a plain command is not nested"),
    )
    assert command.argv[1] == "-c"
    done = subprocess.run(command.argv, capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == [
        *("scripts/measure.py", "--workload", "latency", "--cell", job.cell.to_json()),
        *("--results", AWKWARD),
        *("--log", log, f"--dataset={dataset}", "--session-command", job.session_command),
    ]
    assert Cell.from_json(job.cell.to_json()).cell_id == job.cell.cell_id


def flag_words(parameters: SlurmParameters) -> dict[str, list[str]]:
    """Flag -> the words that a shell makes of its #SBATCH line."""
    text: str = _make_sbatch_string(
        command="run", folder="logs", job_name="n", map_count=1, **parameters.submitit()
    )
    lines = [line.removeprefix("#SBATCH ") for line in text.splitlines() if "#SBATCH" in line]
    words = [shlex.split(line) for line in lines]
    return {line[0].partition("=")[0]: line for line in words}


@settings(deadline=None, max_examples=200)
@given(value=ANY_TEXT, own=ANY_TEXT)
@example(value=AWKWARD.replace("\\", ""), own="gpu&hbm80g|x y 'z' {n}")
@example(value="a\n#SBATCH --uid=0", own="x")
def test_flags_of_a_site_are_one_word_each_or_refused(value: str, own: str) -> None:
    gpu = {"card": "c", "per_node": 4, "slurm": {"constraint": own.replace("{n}", "")}}
    data = {"name": "s", "cluster": "slurm", "max_minutes": 60, "gpus": {"H": gpu}}
    data |= {"slurm": {"reservation": value}}
    try:
        known = Site.model_validate(data)
    except ValueError:
        braces = set("{}") & set(value + own)
        unsendable = not (value + own).isprintable() or "\\" in value + own
        assert braces or unsendable
        return
    assert value.isprintable() and own.isprintable()
    parameters = slurm_parameters(SessionKey("s", "c", "H", 2), 10, known, {})
    sent = flag_words(parameters)
    assert dict(parameters.flags)["reservation"] == value
    assert sent["--reservation"] == [f"--reservation={value}"]
    assert sent["--constraint"] == [f"--constraint={dict(parameters.flags)['constraint']}"]
