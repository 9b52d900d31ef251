"""A sweep's jobs: what they are started with survives every shell, whatever a model is called."""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from snakemake.utils import format as snakemake_format

from tpsweep.core.cell import Cell, Engine
from tpsweep.sweep.sweep import InputError, Sweep, load_sweep

ROOT = Path(__file__).parents[3]
SITE = "name: testbed\ncluster: local\ngpus: {cpu: {card: CPU, per_node: 2}}\n"
AWKWARD = """it's "a" $HOME `id` $(id) {x} \\ ; & | * ? ~ #! -e é 漢"""
LETTERS = st.characters(categories=["L", "M", "N", "P", "S"], include_characters=" ", codec="utf-8")
TEXTS = st.text(LETTERS, min_size=1, max_size=100).filter(str.strip)
NAMES = TEXTS.filter(lambda text: text == text.strip())


def raw(name: str = "tiny", **changes: Any) -> dict[str, Any]:
    model = {"shape": "workflow/models/tiny-llama.json", "dtype": "float32", "weights": "dummy"}
    workload: dict[str, Any] = {
        "kind": "latency",
        "batch": [1, 2],
        "input_len": [8],
        "output_len": [4],
    }
    workload["engine"] = {"max_model_len": 512}
    return {
        "vllm_version": "0.32.0",
        "models": {name: model},
        "gpus": ["cpu"],
        "tp": [1],
        "workloads": {"decode": workload},
        **changes,
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("site") / "site.yaml"
    path.write_text(SITE, "utf-8")
    return path


def make(site: Path, name: str = "tiny", **changes: Any) -> Sweep:
    return load_sweep({**raw(name, **changes), "site": str(site)}, ROOT)


def at_path(sweep: Sweep, path: str) -> Sweep:
    """``sweep`` with all its models at ``path``, as if a folder of that name were there."""

    def moved(cell: Cell) -> Cell:
        model = dataclasses.replace(cell.engine.model, path=path)
        return dataclasses.replace(cell, engine=dataclasses.replace(cell.engine, model=model))

    planned = [dataclasses.replace(item, cell=moved(item.cell)) for item in sweep.planned]
    return dataclasses.replace(sweep, planned=planned)


def after(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def is_no_home(text: str) -> bool:
    """A ~ at the begin of a path is expanded."""
    return not text.startswith("~")


def is_a_root(text: str) -> bool:
    """A results root has no braces, which are Snakemake's wildcards."""
    return is_no_home(text) and not set(text) & set("{}")


@settings(deadline=None, max_examples=60)
@given(name=NAMES, path=TEXTS, hf_home=TEXTS.filter(is_no_home), results=TEXTS.filter(is_a_root))
@example(name=AWKWARD, path=AWKWARD, hf_home=AWKWARD, results=AWKWARD.replace("{x}", "x"))
def test_commands_survive_the_shell(
    site: Path, name: str, path: str, hf_home: str, results: str
) -> None:
    sweep = at_path(make(site, name, hf_home=hf_home, results=results), path)
    job = next(iter(sweep.jobs.values()))

    words = shlex.split(job.session_command)
    assert words[:3] == [sys.executable, "-m", "tpsweep.measure.daemon"]
    assert Engine.from_json(after(words, "--engine")) == job.cell.engine.shared
    assert job.cell.engine.model.name == name and job.cell.engine.model.path == path
    assert after(words, "--hf-home") == hf_home
    assert after(words, "--starts") == f"{results}/engine_starts.jsonl"
    assert len(words) == 9

    # The client's command as Snakemake makes it, taken apart by the shell that Snakemake uses.
    command = snakemake_format(
        "printf '%s\\0' {params.cell:q} {resources.session_command:q}",
        params=SimpleNamespace(cell=job.cell.to_json()),
        resources=SimpleNamespace(session_command=job.session_command),
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    cell, session_command, _ = done.stdout.decode().split("\0")
    assert Cell.from_json(cell).cell_id == job.cell.cell_id
    assert session_command == job.session_command


def test_the_rule_quotes_what_the_property_above_quotes() -> None:
    rule = (ROOT / "workflow" / "rules" / "cells.smk").read_text("utf-8")
    assert "--cell {{params.cell:q}}" in rule
    assert "--session-command {resources.session_command:q}" in rule


def test_cells_of_one_session_are_started_with_one_command(site: Path) -> None:
    jobs = list(make(site).jobs.values())
    assert [job.cell.batch for job in jobs] == [1, 2]
    assert len({job.session for job in jobs}) == len({job.session_command for job in jobs}) == 1
    decode = raw()["workloads"]["decode"]
    capture = {**decode, "kind": "capture", "profiler": "torch"}
    both = make(site, workloads={"captures": capture, "decode": decode}).jobs.values()
    assert len({job.session for job in both}) == 1
    by_order = [job.cell.workload for job in sorted(both, key=lambda job: job.order)]
    assert by_order == ["latency", "latency", "capture", "capture"]
    two = make(site, tp=[1, 2]).jobs.values()
    assert len({job.session for job in two}) == len({job.session_command for job in two}) == 2


def test_served_cells_share_the_engine_unless_the_config_says_otherwise(site: Path) -> None:
    decode = raw()["workloads"]["decode"]
    sizes = {"num_prompts": [8], "input_len": [8], "output_len": [8], "request_rate": [2]}
    serve = {"kind": "serve", **sizes, "warmups": 1, "engine": decode.get("engine", {})}
    both = {"decode": decode, "serve": serve}
    jobs = list(make(site, workloads=both).jobs.values())
    assert len({job.session for job in jobs}) == 1
    (command,) = {job.session_command for job in jobs}
    assert "--served" in command.split() and '"mode":"engine"' in command
    apart = list(make(site, workloads=both, one_start=False).jobs.values())
    assert len({job.session for job in apart}) == len({job.session_command for job in apart}) == 2
    assert {job.cell.cell_id for job in apart} == {job.cell.cell_id for job in jobs}
    offline = make(site).jobs.values()
    assert not any("--served" in job.session_command for job in offline)


def test_every_run_has_an_order_of_its_own(site: Path) -> None:
    batches = [1, 2, 3, 4, 5, 6]
    decode = {**raw()["workloads"]["decode"], "batch": batches}
    jobs = make(site, runs=3, workloads={"decode": decode}).jobs.values()

    def order(run: int) -> list[int | None]:
        own = [job for job in jobs if job.cell.engine.run == run]
        return [job.cell.batch for job in sorted(own, key=lambda job: job.order)]

    orders = [order(run) for run in range(3)]
    assert all(sorted(found) == batches for found in orders)  # type: ignore[type-var]
    assert len({tuple(found) for found in [*orders, batches]}) == 4  # not even the matrix's own
    assert orders == [order(run) for run in range(3)]


def test_a_row_that_is_there_needs_no_model(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = make(site)
    first, second = (item.cell.path for item in sweep.planned)
    marker = "results/models/tiny/config.json"
    assert sweep.inputs(first) == sweep.inputs(second) == [marker]
    row = tmp_path / "results" / first
    row.parent.mkdir(parents=True)
    row.touch()
    assert sweep.inputs(first) == []
    assert sweep.inputs(second) == [marker]


def test_a_hub_model_is_fetched_before_its_cells(site: Path) -> None:
    model = {"path": "org/model", "revision": "v1", "dtype": "float32", "weights": "real"}
    model["shape"] = "workflow/models/tiny-llama.json"
    sweep = make(site, models={"a b": model}, hf_home="cache")
    assert sweep.inputs(sweep.planned[0].cell.path) == ["results/models/a_b/available.json"]
    assert json.loads(sweep.fetch_request("a_b")) == {
        "name": "a b",
        "path": "org/model",
        "revision": "v1",
        "weights": "real",
        "hf_home": "cache",
    }


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"site": None}, "site: missing"),
        ({"site": "no/such.yaml"}, "no/such.yaml"),
        ({"tp": [0]}, "config: tp.0: 0"),
        ({"typo": 1}, "config: typo"),
    ],
)
def test_bad_input_is_one_line(site: Path, changes: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError) as caught:
        load_sweep({**raw(), "site": str(site), **changes}, ROOT)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("results", ["a{b}c", "{model}", "x" * 300, "a_file"])
