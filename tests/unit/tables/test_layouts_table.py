"""Table ``layouts`` from synthetic rows: every number recomputed."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import pytest

from tests.unit.made_up import Record, Sweep
from tpsweep.core.layout import Layout

ROOT = Path(__file__).parents[3]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def lines(sweep: Sweep) -> dict[tuple[int | None, int, int], Record]:
    """By batch, TP and number of engines."""
    sweep.tables()
    found = sweep.read("layouts")
    return {(line["batch"], line["tp"], line["replicas"]): line for line in found}


def test_static_batches_are_computed_at_their_share(sweep: Sweep) -> None:
    times = {(tp, b): 8 / tp + 0.1 * b for tp in (1, 2, 4) for b in (1, 2, 4)}
    spread = (1.0, 1.02, 1.3)
    for (tp, batch), time in times.items():
        for run, part in enumerate(spread):
            axes = {"batch": batch, "run": run, "measured": {"energy_j_per_tok": time * tp / 10}}
            rate = 900 * batch / time / part
            sweep.add(tp, tpot=time * part, prefill=50.0 * batch / tp, rate=rate, **axes)
    found = lines(sweep)
    for batch in (1, 2, 4):
        for whole in (2, 4):
            for engines in (n for n in (1, 2, 4) if n <= whole):
                tp = whole // engines
                line = found[batch, tp, engines]
                assert line["gpus"] == whole and line["single_tp"] == whole
                if batch % engines:
                    assert (
                        line["state"] == f"not computed: batch {batch} does not divide by {engines}"
                    )
                    assert line["output_tok_s"] is None and line["source"] is None
                    continue
                share = batch // engines
                rate = engines * 900 * share / times[tp, share] / median(spread)
                alone = 900 * batch / times[whole, batch] / median(spread)
                tpot = times[tp, share] * median(spread)
                assert line["output_tok_s"] == pytest.approx(rate)
                assert line["output_tok_s_per_gpu"] == pytest.approx(rate / whole)
                assert line["tpot_ms"] == pytest.approx(tpot)
                assert line["prefill_ms"] == pytest.approx(50 * share / tp)
                assert line["energy_j_per_tok"] == pytest.approx(times[tp, share] * tp / 10)
                if engines == 1:
                    assert line["source"] == "measured" and line["output_tok_s_ratio"] is None
                    continue
                assert line["source"] == f"computed: {engines} times TP={tp} at batch {share}"
                assert line["output_tok_s_ratio"] == pytest.approx(rate / alone)
                one = times[whole, batch] * median(spread)
                assert line["tpot_ms_ratio"] == pytest.approx(tpot / one)


def test_a_share_that_is_not_measured_is_named(sweep: Sweep) -> None:
    lost = sweep.add(1, batch=2)
    sweep.fail(lost, "crash", "engine died")
    for batch in (4, 16):
        sweep.add(1, tpot=9.0, batch=batch)
        sweep.add(2, tpot=5.0, batch=batch)
    found = lines(sweep)
    assert found[4, 1, 2]["state"] == "not computed: batch 2 at TP=1: failed: crash"
    assert found[16, 1, 2]["state"] == "not computed: batch 8 at TP=1: not in the matrix"
    assert found[16, 2, 1]["state"] == "measured"
    assert found[16, 2, 1]["energy_j_per_tok"] is None


def test_serving_replicas_are_measured_or_missing(sweep: Sweep) -> None:
    sweep.online(1, ttft=30.0, itl=8.0)
    sweep.online(1, ttft=24.0, itl=7.0, replicas=2, measured={"output_tok_s": 420.0})
    sweep.online(2, ttft=20.0, itl=5.0)
    sweep.online(4, ttft=15.0, itl=4.0)
    found = lines(sweep)
    line = found[None, 1, 2]
    assert (line["source"], line["gpus"], line["single_tp"]) == ("measured", 2, 2)
    assert line["output_tok_s"] == 420.0 and line["output_tok_s_per_gpu"] == 210.0
    assert (line["ttft_p50_ms"], line["ttft_p99_ms"], line["itl_p50_ms"]) == (24.0, 72.0, 7.0)
    assert line["ttft_p50_ms_ratio"] == pytest.approx(24 / 20)
    assert line["itl_p50_ms_ratio"] == pytest.approx(7 / 5)
    assert line["output_tok_s_ratio"] == pytest.approx(420 / 390)
    assert line["energy_j_per_tok"] is None and line["synthetic"]
    missing = found[None, 1, 4]
    assert missing["state"] == "not in the matrix: needs replicas: 4 at TP=1"
    assert missing["output_tok_s"] is None and not missing["synthetic"]
    assert found[None, 2, 2]["state"] == "not in the matrix: needs replicas: 2 at TP=2"


def test_every_backend_stands_beside_the_same_single_gpu_engines(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0, batch=1)
    sweep.add(1, tpot=9.0, batch=2)
    sweep.add(2, tpot=5.0, batch=2, allreduce_backend="nccl")
    found = lines(sweep)
    assert found[2, 1, 2]["allreduce_backend"] == "nccl"
    assert found[2, 1, 2]["tpot_ms"] == 8.0


def test_cost_is_that_of_the_gpus_at_the_rate(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0, rate=500.0)
    sweep.add(1, tpot=8.0, rate=900.0, batch=2)
    sweep.add(2, tpot=5.0, rate=1500.0, batch=2)
    assert lines(sweep)[2, 2, 1]["usd_per_million_output_tok"] is None
    for cell in sweep.manifest:
        cell["gpu_hour_usd"] = 3.6
    found = lines(sweep)
    # 3.6 USD an hour are a thousandth of a dollar a second: two GPUs, 1e6 / 1500 and 1e6 / 1000 s.
    assert found[2, 2, 1]["usd_per_million_output_tok"] == pytest.approx(2 * 0.001 * 1e6 / 1500)
    assert found[2, 1, 2]["usd_per_million_output_tok"] == pytest.approx(2 * 0.001 * 1e6 / 1000)


def test_a_pipeline_stands_beside_the_engine_on_as_many_gpus(sweep: Sweep) -> None:
    sweep.add(1, tpot=6.5, batch=1)
    sweep.add(2, tpot=4.3, batch=1, rate=200.0)
    sweep.add(1, tpot=6.6, batch=1, pp=2, rate=150.0)
    sweep.add(2, tpot=4.4, batch=1, pp=2, rate=220.0)  # four GPUs, and nothing to stand beside
    sweep.tables()
    found = {(line["tp"], line["pp"]): line for line in sweep.read("layouts") if line["runs"]}
    assert set(found) == {(2, 1), (1, 2)}
    piped = found[1, 2]
    assert (piped["gpus"], piped["single_tp"], piped["source"]) == (2, 2, "measured")
    assert piped["tpot_ms_ratio"] == pytest.approx(6.6 / 4.3)
    assert piped["output_tok_s_ratio"] == pytest.approx(150 / 200)
    # Its time is compared with TP=1's, and no pair of TPs has it.
    compared = {(line["tp"], line["pp"]): line for line in sweep.read("tp_comparison")}
    assert compared[1, 2]["decode_speedup"] == pytest.approx(6.5 / 6.6)
    assert {(p["tp_from"], p["tp_to"]) for p in sweep.read("tp_pairs")} == {(1, 2)}


@pytest.fixture(params=["manifest", "capture"])
def mixture(request: pytest.FixtureRequest, sweep: Sweep) -> Sweep:
    """A mixture of experts at TP 1 and 2. An older manifest does not say so, a capture does."""
    known = {"experts": 8} if request.param == "manifest" else {}
    for tp, batch in ((1, 2), (1, 4), (2, 4)):
        sweep.add(tp, tpot=8.0 / tp, batch=batch, run=0, **known)
    for tp in (1, 2):
        sweep.offline(tp, 3.0 * tp, **known)
        sweep.online(tp, ttft=20.0, **known)
    sweep.online(1, ttft=24.0, dp=2, measured={"output_tok_s": 420.0}, **known)
    if not known:
        sweep.capture(1, config=MIXTRAL["config"])
    return sweep


MIXTRAL = json.loads((ROOT / "tests/data/published_shapes.json").read_text("utf-8"))["mixtral-8x7b"]


def test_joined_experts_are_never_called_independent(mixture: Sweep) -> None:
    mixture.tables()
    static, served = (
        [line for line in mixture.read("layouts") if line["workload"] == kind]
        for kind in ("latency", "serve")
    )
    one, joined = static
    assert (one["tp"], one["state"], joined["dp"], joined["gpus"]) == (2, "measured", 2, 2)
    assert joined["state"].startswith("not computed: one engine does not tell")
    assert joined["output_tok_s"] is joined["tpot_ms_ratio"] is None
    assert {(line["tp"], line["dp"], line["replicas"], line["state"]) for line in served} == {
        (2, 1, 1, "measured"),
        (1, 2, 1, "measured"),
    }
    assert "DP=2 (experts joined)" in Layout.of(served[1]).label
    # What the other tables compute from an engine of its own:
    assert all(p["equal_sequences_ratio"] is None for p in mixture.read("tp_pairs"))
    assert all(line["split_output_tok_s"] is None for line in mixture.read("tp_comparison"))
    assert not any("sequences" in line["metric"] for line in mixture.read("crossover"))
    assert {line["source"] for line in mixture.read("throughput")} == {"measured"}
    for name in ("layouts", "throughput", "crossover", "tp_comparison"):
        said = mixture.markdown(name).partition("\n\n")[0]
        assert "2 times TP=1" not in said and "engines of TP=1" not in said


def test_room_for_requests_is_that_of_all_engines(sweep: Sweep) -> None:
    for tp, batch, tokens in ((1, 1, 400_000), (1, 2, 400_000), (2, 2, 900_000)):
        sweep.add(tp, tpot=8.0 / tp, batch=batch, measured={"kv_cache_tokens": tokens})
    found = lines(sweep)
    assert found[2, 2, 1]["kv_cache_tokens"] == 900_000
    assert found[2, 1, 2]["kv_cache_tokens"] == 800_000
    assert "| 900000" in sweep.markdown("layouts")


def test_the_answer_in_words(sweep: Sweep) -> None:
    """TP=2 is faster alone, two of TP=1 give more together; a pipeline is neither."""
    for batch in (1, 2, 4, 8):
        sweep.add(1, tpot=8.0, batch=batch, rate=100.0 * batch)
        sweep.add(2, tpot=5.0, batch=batch, rate=90.0 * batch)
        sweep.add(1, pp=2, tpot=8.5, batch=batch, rate=80.0 * batch)
    for rate in (1.0, 8.0):
        sweep.online(1, ttft=20.0 + rate, replicas=2, request_rate=rate)
        sweep.online(2, ttft=10.0 + 2 * rate, request_rate=rate)
    sweep.tables()
    said = sweep.markdown("layouts")
    assert (
        "llama on 2 H200: at 1 sequence TP=2 decodes fastest (5.000 ms a token;"
        " TP=1 x PP=2 8.500); at 8 sequences TP=1 x 2 replicas (computed) gives most"
        " (800.0 output tokens/s; TP=2 720.0, TP=1 x PP=2 640.0)"
    ) in said
    assert "at 1 requests/s TP=2 answers first (12.00 ms" in said
    assert "at 8 requests/s TP=2 answers first (26.00 ms to the first token; TP=1 x 2" in said


def test_layouts_without_an_engine_of_tp_alone_stand_side_by_side(sweep: Sweep) -> None:
    sweep.add(1, tpot=6.5, batch=1)
    sweep.add(2, pp=2, tpot=4.6, batch=1)
    sweep.add(1, pp=4, tpot=6.9, batch=1)
    sweep.tables()
    found = [(line["tp"], line["pp"], line["single_tp"]) for line in sweep.read("layouts")]
    assert found == [(2, 2, None), (1, 4, None)]
    assert "at 1 sequence TP=2 x PP=2 decodes fastest" in sweep.markdown("layouts")
