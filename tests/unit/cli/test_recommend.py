"""``tpsweep recommend`` as people type it: from expectation alone, and on made-up rows."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.made_up import Sweep
from tpsweep.cli.main import main
from tpsweep.sweep.sweep import load_sweep

ROOT = Path(__file__).parents[3]
PACE = ["--profile", str(ROOT / "cluster" / "pace")]
SEVENTY = ["--model", "llama-3.1-70b", *PACE]


def answer(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    """What ``--json`` prints."""
    assert main(["recommend", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of a bad usage."""
    assert main(["recommend", *words]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    return err


def test_an_empty_folder_is_answered_from_expectation_in_two_seconds(tmp_path: Path) -> None:
    words = [str(tmp_path), "--rate", "40", "--slo", "tpot_p99_ms=50", *SEVENTY]
    began, before = time.monotonic(), os.times()
    done = subprocess.run(
        [sys.executable, "-m", "tpsweep", "recommend", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    after = os.times()
    # CPU time: this machine may be busy with other tests.
    used = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    assert min(used, time.monotonic() - began) < 2
    assert "expected, not measured" in done.stdout
    assert "No row was measured" in done.stdout
    assert "Expectation against 28 published serving rows" in done.stdout


def test_the_winner_can_be_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, str(tmp_path), "--rate", "40", "--gpus", "H200", *SEVENTY)
    best = found["offers"][0]
    assert (best["gpu"], best["tp"]) == ("H200", 2)
    command = shlex.split(found["command"])
    assert command[:3] == ["vllm", "serve", "meta-llama/Llama-3.1-70B-Instruct"]
    assert {"--tensor-parallel-size=2", "--max-num-seqs=64"} < set(command)
    assert not [word for word in command if "prefix" in word or "dummy" in word]
    script = found["sbatch"]
    assert script[-1] == found["command"]
    assert "#SBATCH --gres=gpu:H200:2" in script
    assert f"#SBATCH --array=0-{best['engines'] - 1}" in script


def test_the_cells_to_measure_can_be_run_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "measure.yaml"
    slo = ["--slo", "ttft_p99_ms=1000,tpot_p99_ms=50", "--rate", "40"]
    words = [str(tmp_path), *slo, "--measure", str(file), *SEVENTY]
    found = answer(capsys, *words)
    config = yaml.safe_load(file.read_text())
    sweep = load_sweep({**config, "site": "cluster/pace/site.yaml"}, ROOT)
    asked = {"asked": {"ttft_p99_ms": 1000, "tpot_p99_ms": 50}}
    tp = found["offers"][0]["tp"]
    assert [
        (i.status, i.cell.workload, i.cell.engine.tp, i.cell.extra["slos"]) for i in sweep.planned
    ] == [("planned", "capacity", tp, asked)] * 2
    # Its first line is the command; it may be written again, another file may not.
    head = f"snakemake --profile {PACE[1]} --configfile {file}"
    assert file.read_text().splitlines()[0].endswith(head)
    assert main(["recommend", *words]) == 0
    assert f"To measure these cells: {head}" in capsys.readouterr().out
    mine = tmp_path / "mine.yaml"
    mine.write_text("models: {}")
    said = refusal(capsys, str(tmp_path), *SEVENTY, "--measure", str(mine))
    assert f"--measure: {mine} exists, allowed: a new file" in said
    assert mine.read_text() == "models: {}"


def test_nothing_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = ["--slo", "tpot_p50_ms=5", "--rate", "1"]
    found = answer(capsys, str(tmp_path), *slow, *SEVENTY, code=1)
    assert (found["answer"], found["offers"], found["command"]) == ("Nothing fits.", [], None)
    reasons = {one["layout"]: one["reason"] for one in found["refused"]}
    assert "does not fit: 141 GB of weights a GPU" in reasons["TP=1 on H100"]
    assert "> 5 ms for a single request, expected" in reasons["TP=2 on H200"]
    assert "no custom all-reduce curve for 8 x NVIDIA H200" in reasons["TP=8 on H200"]


def test_the_sites_memory_counts_and_layouts_over_its_nodes_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """70B at TP=2 has 70.6 GB a GPU: in 70 GiB x 0.92 there is no room for it."""
    flags = {"gres": "gpu:{n}"}
    site = {
        "name": "lab",
        "cluster": "slurm",
        "max_minutes": 60,
        "gpus": {
            "H200": {"card": "NVIDIA H200", "per_node": 4, "memory_gib": 70, "slurm": flags},
            "A100": {
                "card": "NVIDIA A100-SXM4-80GB",
                "per_node": 2,
                "nodes": 2,
                "memory_gib": 70,
                "slurm": flags,
            },
        },
    }
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))
    config = yaml.safe_load((ROOT / "config.yaml").read_text()) | {"gpus": ["H200", "A100"]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"tp": [1, 2, 4]}))
    files = ["--site", str(tmp_path / "site.yaml"), "--configfile", str(tmp_path / "config.yaml")]
    (tmp_path / "results").mkdir()
    words = ["recommend", str(tmp_path / "results"), *files, "--model", "llama-3.1-70b", "--json"]
    assert main([*words, "--rate", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {(one["gpu"], one["tp"]) for one in found["offers"]} == {("H200", 4)}
    reasons = {one["layout"]: one["reason"] for one in found["refused"]}
    assert reasons["TP=2 on H200"] == "does not fit: 71 GB of weights a GPU, room for 69 GB"
    assert reasons["TP=4 on A100"] == "no constants for the network between 2 nodes"


def test_slos_by_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["slos"] = {"chat": {"ttft_p99_ms": 1000, "tpot_p99_ms": 50}}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    words = [str(tmp_path), "--configfile", str(file), "--rate", "9", *SEVENTY]
    by_name = answer(capsys, *words, "--slo", "chat")
    by_limits = answer(capsys, *words, "--slo", "ttft_p99_ms=1000,tpot_p99_ms=50")
    assert by_name["offers"] == by_limits["offers"]
    assert "'chats', allowed: chat, or limits" in refusal(capsys, *words, "--slo", "chats")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rate", "0"], "--rate: 0.0, allowed"),
        (["--rate", "-1"], "--rate: -1.0, allowed"),
        (["--rate", "nan"], "--rate: nan, allowed"),
        (["--rate", "inf"], "--rate: inf, allowed"),
        (["--rate", "1e9"], "--rate: 1000000000.0, allowed: requests/s above 0, up to 1e+06"),
        (
            ["--objective", "cost"],
            "--objective: cost, without `prices` in the config; allowed: gpus",
        ),
        (
            ["--slo", "goodput_share=0.9"],
            "goodput_share: allowed: goodput_share together with ttft_ms",
        ),
        (["--slo", "ttft_ms=300"], "ttft_ms: allowed: goodput_share together with"),
        (
            ["--slo", "ttft_ms=300,goodput_share=95"],
            "goodput_share: 95.0, allowed: above 0, below 1",
        ),
        (
            ["--slo", "ttft_p99_ms=300,ttft_p99_ms=30"],
            "ttft_p99_ms: given twice, allowed: once",
        ),
        (["--gpus", "H200=4,H200=2"], "--gpus: 'H200=2', allowed: a number, or some of H100, H200"),
        (["--gpus", "²"], "--gpus: '²', allowed"),
        (["--slo", "chat"], "'chat', allowed: limits such as"),
        (["--slo", "ttft_p98_ms=5"], "ttft_p98_ms: unknown, allowed: (ttft|tpot|itl|e2e)_p"),
        (["--slo", "ttft_p99_ms=soon"], "ttft_p99_ms: 'soon', allowed: milliseconds"),
        (["--slo", "ttft_p99_ms=-1"], "allowed: milliseconds above 0"),
        (["--gpus", "H300"], "--gpus: 'H300', allowed: a number, or some of H100, H200"),
        (["--gpus", "H200=0"], "--gpus: 'H200=0', allowed"),
        (["--input-len", "0"], "--input-len: 0, allowed"),
    ],
)
def test_bad_usage(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refusal(capsys, str(tmp_path), *SEVENTY, *words)


def test_an_objective_that_nothing_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Joules are measured, never expected: no answer, and what would give one."""
    words = [str(tmp_path), "--rate", "9", "--objective", "energy", "--gpus", "H200=2", *SEVENTY]
    found = answer(capsys, *words, code=1)
    assert not found["offers"]
    reasons = {one["layout"]: one["reason"] for one in found["refused"]}
    assert reasons["TP=2 on H200"] == "no row tells its power at such a load"
    assert [one["layout"] for one in found["measure"]] == ["TP=2 on H200"]


def test_rows_that_are_no_sweep_are_not_taken_for_an_empty_folder(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (rows / "cells", rows.parent):
        said = refusal(capsys, str(folder), *SEVENTY)
        assert f"{folder}: rows without matrix.parquet, allowed: a results folder" in said


def test_a_config_alone_knows_no_gpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--configfile", str(ROOT / "config.yaml"), "--model", "llama-3.1-70b"]
    said = refusal(capsys, str(tmp_path), *config, "--rate", "9")
    assert "no node class is known, allowed: --profile cluster/<site>, --site" in said


def test_what_is_known_to_be_wrong_with_an_expectation_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["recommend", str(tmp_path), "--model", "llama-3.1-8b", *PACE, "--gpus", "H200"]
    assert main([*words, "--rate", "20", "--slo", "tpot_p99_ms=50"]) == 0
    assert "TTFT p99 was" not in capsys.readouterr().out
    assert main([*words, "--rate", "20", "--slo", "ttft_p99_ms=300"]) == 0
    said = capsys.readouterr().out
    assert "Measured TTFT p99 was up to 1.7 times the expectation at half of" in said
    assert "may not hold" not in said
    assert main([*words, "--rate", "60", "--slo", "ttft_p99_ms=300"]) == 0
    assert "1 GPU may not be enough: TTFT p99 may not hold." in capsys.readouterr().out


def test_nothing_to_measure_is_said_and_nothing_written(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two starts of one engine, and nothing is expected of others."""
    sweep = Sweep(tmp_path / "two")
    for run in (0, 1):
        measured = {"saturated": "no", "engine_id": str(run), "engine_args": "{}"}
        axes = {"workload": "serve", "model": "m", "gpu_card": "CPU", "request_rate": 8.0}
        sweep.add(1, measured=measured, num_prompts=9, batch=None, run=run, **axes)
    sweep.write_manifest()
    file = tmp_path / "measure.yaml"
    words = ["recommend", str(sweep.root), "--model", "m", "--rate", "8", "--measure", str(file)]
    assert main(words) == 0
    assert f"No cell would change the answer: {file} was not written." in capsys.readouterr().out
    assert not file.exists()


def test_a_model_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["llama" if word == "llama-3.1-70b" else word for word in SEVENTY]
    said = "--model: 'llama', allowed: llama-3.1-8b, llama-3.1-70b"
    assert said in refusal(capsys, str(tmp_path), *words)


def test_neither_rows_nor_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(tmp_path), "--model", "m"]
    assert "no rows, allowed: a results folder with rows" in refusal(capsys, *words)
    gone = refusal(capsys, str(tmp_path / "gone"), "--model", "m")
    assert "no such folder" in gone


