"""Throughput and serving through the whole pipeline, on real vLLM."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tests.bad_input.name_cases import AWKWARD
from tests.vllm.conftest import ROOT, Project
from tpsweep.core import row_file, schema
from tpsweep.perfmodel.model_folder import make_model_folder

pytestmark = pytest.mark.vllm

ENGINE = {"max_model_len": 512, "max_num_seqs": 16, "max_num_batched_tokens": 2048}
LENGTHS = [(40 + i, 4 + i % 5) for i in range(12)]
SECOND = f"2: {AWKWARD}"
"""A second model, of the same shape."""
AT_TP_2 = {"models": [AWKWARD], "tp": [2]}
AT_TP_1 = {"models": [SECOND], "tp": [1], "replicas": [2], "max_concurrency": [4]}
SERVE = {
    "kind": "serve",
    **AT_TP_2,
    "num_prompts": [24],
    "input_len": [32],
    "output_len": [8],
    "request_rate": [6.0],
    "warmups": 4,
    "repeats": 3,
    "minutes": 3,
    "engine": ENGINE,
    "slo": {"ttft_ms": 60_000},
}
SHAREGPT = {
    "dataset": "sharegpt",
    "dataset_path": "it's a $(touch pwned) sharegpt.json",
    "num_prompts": [10],
    "repeats": 3,
    "minutes": 3,
    "engine": ENGINE,
}
SLOS = {"chat": {"ttft_p50_ms": 1000.0}}
WORKLOADS = {
    "serve": SERVE,
    "serve-at-once": SERVE | {"request_rate": ["inf"]},
    "replicas": SERVE | AT_TP_1,
    "talks": SHAREGPT | {"kind": "serve", "request_rate": ["inf"], "warmups": 2} | AT_TP_1,
    # A whole search in short probes: what it finds is coarse.
    "capacity": {
        "kind": "capacity",
        **AT_TP_2,
        "input_len": [32],
        "output_len": [8],
        "warmups": 16,
        "probe_s": 1.0,
        "probe_requests": 40,
        "max_probes": 15,
        "minutes": 3,
        "engine": ENGINE,
    },
    "lengths": {
        "kind": "throughput",
        **AT_TP_2,
        "dataset": "lengths",
        "dataset_path": "lengths.csv",
        "num_prompts": [len(LENGTHS)],
        "warmups": 1,
        "repeats": 3,
        "minutes": 3,
        "engine": ENGINE,
    },
    "sharegpt": SHAREGPT | {"kind": "throughput", "warmups": 1} | AT_TP_2,
}


def make_real_model(folder: Path) -> None:
    """A tiny Llama with weights on disk, for which a text's length in tokens means something."""
    from transformers import AutoConfig, AutoModelForCausalLM

    make_model_folder(ROOT / "workflow/models/tiny-llama.json", folder)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)


def make_sharegpt(path: Path) -> None:
    """Conversations in ShareGPT's format; some are too short for vLLM's rules, or one-sided."""
    words = random.Random(1)

    def text(count: int) -> str:
        return " ".join(f"w{words.randrange(16384)}" for _ in range(count))

    entries: list[dict[str, Any]] = [{"conversations": [{"from": "human", "value": text(20)}]}]
    for turns in [(20 + i, 5 + i) for i in range(14)] + [(2, 9)]:
        sides = zip(("human", "gpt"), turns, strict=True)
        entries.append({"conversations": [{"from": s, "value": text(n)} for s, n in sides]})
    path.write_text(json.dumps(entries))


@dataclass(frozen=True)
class Run:
    """A project whose sweep has ended well, and all that it printed."""

    project: Project
    output: str

    def rows(self, entry: str) -> pd.DataFrame:
        """The rows of a workload of the config."""
        manifest = pd.read_parquet(self.project.results / "matrix.parquet")
        ids = manifest.loc[manifest.entry == entry, "cell_id"]
        rows = pd.read_parquet(self.project.results / "cells")
        return rows[rows.cell_id.isin(ids)]