def test_a_results_root_that_cannot_be_one_is_refused_in_one_line(
    results: str, tmp_path: Path
) -> None:
    (tmp_path / "a_file").touch()
    raw = {**yaml.safe_load((ROOT / "cluster/local/sweep.yaml").read_text()), "results": results}
    raw["models"]["tiny-llama"]["shape"] = str(ROOT / "workflow/models/tiny-llama.json")
    raw["site"] = str(ROOT / "cluster/local/site.yaml")
    with pytest.raises(InputError, match=r"^config: results: .*allowed: [^\n]*$"):
        load_sweep(raw, tmp_path)


def test_an_analysis_that_cannot_be_read_is_made_again(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = {**raw()["workloads"]["decode"], "kind": "capture"}
    sweep = load_sweep({**raw(workloads={"comm": capture}, results="out"), "site": str(site)}, ROOT)
    monkeypatch.chdir(tmp_path)
    reports = [Path(path) for path in sweep.communication if path.endswith(".comm.json")]
    pictures = [path for path in sweep.communication if path.endswith(".step.svg")]
    assert len(reports) == len(pictures) == 2 and sweep.unread == []
    for path in reports:
        path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"ranks": 1, "backend": "none", "phases": {}}
    counts = {"all_reduce": 0, "all_gather": 0}
    whole["self_check"] = {"expected": counts, "found": counts, "ok": True}
    reports[0].write_text(json.dumps(whole))
    reports[1].write_text(json.dumps(whole)[:-5])
    found = load_sweep({**raw(workloads={"comm": capture}, results="out"), "site": str(site)}, ROOT)
    assert found.unread == [str(reports[1])]
    stems = [str(path).removeprefix("out/captures/").removesuffix(".comm.json") for path in reports]
    assert [found.analysis_inputs(stem) for stem in stems] == [[], ["out/.again"]]