HOSTILE = "-m$(touch pwned)'; rm\n#"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Served rows of a model with a hostile name, on a CPU; real weights somewhere."""
    sweep = Sweep(tmp_path / "results")
    percentiles = {"ttft_p99_ms": 80.0, "tpot_p99_ms": 9.0, "e2e_p50_ms": 500.0}
    args = {"max_model_len": 4096, "max_num_seqs": 8, "speculative_config": {"x": "$HOME 'y'"}}
    measured = {
        **percentiles,
        "saturated": "no",
        "engine_id": "one",
        "model_path": HOSTILE,
        "engine_args": json.dumps(args),
    }
    sweep.add(
        1,
        tpot=None,
        measured=measured,
        workload="serve",
        model=HOSTILE,
        gpu_card="CPU",
        request_rate=8.0,
        num_prompts=1000,
        batch=None,
    )
    sweep.write_manifest()
    return sweep.root


def test_made_up_rows_of_a_cpu_are_called_so(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", str(rows), "--model", HOSTILE, "--rate", "20"]) == 0
    said = capsys.readouterr().out
    assert "TP=1 on H200: 3 servers, 3 GPUs" in said
    assert "SYNTHETIC: made-up rows, never measured." in said
    assert "CPU timings only demonstrate the pipeline." in said


def test_untrusted_names_are_quoted(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, str(rows), "--model", HOSTILE)
    # A shell sees the same words, the model is no option, and nothing runs.
    shell = ["bash", "-c", f"vllm() {{ printf '%s\\0' \"$@\"; }}; {found['command']}"]
    out = subprocess.run(shell, capture_output=True, text=True, check=True, cwd=rows).stdout
    words = out.split("\0")[:-1]
    assert words[:2] == ["serve", f"./{HOSTILE}"]
    assert f"--served-model-name={HOSTILE}" in words
    assert '--speculative-config={"x": "$HOME \'y\'"}' in words
    assert not (rows / "pwned").exists()


def test_a_config_may_name_its_site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As published ones do, for Snakemake."""
    config = ROOT / "cluster/gpu-host/capacity.yaml"
    assert "\nsite: " in config.read_text("utf-8")
    words = ["--configfile", str(config), "--profile", str(ROOT / "cluster/gpu-host")]
    words += ["--model", "llama-3.1-8b", "--slo", "chat", "--rate", "20", "--gpus", "H200=2"]
    found = answer(capsys, str(tmp_path), *words)
    assert found["offers"][0]["gpus"] == 1
