"""vLLM's own results as rows: what is known, nulls for the rest, marked, in no claim."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.made_up import Sweep
from tpsweep.analysis.builder import build_tables
from tpsweep.cli.main import main
from tpsweep.cli.tables import BUILDERS
from tpsweep.core.row_file import read_row
from tpsweep.results.merge import load_all

SERVE: dict[str, Any] = {
    "date": "20261130-004600",
    "backend": "vllm",
    "model_id": "meta-llama/Llama-3.1-8B",
    "num_prompts": 100,
    "request_rate": 4.0,
    "max_concurrency": None,
    "duration": 25.0,
    "completed": 100,
    "failed": 0,
    "request_throughput": 4.0,
    "output_throughput": 512.0,
    "total_token_throughput": 2560.0,
    "max_concurrent_requests": 9,
    "median_ttft_ms": 20.0,
    "p99_ttft_ms": 30.0,
    "median_tpot_ms": 7.0,
    "median_itl_ms": 7.1,
    "median_e2el_ms": 900.0,
}
LATENCY = {"model_id": "m", "avg_latency": 1.0, "latencies": [1.0, 1.2, 0.9], "percentiles": {}}
THROUGHPUT = {
    "model_id": "m",
    "elapsed_time": 10.0,
    "num_requests": 100,
    "total_num_tokens": 64000,
    "requests_per_second": 10.0,
    "tokens_per_second": 6400.0,
}


def put(path: Path, *results: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(result) for result in results))
    return path


def taken(folder: Path, *arguments: object) -> list[dict[str, Any]]:
    """Rows after a successful import into ``folder``, by their marks."""
    assert main(["import", *map(str, arguments), "--output", str(folder)]) == 0
    rows = [read_row(path) for path in folder.rglob("cells/**/*.parquet")]
    return sorted(rows, key=lambda row: row["imported"])


def test_a_serve_result_is_a_row_with_nulls_for_what_it_does_not_say(tmp_path: Path) -> None:
    (row,) = taken(tmp_path / "in", put(tmp_path / "serve.json", SERVE))
    assert row["imported"] == "vllm bench serve: serve.json"
    assert (row["workload"], row["site"], row["model"]) == ("serve", "imported", SERVE["model_id"])
    assert (row["request_s"], row["ttft_p50_ms"], row["ttft_p99_ms"]) == (4.0, 20.0, 30.0)
    assert row["itl_p50_ms"] == 7.1 and row["itl_p50_ms_samples"] == [7.1]
    assert (row["e2e_p50_ms"], row["max_in_flight"]) == (900.0, 9)
    assert row["started_at"] == "2026-11-30T00:46:00"
    assert row["saturated"] == "not shown"
    for name in ("tp", "gpus", "gpu", "dtype", "input_len", "vllm_version", "output_tok_s_per_gpu"):
        assert row[name] is None, name


def test_what_a_file_or_the_user_says_is_known(tmp_path: Path) -> None:
    said = SERVE | {"tensor_parallel_size": 2, "request_rate": "inf", "input_lens": [512] * 3}
    (row,) = taken(
        tmp_path / "in", put(tmp_path / "serve.json", said), "--set", "gpu=H100", "--set", "dtype=x"
    )
    assert (row["tp"], row["gpus"], row["gpu"], row["input_len"]) == (2, 2, "H100", 512)
    assert row["request_rate"] == float("inf") and row["saturated"] == "yes"
    assert row["output_tok_s_per_gpu"] == 256.0


def test_arrivals_that_are_not_those_of_the_rate_are_said(tmp_path: Path) -> None:
    ramp = {"ramp_up_strategy": "linear", "ramp_up_start_rps": 1, "ramp_up_end_rps": 9}
    files = [
        put(tmp_path / "a.json", SERVE | ramp | {"request_rate": "inf", "burstiness": 1.0}),
        put(tmp_path / "b.json", SERVE | {"burstiness": 0.5}),
        put(tmp_path / "c.json", SERVE | {"backend": "sglang", "burstiness": 1.0}),
        put(tmp_path / "d.json", SERVE | {"backend": "openai-chat"}),
    ]
    rose, bursts, other, plain = taken(tmp_path / "in", *files)
    assert (rose["request_rate"], rose["saturated"]) == (None, "not shown")
    assert rose["imported"].endswith("a.json, linear ramp-up from 1 to 9 requests/s")
    assert bursts["request_rate"] == 4.0 and bursts["imported"].endswith(", burstiness 0.5")
    assert other["imported"].endswith(", backend sglang")
    assert plain["imported"].endswith("d.json")


def test_lengths_of_a_range_are_not_those_of_every_request(tmp_path: Path) -> None:
    said = SERVE | {"random_input_len": 512, "random_output_len": "128"}
    files = [
        put(tmp_path / "all.json", said | {"random_range_ratio": "0.0"}),
        put(tmp_path / "range.json", said | {"random_range_ratio": 0.5}),
    ]
    fixed, mixed = taken(tmp_path / "in", *files)
    assert (fixed["input_len"], fixed["output_len"]) == (512, 128)
    assert (mixed["input_len"], mixed["output_len"]) == (None, None)


def test_what_is_set_must_not_contradict_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = put(tmp_path / "serve.json", SERVE | {"tp": 4})
    assert main(["import", str(file), "--output", str(tmp_path / "in"), "--set", "tp=2"]) == 2
    assert "--set tp=2: " in (said := capsys.readouterr().err) and "says tp 4; allowed: 4" in said
    (row,) = taken(tmp_path / "in", file, "--set", "tp=4")
    assert row["output_tok_s_per_gpu"] == 128.0


def test_data_parallel_engines_are_replicas_unless_the_user_says_joined(tmp_path: Path) -> None:
    file = put(tmp_path / "serve.json", SERVE | {"data_parallel_size": 2, "tp": 2})
    (row,) = taken(tmp_path / "a", file)
    assert (row["replicas"], row["dp"], row["gpus"]) == (2, None, 4)
    (row,) = taken(tmp_path / "b", file, "--set", "dp=2", "--set", "ep=true")
    assert (row["replicas"], row["dp"], row["gpus"], row["ep"]) == (1, 2, 4, True)


def test_the_other_benchmarks_and_a_file_of_several_results(tmp_path: Path) -> None:
    files = [
        put(tmp_path / "latency.json", LATENCY),
        put(tmp_path / "throughput.json", THROUGHPUT, THROUGHPUT | {"num_requests": 50}),
    ]
    latency, first, second = taken(tmp_path / "in", *files)
    assert (latency["e2e_ms"], latency["e2e_ms_samples"]) == (1000.0, [1000.0, 1200.0, 900.0])
    assert (first["request_s"], first["total_tok_s"]) == (10.0, 6400.0)
    assert (first["num_prompts"], second["num_prompts"]) == (100, 50)
    assert second["imported"].endswith("throughput.json, result 2")


def test_a_sweeps_folder_gives_its_runs(tmp_path: Path) -> None:
    comb = tmp_path / "sweep/SERVE--tp=2-BENCH--rate=4"
    for number in (0, 1):
        put(comb / f"run={number}.json", SERVE | {"run_number": number, "tensor_parallel_size": 2})
    put(comb / "summary.json", [SERVE])
    put(comb / "warmup.json", SERVE)
    put(comb / "run=2.failure.json", {"error": "x"})
    rows = taken(tmp_path / "in", tmp_path / "sweep")
    assert [row["imported"] for row in rows] == [
        "vllm bench serve: run=0.json",
        "vllm bench serve: run=1.json",
    ]
    assert taken(tmp_path / "in", tmp_path / "sweep") == rows  # again: nothing twice


def test_it_stands_in_the_serving_table_marked_and_in_no_claim(tmp_path: Path) -> None:
    own = Sweep(tmp_path / "own")
    for tp in (1, 2):
        own.online(tp, ttft=25.0, request_rate=4.0)
        own.add(tp, tpot=10.0 / tp)
        own.offline(tp, 5.0 * tp)
    own.write_manifest()
    files = [
        put(tmp_path / f"tp{tp}.json", SERVE | {"tp": tp, "output_throughput": 500.0 * tp})
        for tp in (1, 2)
    ]
    taken(tmp_path / "in", *files, put(tmp_path / "unknown.json", SERVE))
    taken(tmp_path / "in", put(tmp_path / "l.json", LATENCY), put(tmp_path / "t.json", THROUGHPUT))
    alone = build_tables(load_all([tmp_path / "own"]), BUILDERS)
    both = build_tables(load_all([tmp_path / "own", tmp_path / "in"]), BUILDERS)
    lines = [line for line in both["serving"].records if line["imported"]]
    assert sorted(line["tp"] or 0 for line in lines) == [0, 1, 2]
    assert {line["state"] for line in lines} == {"imported"}
    for line in lines:
        assert line["note"].startswith("imported: vllm bench serve: ")
        assert line["ttft_p50_ms"] == 20.0 and line["ttft_p50_ms_lo"] is None
        assert all(line[f"{n}_verdict"] is None for n in ("ttft_p50_ms", "itl_p50_ms"))
        assert line["per_gpu_ratio"] is None
    assert both["serving"].own.records == alone["serving"].records
    assert sum(line["imported"] for line in both["throughput"].records) == 1
    marked = {"serving", "throughput", "tp_comparison"}
    for name in both.keys() - marked:
        assert both[name].records == alone[name].records, name


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"a": 1}, "not a benchmark's result (keys: a); allowed: the JSON of vllm bench latency"),
        (SERVE | {"failed": 3}, "3 of 100 requests failed"),
        (SERVE | {"median_ttft_ms": -1}, "median_ttft_ms: -1; allowed: a number of 0 or more"),
        (SERVE | {"request_rate": "fast"}, "request_rate: 'fast'; allowed: a number above 0"),
        (SERVE | {"tp": "two"}, "tp: 'two': allowed: a number above 0"),
        (LATENCY | {"latencies": []}, "latencies: allowed: a list of numbers above 0"),
        ([1], "not a benchmark's result"),
        (LATENCY | {"latencies": [True]}, "latencies: allowed: a list of numbers above 0"),
        (SERVE | {"model_id": 5}, "model_id: 5; allowed: text"),
        (SERVE | {"failed": None, "num_prompts": "110"}, "10 of 110 requests failed"),
        # SGLang's own benchmark has the same words for figures
        ({k: v for k, v in SERVE.items() if k != "model_id"}, "not a benchmark's result"),
    ],
)
def test_what_is_no_result_is_refused_in_one_line_and_nothing_is_written(
    result: object, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [put(tmp_path / "good.json", SERVE), put(tmp_path / "bad.json", result)]
    assert main(["import", *map(str, files), "--output", str(tmp_path / "in")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("tpsweep import: ") and words in said and said.count("\n") == 1
    assert not (tmp_path / "in").exists()


def test_a_sweeps_results_folder_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Sweep(tmp_path / "own")
    own.online(1, ttft=25.0, request_rate=4.0)
    own.write_manifest()
    file = put(tmp_path / "serve.json", SERVE)
    assert main(["import", str(file), "--output", str(tmp_path / "own")]) == 2
    assert "has the manifest of a sweep" in capsys.readouterr().err
    assert main(["import", str(file), "--set", "site=x", "--output", str(tmp_path / "i")]) == 2
    assert "--set site=x: allowed: KEY=VALUE with a KEY of gpu, " in capsys.readouterr().err
