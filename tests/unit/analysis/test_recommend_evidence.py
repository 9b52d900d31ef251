"""What rows are evidence of: searches, rates, engines that differ; made up on published rows."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.unit.analysis.recommend_rows import (
    EIGHT,
    LOOSE,
    SERVED,
    TIGHT,
    Record,
    ask,
    evidence_of,
    searched,
)
from tools.fit_expectation import shape_named
from tpsweep.analysis.recommend.evidence import RATES, SEARCHED, STRICTER, engine_of, gather
from tpsweep.analysis.recommend.inputs import InputError, Inputs
from tpsweep.analysis.recommend.offers import Answer, Candidates, answer
from tpsweep.analysis.recommend.question import (
    COST,
    ENERGY,
    GPUS,
    LATENCY,
    NodeClass,
    Question,
    labels_of,
)
from tpsweep.analysis.recommend.unmeasured import config_of, to_measure
from tpsweep.core.slo import Slo
from tpsweep.plan import serve_script


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


def served(inputs: Inputs, tp: int) -> list[Record]:
    return [row for row in inputs.rows if row["workload"] == "serve" and row["tp"] == tp]


def test_a_rate_that_fails_below_what_a_search_confirmed_counts(inputs: Inputs) -> None:
    """TPOT p99 is 13 ms at 64/s: over 10, so 70 that a search confirmed do not hold everywhere."""
    limits = {"chat": TIGHT.by_name}
    found = evidence_of(
        [*served(inputs, 1), searched(served(inputs, 1)[0], slos=json.dumps(limits))]
    )
    capacity = found.capacity(TIGHT)
    assert capacity is not None
    assert (capacity.basis, capacity.request_s, capacity.fails_at) == (RATES, 32, 64)
    assert capacity.remarks[-1] == "a search confirmed 70 requests/s"


def test_a_stricter_search_against_rates(inputs: Inputs) -> None:
    """Without limits, 64/s are the most that `serve` rows held: 70 of a search for `chat` are more,
    60 are not. Where a start was saturated at 64/s, neither counts."""
    rows = served(inputs, 1)
    calm = [row for row in rows if row["request_rate"] <= 64]
    more = evidence_of([*calm, searched(rows[0])]).capacity(None)
    assert more is not None
    assert (more.basis, more.request_s, more.fails_at) == (STRICTER, 70, None)
    less = searched(rows[0], capacity_request_s=[60.0])
    assert evidence_of([*calm, less]).capacity(None) == evidence_of(calm).capacity(None)
    full = [r | {"saturated": "yes"} if r["request_rate"] == 64 else r for r in calm]
    found = evidence_of([*full, searched(rows[0])]).capacity(None)
    assert found is not None
    assert (found.basis, found.request_s, found.fails_at) == (RATES, 32, 64)
    assert found.remarks[-1] == "a search confirmed 70 requests/s under chat, which is stricter"
    # Its latency at what it confirmed goes with it.
    told = evidence_of([*calm, searched(rows[0], capacity_ttft_p50_ms=[45.0])])
    assert told.latency(65) == (70, {"ttft_p50_ms": 45})


def test_a_share_is_stricter_when_it_is_larger() -> None:
    most, all_but = (Slo.of("", {"ttft_ms": 300, "goodput_share": n}) for n in (0.95, 0.99))
    assert all_but.implies(most) and not most.implies(all_but)


def test_the_same_file_in_two_folders_is_one_measurement(inputs: Inputs) -> None:
    once = gather(inputs.rows, EIGHT, SERVED)
    twice = gather([*inputs.rows, *inputs.rows], EIGHT, SERVED)
    assert [one.rows for one in twice.values()] == [one.rows for one in once.values()]
    assert [one.served for one in twice.values()] == [one.served for one in once.values()]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"vllm_version": "0.32.0"}, "vLLM 0.32.0"),
        ({"weights": "real"}, "weights real"),
        ({"dtype": "float16"}, "dtype float16"),
        ({"site": "elsewhere"}, "site elsewhere"),
        ({"model_revision": "abc"}, "revision abc"),
    ],
)
def test_engines_that_differ_are_not_taken_together(
    inputs: Inputs, changed: Record, said: str
) -> None:
    """Half as slow, at 32/s: each engine has its own capacity and its own name."""
    slow = [
        row | changed | {"tpot_p99_ms": 20.0, "engine_id": "other", "cell_id": "other"}
        for row in served(inputs, 1)
        if row["request_rate"] == 32
    ]
    found = ask(replace(inputs, rows=[*served(inputs, 1), *slow]), EIGHT, TIGHT, 20)
    labels = [offer.label for offer in found.offers if offer.capacity.is_measured]
    assert len(labels) == 1 and said not in labels[0]
    assert found.offers[0].capacity.request_s == 32
    (refused,) = [one for one in found.refused if said in one.label]
    assert "tpot_p99 20 > 10 ms at 32 requests/s, measured" in refused.reason


def test_arguments_tell_labels_apart(inputs: Inputs) -> None:
    engine = engine_of(served(inputs, 1)[0])
    few = replace(engine, args={**engine.args, "max_num_seqs": 8})
    assert list(labels_of([engine, few, engine]).values()) == [
        "TP=1 on H200 [max_num_seqs 256]",
        "TP=1 on H200 [max_num_seqs 8]",
    ]


def test_a_class_without_a_price_is_no_answer_by_cost(inputs: Inputs) -> None:
    other = [row | {"gpu": "H100", "cell_id": f"{row['cell_id']}b"} for row in served(inputs, 1)]
    found = ask(replace(inputs, rows=[*inputs.rows, *other]), EIGHT, LOOSE, 20, objective=COST)
    assert {offer.engine.gpu for offer in found.offers} == {"H200"}
    reasons = {one.label: one.reason for one in found.refused}
    assert reasons["TP=1 on H100"] == "no price of H100 (`prices` of the config)"


def test_energy_is_known_only_up_to_the_rates_that_were_measured(inputs: Inputs) -> None:
    """At 32/s one GPU takes 585 W; nobody saw what it takes at 100."""
    rows = [row for row in served(inputs, 1) if row["request_rate"] <= 32]
    found = evidence_of(rows)
    (power,) = (row["gpu_power_w"][0] for row in rows if row["request_rate"] == 32)
    assert found.watts(32) == power
    assert found.watts(32.1) is None
    assert found.watts(1) == found.watts(4)
    nothing = [row | {"gpu_power_w": None} for row in rows]
    asked = ask(replace(inputs, rows=nothing), EIGHT, LOOSE, 20, objective=ENERGY)
    assert asked.best is None
    assert {one.reason for one in asked.refused} == {"no row tells its power at such a load"}
    config = config_of(to_measure(asked), asked.question, inputs.model_entry(EIGHT))
    assert {entry["kind"] for entry in config["workloads"].values()} == {"capacity", "serve"}


def test_a_latency_that_only_a_search_tells(inputs: Inputs) -> None:
    """A search keeps no E2E: 40 ms and 189 tokens of 7 ms."""
    made = searched(served(inputs, 1)[0], capacity_ttft_p50_ms=[40.0], capacity_tpot_p50_ms=[7.0])
    found = ask(replace(inputs, rows=[made]), EIGHT, LOOSE, 70, objective=LATENCY)
    assert found.best is not None and found.best.request_ms == 40 + 189 * 7


def test_an_slo_of_one_name_and_two_limits_is_asked_back(inputs: Inputs) -> None:
    row = served(inputs, 1)[0]
    rows = [searched(row), searched(row, slos=json.dumps({"chat": TIGHT.by_name}))]
    both = replace(inputs, rows=rows)
    with pytest.raises(InputError, match=r"'chat': of several limits .*<= 500 ms.*<= 100 ms"):
        both.slo("chat")
    assert replace(inputs, rows=rows[:1]).slo("chat") == Slo.of("chat", LOOSE.by_name)
    # The config's counts, whatever rows call so.
    named = replace(both, raw={"slos": {"chat": FAST_LIMITS}}).slo("chat")
    assert named is not None and named.by_name == FAST_LIMITS


FAST_LIMITS = {"ttft_p99_ms": 60.0}


def test_an_engine_over_two_nodes(inputs: Inputs) -> None:
    """16 GPUs on two nodes of 8: a server takes both; power is known of one alone."""
    args = {"nnodes": 2, "node_rank": 0, "distributed_executor_backend": "mp"}
    row = served(inputs, 1)[0]
    given = json.dumps({**json.loads(row["engine_args"]), **args})
    wide = {
        "tp": 8,
        "pp": 2,
        "gpus": 16,
        "nodes": 2,
        "engine_args": given,
        "gpu_power_w": [500.0] * 8,
    }
    rows = [row | wide | {"node_gpu_uuids": [str(n) for n in range(8)]}]
    found = ask(replace(inputs, rows=rows), EIGHT, None, 3 * row["request_rate"])
    best = found.best
    assert best is not None and best.capacity.is_measured
    assert (best.engines, best.gpus, best.nodes, best.joules) == (3, 48, 6, None)
    assert replace(inputs, rows=rows).classes["H200"].per_node == 8
    words = serve_script.vllm_serve(best.engine, "M", "m").split()
    assert {"--nnodes=2", "--pipeline-parallel-size=2"} < set(words)
    # An argument of the start is no variant of the config.
    assert "nnodes" not in best.engine.args


QWEN = "qwen3-30b-a3b"


def experts(inputs: Inputs, **layout: Any) -> list[Record]:
    """Served rows of a mixture of experts: 40/s keep LOOSE, 48/s do not; 400 W a GPU."""
    row = next(row for row in served(inputs, 1) if row["request_rate"] == 32)
    gpus = layout.get("tp", 1) * layout.get("dp", 1)
    whole = row | layout | {"model": QWEN, "gpus": gpus, "gpu_power_w": [400.0] * gpus}
    fails = {"request_rate": 48.0, "ttft_p99_ms": 900.0, "cell_id": "fails"}
    return [whole | {"request_rate": 40.0}, whole | fails]


def of_experts(rows: list[Record], per_node: int, rate: float | None, **more: Any) -> Answer:
    classes = {"H200": NodeClass("H200", "NVIDIA H200", per_node, 3.6)}
    evidence, shape = gather(rows, QWEN, SERVED), shape_named(QWEN)
    others = Inputs(rows).others(QWEN)
    question = Question(QWEN, SERVED, rate, LOOSE, **more)
    return answer(question, Candidates(evidence, others, classes, shape))


def test_engines_with_joined_experts_are_one_server(inputs: Inputs) -> None:
    """DP=2: one `vllm serve` on two GPUs, with two attentions and one set of experts. It holds 40/s
    in all: 100/s take three of them, six GPUs."""
    found = of_experts(experts(inputs, dp=2, ep=True), 4, 100)
    best = found.best
    assert best is not None
    assert best.label == "TP=1 x DP=2 (experts joined) + EP on H200"
    assert (best.capacity.request_s, best.capacity.fails_at) == (40, 48)
    # Two to a node of four; three of 100/3 requests/s.
    assert (best.engines, best.gpus, best.nodes) == (3, 6, 2)
    assert best.headroom == pytest.approx(1 - 100 / 120)
    assert best.usd == pytest.approx(6 * 3.6 / 3600 / (100 * 190) * 1e6)
    assert best.joules == pytest.approx(3 * 800 / (100 * 190) * 1e6)
    words = set(serve_script.vllm_serve(best.engine, "M", "m").split())
    one_server = {"--data-parallel-size=2", "--tensor-parallel-size=1", "--enable-expert-parallel"}
    assert one_server < words
    # GPUs that are allowed are those of whole servers.
    assert of_experts(experts(inputs, dp=2, ep=True), 4, 100, most=5).best is None


def test_context_parallelism_takes_no_gpus_of_its_own(inputs: Inputs) -> None:
    """TP=8 with DCP=2 is a server of eight GPUs."""
    best = of_experts(experts(inputs, tp=8, dcp=2), 8, 60).best
    assert best is not None
    assert (best.engines, best.gpus, best.nodes) == (2, 16, 2)
    words = set(serve_script.vllm_serve(best.engine, "M", "m").split())
    assert {"--tensor-parallel-size=8", "--decode-context-parallel-size=2"} < words
    assert not [word for word in words if word.startswith("--data-parallel")]


def test_layouts_of_experts_that_were_not_measured_are_named(inputs: Inputs) -> None:
    """Nothing is expected of them: TP, whole experts and replicated attention are to be measured,
    as far as they use no more GPUs than the answer."""
    rows = [row | {"node_gpu_uuids": ["a", "b", "c", "d"]} for row in experts(inputs, tp=2)]
    found = of_experts(rows, 4, 40)
    assert found.best is not None and found.best.gpus == 2
    cells = to_measure(found)
    assert [cell.label for cell in cells] == [
        "TP=2 on H200",
        "TP=1 on H200",
        "TP=1 x DP=2 (experts joined) + EP on H200",
        "TP=2 + EP on H200",
    ]
    config = config_of(cells, found.question, {"dtype": "bfloat16", "weights": "dummy"})
    joined = [entry for entry in config["workloads"].values() if entry["dp"] == [2]]
    assert [(entry["tp"], entry["ep"]) for entry in joined] == [([1], [True])]
    # Whole experts of 57 GB over two GPUs, the rest on both: 32 GB a GPU, where 61 do not fit.
    small = [row | {"gpu": "L40S", "gpu_card": "NVIDIA L40S"} for row in rows]
    reasons = {one.engine.layout.label: one for one in of_experts(small, 4, 40).refused}
    assert "does not fit: 61 GB of weights a GPU" in reasons["TP=1"].reason
    assert not reasons["TP=1"].would_tell
    assert reasons["TP=1 x DP=2 (experts joined) + EP"].would_tell


def test_replicas_and_servers_are_not_counted_twice(inputs: Inputs) -> None:
    """Two replicas of a dense model behind one server: what rows say is of both."""
    rows = [
        row | {"replicas": 2, "gpus": 2, "gpu_power_w": [400.0, 400.0]} for row in served(inputs, 1)
    ]
    best = ask(replace(inputs, rows=rows), EIGHT, TIGHT, 60, objective=GPUS).best
    assert best is not None and best.capacity.is_measured
    assert (best.capacity.request_s, best.engines, best.gpus) == (32, 2, 4)


def test_a_bound_that_nothing_closes_is_worth_a_search(inputs: Inputs) -> None:
    """TP=2 held 32/s, no higher rate was tried, and nothing is expected: one server might do for
    60/s what two of TP=1 do."""
    rows = [row | {"gpu_card": "CPU"} for row in inputs.rows]
    low = [row for row in rows if row["tp"] == 1 or (row["request_rate"] or 0) <= 32]
    found = ask(replace(inputs, rows=low), EIGHT, TIGHT, 60)
    assert found.best is not None and found.best.engine.tp == 1
    assert not found.best.is_open  # 64/s failed
    why = {cell.label: cell.why for cell in to_measure(found)}
    assert "no rate that was measured failed" in why["TP=2 on H200 (custom all-reduce)"]
    # With an expectation (45 or so) there is nothing to hope for.
    known = [row for row in inputs.rows if row["tp"] == 1 or (row["request_rate"] or 0) <= 32]
    assert not any(
        offer.is_open for offer in ask(replace(inputs, rows=known), EIGHT, TIGHT, 60).offers
    )
    # Of the answer itself, if it takes several.
    alone = [row for row in low if row["tp"] == 2]
    asked = to_measure(ask(replace(inputs, rows=alone), EIGHT, TIGHT, 60))
    assert "no rate that was measured failed" in asked[0].why
    few = to_measure(ask(replace(inputs, rows=alone), EIGHT, TIGHT, 20))
    assert all("no rate" not in cell.why for cell in few)
