"""Recommendations on published rows, each worked out by hand from them, and on made-up ones."""

from __future__ import annotations

import itertools
import json
import math
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools.fit_expectation import shape_named
from tpsweep.analysis.recommend.evidence import EXPECTED, RATES, SEARCHED, Evidence, gather
from tpsweep.analysis.recommend.expected import Expectation
from tpsweep.analysis.recommend.inputs import Inputs
from tpsweep.analysis.recommend.offers import Answer, Candidates, answer
from tpsweep.analysis.recommend.question import ENERGY, LATENCY, NodeClass, Question, Traffic
from tpsweep.analysis.recommend.unmeasured import config_of, wanted
from tpsweep.core.slo import Slo
from tpsweep.perfmodel.engine_steps import EngineSteps
from tpsweep.perfmodel.serving import Serving
from tpsweep.results.load import load, records
from tpsweep.sweep.sweep import load_sweep

ROOT = Path(__file__).parents[3]
ARCHIVE = ROOT / "tests" / "data" / "published" / "h200x2-one-engine.tar.xz"
EIGHT, SEVENTY = "llama-3.1-8b", "llama-3.1-70b"
SERVED, STATIC = Traffic(220, 190), Traffic(512, 64)
LOOSE, TIGHT, FAST = (
    Slo.parse(limits)
    for limits in (
        "ttft_p99_ms=500,tpot_p99_ms=50",
        "ttft_p99_ms=100,tpot_p99_ms=10",
        "ttft_p99_ms=60,tpot_p99_ms=6",
    )
)
Record = dict[str, Any]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Rows of 8B and 70B on two H200s, three starts; nodes of two."""
    folder = tmp_path_factory.mktemp("published")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    found = load(folder / "h200x2-one-engine")
    return Inputs(records(found.rows), {"H200": 3.6}, [folder])


def ask(inputs: Inputs, model: str, slo: Slo | None, rate: float | None, **more: Any) -> Answer:
    traffic = SERVED if model == EIGHT else STATIC
    evidence = gather(inputs.rows, model, traffic)
    candidates = Candidates(evidence, inputs.others(model), inputs.classes, inputs.shape(model))
    return answer(Question(model, traffic, rate, slo, **more), candidates)


def worst(inputs: Inputs, column: str, tp: int, rate: float) -> float:
    """Of all starts."""
    return max(
        row[column]
        for row in inputs.rows
        if row["workload"] == "serve" and (row["tp"], row["request_rate"]) == (tp, rate)
    )


BY_HAND = [
    # p99 of TTFT and TPOT at TP=1: 51 and 6.1 ms at 16/s, 83 and 8.0 at 32/s, 379 and 13.0 at 64/s;
    # at TP=2: 33 and 4.6, 46 and 5.2, 421 and 13.5. At 4/s there are too few requests for a p99.
    (LOOSE, 20, "TP=1 on H200", RATES, 64, None, 1, 1),
    (LOOSE, 10, "TP=1 on H200", RATES, 64, None, 1, 1),
    (LOOSE, 100, "TP=1 on H200", RATES, 64, None, 2, 2),
    (TIGHT, 20, "TP=1 on H200", RATES, 32, 64, 1, 1),
    (TIGHT, 100, "TP=1 on H200", RATES, 32, 64, 4, 4),
    # TP=1 fails at 16/s in one of its two starts (6.14 ms), and below nothing is known of its p99:
    # TP=2 is what is measured.
    (FAST, 20, "TP=2 on H200 (custom all-reduce)", RATES, 32, 64, 1, 2),
    (FAST, 100, "TP=2 on H200 (custom all-reduce)", RATES, 32, 64, 4, 8),
]


@pytest.mark.parametrize(
    ("slo", "rate", "label", "basis", "low", "fails", "engines", "gpus"), BY_HAND
)
def test_8b_by_hand(
    inputs: Inputs,
    slo: Slo,
    rate: float,
    label: str,
    basis: str,
    low: float,
    fails: float | None,
    engines: int,
    gpus: int,
) -> None:
    best = ask(inputs, EIGHT, slo, rate).best
    assert best is not None
    assert (best.label, best.capacity.basis) == (label, basis)
    assert (best.capacity.request_s, best.capacity.fails_at) == (low, fails)
    assert (best.engines, best.gpus, best.nodes) == (engines, gpus, -(-gpus // 2))
    assert best.headroom == pytest.approx(1 - rate / engines / low)
    # Its latency is that at the next rate that was measured; the SLO holds there.
    tp = best.engine.tp
    at = min(known for known in (16.0, 32.0, 64.0) if known >= rate / engines)
    assert best.latency_at == at
    assert best.percentiles["ttft_p99_ms"] == worst(inputs, "ttft_p99_ms", tp, at)
    assert slo.keeps(best.percentiles)
    # 3.6 USD per GPU hour are 0.001 per GPU second, which makes rate x 190 tokens.
    assert best.usd == pytest.approx(gpus * 0.001 / (rate * 190) * 1e6)


def test_the_rows_are_those_that_the_answers_were_worked_out_from(inputs: Inputs) -> None:
    found = {
        (tp, rate): tuple(
            round(worst(inputs, f"{name}_p99_ms", tp, rate), 1) for name in ("ttft", "tpot")
        )
        for tp in (1, 2)
        for rate in (16.0, 32.0, 64.0)
    }
    assert found == {
        (1, 16.0): (50.9, 6.1),
        (1, 32.0): (82.6, 8.0),
        (1, 64.0): (378.9, 13.0),
        (2, 16.0): (32.5, 4.6),
        (2, 32.0): (46.0, 5.2),
        (2, 64.0): (420.6, 13.5),
    }


def test_a_better_engine_that_was_not_measured_is_named_not_recommended(inputs: Inputs) -> None:
    found = ask(inputs, EIGHT, FAST, 100)
    # 100/s at under 16/s an engine: 7 GPUs at TP=1, 8 at TP=2.
    rival = next(offer for offer in found.offers if offer.engine.tp == 1)
    assert (rival.capacity.basis, rival.engines, rival.capacity.fails_at) == (EXPECTED, 7, 16)
    assert rival.capacity.request_s < 16
    # Not the measured latency at 16/s, which does not keep the SLO.
    assert rival.latency_at is None
    cells = wanted(found)
    asked = {cell.label: cell for cell in cells}
    assert asked["TP=1 on H200"].rates == (pytest.approx(100 / 7),)
    assert "7 GPUs, not 8" in asked["TP=1 on H200"].why
    assert "one engine start" in asked["TP=2 on H200 (custom all-reduce)"].why


def test_what_would_save_gpus_is_named(inputs: Inputs) -> None:
    """32/s held and 64/s failed: four engines. By expectation two would do, at 50/s each."""
    found = ask(inputs, EIGHT, TIGHT, 100)
    best, *others = found.offers
    fewer = next(one for one in others if one.engine is best.engine)
    assert (fewer.capacity.basis, fewer.engines, fewer.gpus) == (EXPECTED, 2, 2)
    assert 50 < fewer.capacity.request_s < 64
    assert wanted(found)[0].rates == (32, 50)
    # At 20/s one engine is enough, whatever it can do.
    assert len(ask(inputs, EIGHT, TIGHT, 20).offers) == 2


def test_what_to_measure_is_a_config_that_can_be_run(inputs: Inputs) -> None:
    found = ask(inputs, EIGHT, FAST, 100)
    cells = wanted(found)
    entry = inputs.model_entry(EIGHT)
    config = config_of(cells, found.question, entry, cells[0].engine.vllm_version)
    config = json.loads(json.dumps(config))  # as a file has it
    sweep = load_sweep({**config, "site": "tests/data/published/site.yaml"}, ROOT)
    planned = [item.cell for item in sweep.planned]
    assert {item.status for item in sweep.planned} == {"planned"}
    assert {(c.engine.tp, c.request_rate, c.engine.run) for c in planned} == {
        (tp, rate, run) for tp, rate in ((1, 14.29), (2, 32.0), (2, 33.33)) for run in (0, 1)
    }
    # The engines of the rows: limits and all-reduce too.
    rows = [row for row in inputs.rows if row["workload"] == "serve"]
    for cell in planned:
        like = next(row for row in rows if row["tp"] == cell.engine.tp)
        given = json.loads(like["engine_args"])
        assert {name: given[name] for name in cell.engine.args} == cell.engine.args
        assert cell.engine.allreduce_backend == like["allreduce_backend"]


def test_cells_of_a_model_that_was_never_served_can_be_run_too(inputs: Inputs) -> None:
    """Rows of TP=2 have an argument that `allreduce_backends` sets: it becomes no variant."""
    found = ask(inputs, SEVENTY, None, 20)
    config = config_of(wanted(found), found.question, inputs.model_entry(SEVENTY), "0.25.1")
    sweep = load_sweep({**config, "site": "tests/data/published/site.yaml"}, ROOT)
    assert {item.status for item in sweep.planned} == {"planned"}
    assert config["variants"] == {"default": {}}


def test_other_layouts_have_the_limits_of_served_rows(inputs: Inputs) -> None:
    rows = [row for row in inputs.rows if row["model"] == EIGHT and row["tp"] == 1]
    static = next(row for row in rows if row["workload"] == "latency")
    served = next(row for row in rows if row["workload"] == "serve")
    few = json.dumps({**json.loads(static["engine_args"]), "max_num_seqs": 8})
    found = Inputs([static | {"engine_args": few}, served]).others(EIGHT)
    assert {engine.args["max_num_seqs"] for engine in found} == {256}


class Static:
    """70B at TP=2 as its static batches have it, 512 tokens in and 64 out."""

    def __init__(self, inputs: Inputs) -> None:
        rows = [row for row in inputs.rows if row["model"] == SEVENTY]
        self.rows = {row["batch"]: row for row in rows if row["workload"] == "latency"}
        self.prompt = self.rows[32]["prefill_ms"] / 32  # 60.5 ms

    def decode(self, running: float) -> float:
        """A step, ms: on a line between the measured batches."""
        (left, low), (right, high) = next(
            pair
            for pair in itertools.pairwise(sorted(self.rows.items()))
            if pair[1][0] >= min(running, 32)
        )
        slope = (high["tpot_ms"] - low["tpot_ms"]) / (right - left)
        return float(low["tpot_ms"] + slope * (max(running, left) - left))

    def tpot(self, rate: float, *, least: bool) -> float:
        """Under a load: at most, decodes stand still while prompts are computed; at least, a step
        takes as long as its prompts (a Poisson number) or its decodes, whichever is longer."""
        found = 20.0
        for _ in range(100):
            decode, prompts = self.decode(rate * 64 * found / 1e3), rate * found / 1e3
            if least:
                shares = [math.exp(-prompts) * prompts**k / math.factorial(k) for k in range(20)]
                found = sum(p * max(decode, k * self.prompt) for k, p in enumerate(shares))
            else:
                found = decode / (1 - rate * self.prompt / 1e3)
        return found


@pytest.mark.parametrize(
    ("limit", "rate", "engines"),
    [(60, 2, 1), (60, 20, 2), (37, 2, 1), (37, 20, 3), (15, 2, 0), (15, 20, 0)],
)
def test_70b_by_hand(inputs: Inputs, limit: float, rate: float, engines: int) -> None:
    """Never served: TP=2 is expected, and agrees with its static batches. TP=1 has no room."""
    found = ask(inputs, SEVENTY, Slo.parse(f"tpot_p50_ms={limit}"), rate)
    static = Static(inputs)
    refused = {one.label: one.reason for one in found.refused}
    assert "141 GB of weights a GPU" in refused["TP=1 on H200"]
    if not engines:  # a token takes 21 ms in a batch of one
        assert static.decode(1) > limit
        assert found.best is None
        assert "for a single request" in refused["TP=2 on H200 (custom all-reduce)"]
        return
    best = found.best
    assert best is not None
    assert (best.label, best.capacity.basis) == ("TP=2 on H200 (custom all-reduce)", EXPECTED)
    assert (best.engines, best.gpus) == (engines, 2 * engines)
    # So many are enough whatever a step does with its prompts; with one less there is no time.
    each = rate / engines
    assert static.tpot(each, least=False) < limit
    bounds = 0.95 * static.tpot(each, least=True), static.tpot(each, least=False)
    assert bounds[0] < best.percentiles["tpot_p50_ms"] < bounds[1]
    if engines > 1:
        fewer = rate / (engines - 1)
        assert fewer * static.prompt > 1e3 or static.tpot(fewer, least=True) > limit


def test_objectives_order_by_what_they_name(inputs: Inputs) -> None:
    fastest = ask(inputs, EIGHT, LOOSE, 20, objective=LATENCY)
    # At 32/s a request takes 1,276 ms at TP=1 and 824 at TP=2.
    assert [offer.label for offer in fastest.offers] == [
        "TP=2 on H200 (custom all-reduce)",
        "TP=1 on H200",
    ]
    assert round(fastest.offers[0].percentiles["e2e_p50_ms"]) == 824
    frugal = ask(inputs, EIGHT, LOOSE, 32, objective=ENERGY)
    assert [offer.engine.tp for offer in frugal.offers] == [1, 2]
    # 585 W of one GPU make 32 x 190 tokens/s.
    watts = next(
        row["gpu_power_w"][0]
        for row in inputs.rows
        if row["workload"] == "serve" and (row["tp"], row["request_rate"]) == (1, 32.0)
    )
    assert frugal.offers[0].joules == pytest.approx(watts / (32 * 190) * 1e6)


def test_nobody_is_sent_to_the_edge_of_saturation(inputs: Inputs) -> None:
    """An SLO that leaves TTFT open would be kept up to the last request: 0.9 of 68.9/s at TP=1."""
    named = Slo.parse("tpot_p50_ms=1000")
    for slo in (None, named):
        found = Expectation(inputs.others(EIGHT)[0], SERVED, inputs.shape(EIGHT)).capacity(slo)
        assert found is not None
        assert found.request_s == pytest.approx(0.9 * 68.9, rel=2e-3)


def test_the_expected_capacity_is_where_a_limit_is_met(inputs: Inputs) -> None:
    found = Expectation(inputs.others(EIGHT)[1], SERVED, inputs.shape(EIGHT))
    slo = Slo.parse("ttft_p99_ms=40,tpot_p50_ms=4.2")
    capacity = found.capacity(slo)
    assert capacity is not None
    below, above = (found.at(part * capacity.request_s) for part in (0.999, 1.001))
    assert below is not None and slo.keeps(below)
    assert above is not None and not slo.keeps(above)
    none = found.capacity(Slo.parse("tpot_p50_ms=1"))
    assert none is not None and none.request_s == 0


def test_between_its_points_the_expectation_is_near_the_model(inputs: Inputs) -> None:
    """Lines stand for 47 points of the queueing model; TTFT jumps with the steps of a prompt."""
    for engine in inputs.others(EIGHT):
        found = Expectation(engine, SERVED, inputs.shape(EIGHT))
        model = Serving(
            EngineSteps.of(engine, inputs.shape(EIGHT)), SERVED.input_len, SERVED.output_len
        )
        for rate in (0.3, 7.0, 23.0, 41.0, 55.0):
            exact, near = model.at(rate), found.at(rate)
            assert exact is not None and near is not None
            for name, most in (("tpot_p99_ms", 0.01), ("ttft_p99_ms", 0.1)):
                assert near[name] == pytest.approx(exact.percentiles[name], rel=most)


def test_experts_have_no_expectation_under_load(inputs: Inputs) -> None:
    found = Expectation(inputs.others(EIGHT)[0], SERVED, shape_named("qwen3-30b-a3b"))
    assert found.capacity(None) is None
    assert found.problem == "no expectation for serving a mixture of experts"


def test_gpus_that_are_allowed(inputs: Inputs) -> None:
    four, three, one = (ask(inputs, EIGHT, TIGHT, 100, most=n).best for n in (4, 3, 1))
    assert four and four.capacity.basis == RATES
    assert three and three.capacity.basis == EXPECTED
    assert one is None
    assert ask(inputs, EIGHT, TIGHT, 100, most_gpus={"H200": 4}).best == four
    assert ask(inputs, EIGHT, TIGHT, 100, most_gpus={"A100": None}).best is None
    # For latency as many engines as are allowed: 20/s over four is 5/s each.
    spread = ask(inputs, EIGHT, LOOSE, 20, most=4, objective=LATENCY)
    assert {offer.label: offer.engines for offer in spread.offers} == {
        "TP=1 on H200": 4,
        "TP=2 on H200 (custom all-reduce)": 2,
    }


def test_nodes_hold_whole_engines() -> None:
    known = NodeClass("H200", "NVIDIA H200", per_node=8)
    assert known.nodes(2, 5) == 2
    assert known.nodes(8, 3) == 3
    assert NodeClass("A", "a", per_node=6).nodes(4, 3) == 3
    assert known.nodes(16, 1) is None


def searched(row: Record, **columns: Any) -> Record:
    """A made-up row of the capacity workload, on the engine of a real row."""
    names = ("slo_names", "capacity_request_s", "capacity_upper_request_s", "capacity_verdicts")
    base = {**row, "workload": "capacity", "slos": json.dumps({"chat": LOOSE.by_name})}
    return (
        base
        | dict(zip(names, ([v] for v in ("chat", 70.0, 75.0, "bracket")), strict=True))
        | columns
    )


def evidence_of(rows: Iterable[Record]) -> Evidence:
    (found,) = gather(rows, EIGHT, SERVED).values()
    return found


def test_a_search_counts_before_rates_and_its_lowest_start(inputs: Inputs) -> None:
    rows = [row for row in inputs.rows if row["workload"] == "serve" and row["tp"] == 1]
    other = searched(rows[0], capacity_request_s=[60.0], capacity_upper_request_s=[66.0])
    found = evidence_of([*rows, searched(rows[0]), other | {"engine_id": "another"}])
    capacity = found.capacity(LOOSE)
    assert capacity is not None
    assert (capacity.basis, capacity.request_s, capacity.fails_at) == (SEARCHED, 60, 66)
    assert capacity.starts == 2
    # Of two names of the same limits the one that was asked for; another SLO: the rates answer.
    names, slos = ["chat", "talk"], {"chat": LOOSE.by_name, "talk": LOOSE.by_name}
    two = searched(rows[0], slo_names=names, slos=json.dumps(slos))
    two |= {"capacity_request_s": [70.0, 71.0], "capacity_upper_request_s": [75.0, 76.0]}
    two |= {"capacity_verdicts": ["bracket", "bracket"]}
    talk = evidence_of([two]).capacity(Slo.of("talk", LOOSE.by_name))
    assert talk is not None and talk.request_s == 71
    again = found.capacity(TIGHT)
    assert again is not None and again.basis == RATES


def test_a_search_has_the_latency_at_what_it_confirmed(inputs: Inputs) -> None:
    rows = [row for row in inputs.rows if row["workload"] == "serve" and row["tp"] == 1]
    made = searched(rows[0], capacity_ttft_p99_ms=[450.0], capacity_tpot_p99_ms=[None])
    found = evidence_of([*rows, made])
    assert found.latency(65, LOOSE) == (70, {"ttft_p99_ms": 450})
    assert found.latency(65, TIGHT) is None
    below = found.latency(60, LOOSE)
    assert below is not None and below[0] == 64


def test_a_share_of_requests_is_known_to_a_search_alone(inputs: Inputs) -> None:
    limits = {"ttft_ms": 300.0, "goodput_share": 0.95}
    slo = Slo.of("most", limits)
    rows = [row for row in inputs.rows if row["workload"] == "serve" and row["tp"] == 1]
    made = searched(rows[0], slo_names=["most"], slos=json.dumps({"most": limits}))
    with_search = Inputs([*inputs.rows, made], {}, inputs.folders)
    found = ask(with_search, EIGHT, slo, 100)
    assert [(offer.label, offer.engines) for offer in found.offers] == [("TP=1 on H200", 2)]
    assert "nothing is expected" in found.refused[0].reason
    assert slo.words == "ttft_ms 300, goodput_share 0.95"


@pytest.mark.parametrize(
    ("verdict", "low", "upper", "expected"),
    [
        ("bracket", 70.0, 75.0, (70, 75, ())),
        ("nothing passes", None, 1.0, (0, 1, ())),
        ("nothing fails", 128.0, None, (128, None, ("the search: nothing fails",))),
        ("not monotonic", 40.0, 44.0, (40, 44, ("the search: not monotonic",))),
        ("unfinished", None, None, None),
    ],
)
def test_verdicts_of_a_search(
    inputs: Inputs, verdict: str, low: float | None, upper: float | None, expected: Any
) -> None:
    row = next(row for row in inputs.rows if row["workload"] == "serve")
    made = searched(
        row,
        # As data frames have them: null is NaN.
        capacity_request_s=np.array([low], dtype=float),
        capacity_upper_request_s=np.array([upper], dtype=float),
        capacity_verdicts=[verdict],
    )
    found = evidence_of([made]).capacity(LOOSE)
    shown = found and (found.request_s, found.fails_at, found.remarks)
    assert shown == expected


def test_rates_that_hold_above_one_that_fails_do_not_count(inputs: Inputs) -> None:
    rows = [row for row in inputs.rows if row["workload"] == "serve" and row["tp"] == 2]
    spoilt = [row | {"ttft_p99_ms": 900.0} if row["request_rate"] == 32 else row for row in rows]
    found = evidence_of(spoilt).capacity(LOOSE)
    assert found is not None
    assert (found.request_s, found.fails_at, found.starts) == (16, 32, 3)
    assert "held at higher rates than 32" in found.remarks[-1]


def test_a_closed_loop_and_imported_rows_are_no_evidence(inputs: Inputs) -> None:
    rows = [row for row in inputs.rows if row["workload"] == "serve" and row["tp"] == 1]
    assert not gather([row | {"imported": "vllm"} for row in rows], EIGHT, SERVED)
    closed = evidence_of([row | {"max_concurrency": 8} for row in rows])
    files = evidence_of([row | {"dataset": "sharegpt"} for row in rows])
    assert closed.capacity(LOOSE) is files.capacity(LOOSE) is None