@pytest.fixture(scope="module")
def run(new_project: Callable[[], Project]) -> Run:
    """A sweep of served and offline cells; every name that is free, and the models' folders, are
    such that a shell would trip over them."""
    project = new_project()
    for name in (AWKWARD, SECOND):
        make_real_model(project.folder / name)
    make_sharegpt(project.folder / str(SHAREGPT["dataset_path"]))
    (project.folder / "lengths.csv").write_text("".join(f"{a},{b}\n" for a, b in LENGTHS))
    config = yaml.safe_load((project.folder / "sweep.yaml").read_text())
    real = {"dtype": "float32", "weights": "real"}
    config |= {"models": {name: real | {"path": f"./{name}"} for name in (AWKWARD, SECOND)}}
    config |= {"variants": {AWKWARD: {"enforce_eager": True}}}
    config |= {"slos": SLOS, "workloads": WORKLOADS}
    (project.folder / "sweep.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    done = project.run()
    assert done.returncode == 0, done.stdout[-4000:]
    return Run(project, done.stdout)


def test_served_and_offline_cells_share_an_engine(run: Run) -> None:
    # Served and offline cells of a model at TP=2, and the two replicas of another.
    assert run.project.engine_starts() == 2
    engines = {entry: run.rows(entry)["engine_id"].item() for entry in WORKLOADS}
    replicas = {engines.pop(entry) for entry in ("replicas", "talks")}
    assert len(engines) == 5 and len(set(engines.values())) == len(replicas) == 1
    for row in pd.read_parquet(run.project.results / "cells").to_dict("records"):
        parts = [row[c.name] for c in schema.START_PHASES if pd.notna(row[c.name])]
        assert sum(parts) == pytest.approx(row["engine_start_s"], rel=0.01)


def test_names_are_taken_as_they_are(run: Run) -> None:
    rows = pd.read_parquet(run.project.results / "cells")
    assert set(rows["model"]) == {AWKWARD, SECOND} and set(rows["variant"]) == {AWKWARD}
    lines = run.output.splitlines()
    measured = f"{len(WORKLOADS)}/{len(WORKLOADS)} cells measured"
    told = {line for line in lines if "tpsweep tables: " in line}
    assert told == {f"tpsweep tables: {measured}; see results/tables"}
    assert not [line for line in lines if line.startswith(("Traceback", '  File "'))]
    assert not list(run.project.folder.rglob("pwned"))


def test_serving_at_a_rate(run: Run) -> None:
    (found,) = run.rows("serve").to_dict("records")
    assert found["tp_ran"] == 2
    assert found["request_s"] == pytest.approx(6.0, rel=0.2)
    assert len(found["ttft_ms_samples"]) == 3 * 24
    assert len(found["request_s_samples"]) == 3
    assert 0 < found["ttft_p50_ms_lo"] <= found["ttft_p50_ms"] <= found["ttft_p50_ms_hi"]
    assert found["itl_p50_ms"] > 0
    assert found["ttft_p99_ms"] is None or pd.isna(found["ttft_p99_ms"])  # 72 requests
    assert found["steady_share"] > 0.5
    assert found["steady_request_s"] == pytest.approx(6.0, rel=0.4)
    assert found["saturated"] != "yes"
    assert found["goodput_share"] == 1.0


def test_all_at_once_is_saturated(run: Run) -> None:
    (found,) = run.rows("serve-at-once").to_dict("records")
    assert found["saturated"] == "yes"
    assert found["max_in_flight"] == 24
    assert found["ttft_p50_ms"] > run.rows("serve")["ttft_p50_ms"].item()


def test_a_search_finds_a_capacity_and_leaves_its_probes(run: Run) -> None:
    (found,) = run.rows("capacity").to_dict("records")
    rates, verdicts = found["probe_request_s"], found["probe_verdicts"]
    print([*zip(rates, found["probe_purposes"], verdicts, strict=True)])
    assert json.loads(found["slos"]) == SLOS and list(found["slo_names"]) == ["chat"]
    assert found["capacity_verdicts"][0] in ("bracket", "unfinished")  # on a busy machine
    assert all(words.startswith("chat: ") for words in verdicts)
    assert any("fails" in words for words in verdicts) and "chat: passes" in verdicts
    # What passed was served as it came, and the requests were those of the judged time.
    for place, words in enumerate(verdicts):
        if words == "chat: passes":
            assert found["probe_served_request_s"][place] == pytest.approx(rates[place], rel=0.5)
            assert found["probe_requests"][place] >= 40
    if found["capacity_verdicts"][0] == "bracket":
        (low,), (high,) = found["capacity_request_s"], found["capacity_upper_request_s"]
        confirming = [rates[k] for k, p in enumerate(found["probe_purposes"]) if p == "confirm"]
        assert low < high and confirming.count(low) == 2
    assert not [*(run.project.results / "searches").rglob("*.jsonl")]
    assert "| chat" in run.project.table("capacity")


def test_two_engines_of_tp_1_serve_side_by_side(run: Run) -> None:
    (found,) = run.rows("replicas").to_dict("records")
    assert (found["tp"], found["replicas"], found["gpus"]) == (1, 2, 2)
    assert json.loads(found["engine_args"])["data_parallel_size"] == 2
    assert found["max_in_flight"] <= 4


def test_every_cell_of_a_vocabulary_sends_the_same_requests(run: Run) -> None:
    entries = ("serve", "serve-at-once", "replicas")
    digests = {run.rows(entry)["request_set_digest"].item() for entry in entries}
    assert len(digests) == 1


def test_vllms_own_results_agree_with_the_row(run: Run) -> None:
    (found,) = run.rows("serve").to_dict("records")
    for seed, path in enumerate(found["vllm_results"]):
        with gzip.open(run.project.results / path, "rt") as file:
            theirs = json.load(file)
        assert theirs["completed"] == 24
        assert theirs["seed"] == seed
        ours = found["ttft_p50_ms_samples"][seed]
        assert theirs["median_ttft_ms"] == pytest.approx(ours, rel=1e-3)
        assert theirs["median_itl_ms"] == pytest.approx(found["itl_p50_ms_samples"][seed], rel=1e-3)
        assert theirs["output_throughput"] == pytest.approx(
            found["output_tok_s_samples"][seed], rel=1e-3
        )


def test_throughput_of_a_lengths_file(run: Run) -> None:
    (found,) = run.rows("lengths").to_dict("records")
    wall_s = found["e2e_ms"] / 1e3
    assert found["request_s"] == pytest.approx(len(LENGTHS) / wall_s, rel=1e-6)
    assert found["output_tok_s"] == pytest.approx(sum(b for _, b in LENGTHS) / wall_s, rel=1e-6)


def test_throughput_of_a_sharegpt_file_with_real_weights(run: Run) -> None:
    (found,) = run.rows("sharegpt").to_dict("records")
    assert found["weights"] == "real"
    tokens_per_request = found["output_tok_s"] / found["request_s"]
    assert 5 <= tokens_per_request <= 18  # the answers have 5 to 18 words


def test_a_sharegpt_file_served_at_tp_1_is_that_of_the_offline_cell(run: Run) -> None:
    (found,) = run.rows("talks").to_dict("records")
    assert (found["tp"], found["model"], found["weights"]) == (1, SECOND, "real")
    assert json.loads(found["engine_args"])["model"].endswith(f"/{SECOND}")
    assert 5 <= found["output_tok_s"] / found["request_s"] <= 18
    assert found["request_set_digest"] == run.rows("sharegpt")["request_set_digest"].item()


def test_rows_hold_the_whole_schema(run: Run) -> None:
    for path in run.project.rows():
        assert set(row_file.read_row(path)) == set(schema.SCHEMA.names)
