"""The serve workload on runs made up with round figures: nothing here sends a request."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.cells import engine, latency_cell
from tpsweep.core.saturation import NO, NOT_SHOWN, YES
from tpsweep.core.stats import percentile
from tpsweep.engine import api_server
from tpsweep.engine.load_generator import Sent
from tpsweep.measure import serving
from tpsweep.sweep.request_set import Prefix, RequestSet

TTFT_S, ITL_S, TOKENS = 0.020, 0.005, 11
E2E_S = TTFT_S + ITL_S * (TOKENS - 1)
COUNT = 40
HALF = frozenset(range(COUNT // 2))
REQUESTS = RequestSet([[7] * 3] * COUNT, [TOKENS] * COUNT)


def serve_cell(**changes: Any) -> Any:
    fields: dict[str, Any] = {
        "workload": "serve",
        "engine": engine(mode="server"),
        "batch": None,
        "num_prompts": COUNT,
        "request_rate": 4.0,
        "warmups": 2,
        "repeats": 3,
    }
    return latency_cell(**{**fields, **changes})


def sent(rate: float = 4.0, extra_s: float = 0.0, slower_s: float = 0.0, **changes: Any) -> Sent:
    """Even arrivals; request i's first token takes ``slower_s`` * i longer."""
    ttft = [TTFT_S + extra_s + slower_s * i for i in range(COUNT)]
    start = [100 + i / rate for i in range(COUNT)]
    end = [s + t + ITL_S * (TOKENS - 1) for s, t in zip(start, ttft, strict=True)]
    fields: dict[str, Any] = {
        "duration_s": max(end) - 100,
        "input_lens": [3] * COUNT,
        "output_lens": [TOKENS] * COUNT,
        "ttft_s": ttft,
        "itl_s": [[ITL_S] * (TOKENS - 1)] * COUNT,
        "start_s": start,
        "queued_s": [0.0] * COUNT,
        "errors": [""] * COUNT,
        "client_cpu_s": 1.0,
        "raw": {},
    }
    return Sent(**{**fields, **changes})


def figures(runs: list[Sent], **changes: Any) -> dict[str, Any]:
    return serving.figures(serve_cell(**changes), REQUESTS, runs)


def test_latencies_are_those_of_all_seeds_requests() -> None:
    found = figures([sent(), sent(extra_s=0.002), sent(extra_s=0.004)])
    assert found["ttft_p50_ms"] == pytest.approx(22)
    assert found["ttft_p50_ms_samples"] == pytest.approx([20, 22, 24])
    assert (found["ttft_p50_ms_lo"], found["ttft_p50_ms_hi"]) == pytest.approx((20, 24))
    assert found["itl_p50_ms"] == pytest.approx(5)
    assert found["itl_p99_ms"] == pytest.approx(5)
    assert found["tpot_p50_ms"] == pytest.approx(5)
    assert found["e2e_p50_ms"] == pytest.approx(1e3 * E2E_S + 2)
    assert len(found["ttft_ms_samples"]) == 3 * COUNT
    assert found["tokens_per_chunk"] == pytest.approx(1)


def test_a_percentile_of_few_samples_is_null() -> None:
    found = figures(
        [sent()] * 3
    )  # 120 requests: 12 lie above the 90th percentile, 6 above the 95th
    assert found["ttft_p90_ms"] is not None
    assert found["ttft_p95_ms"] is None
    assert found["ttft_p99_ms"] is None
    assert percentile(list(range(1000)), 99) == pytest.approx(989.01)
    assert percentile(list(range(999)), 99) is None


def test_rates_and_goodput() -> None:
    slow = sent(extra_s=0.1)
    found = figures([sent(), sent(), slow], extra={"slo": {"ttft_ms": 50, "tpot_ms": 6}})
    assert found["goodput_share"] == 1.0  # the median of the seeds: 1, 1 and 0
    assert json.loads(found["slo"]) == {"ttft_ms": 50, "tpot_ms": 6}
    assert found["request_s"] == pytest.approx(COUNT / sent().duration_s)
    assert found["goodput_request_s"] == pytest.approx(COUNT / sent().duration_s)
    assert found["output_tok_s_per_gpu"] == pytest.approx(found["output_tok_s"] / 2)
    none = figures([sent()] * 3)
    assert none["goodput_share"] is None


def test_steady_is_from_the_first_completion_to_the_last_send() -> None:
    found = sent()
    steady = (COUNT - 1) / 4 - E2E_S
    assert serving.steady_share(found) == pytest.approx(steady / found.duration_s)
    at_once = sent(start_s=[100.0] * COUNT, duration_s=E2E_S)
    assert serving.steady_share(at_once) == 0.0


LONG = 400


def long_run(grows: float, **changes: Any) -> Sent:
    """40 requests/s for 10 s; the TTFT grows by so many seconds per second."""
    starts = [100 + i / 40 for i in range(LONG)]
    fields: dict[str, Any] = {
        "start_s": starts,
        "queued_s": [0.0] * LONG,
        "ttft_s": [0.01 + grows * (start - 100) for start in starts],
        "itl_s": [[ITL_S] * (TOKENS - 1)] * LONG,
        "output_lens": [TOKENS] * LONG,
        "errors": [""] * LONG,
    }
    return replace(sent(), **{**fields, **changes})


def verdict(runs: list[Sent], rate: float = 40.0, concurrency: int | None = None) -> str | None:
    found = serving.load_of(runs, rate, concurrency)
    return found.verdict if found else None


def test_a_wait_that_grows_is_saturated() -> None:
    assert verdict([long_run(0.0)] * 3) == NO
    assert verdict([long_run(0.05)] * 3) == YES  # 1.05 of capacity, without any noise
    assert verdict([long_run(0.5)] * 3) == YES
    assert serving.max_in_flight(long_run(0.5)) > 100


def test_what_an_overload_of_5_percent_could_have_made_is_not_called_unsaturated() -> None:
    noisy = [
        long_run(0.0, ttft_s=[0.01 + 0.3 * ((i // 40 + seed) % 3) for i in range(LONG)])
        for seed in range(3)
    ]
    assert verdict(noisy) == NOT_SHOWN


def test_of_a_run_as_short_as_its_requests_nothing_is_shown() -> None:
    assert verdict([sent(rate=400, slower_s=0.0, extra_s=0.5)] * 3, 400.0) == NOT_SHOWN


def test_waiting_in_the_client_is_a_queue_too() -> None:
    wait = [0.5 * i / 40 for i in range(LONG)]
    starts = [100 + i / 40 + wait[i] for i in range(LONG)]
    held = long_run(0.0, start_s=starts, queued_s=wait, ttft_s=[0.01] * LONG)
    assert verdict([held] * 3, concurrency=8) == YES
    silent = replace(held, queued_s=None)
    assert verdict([silent] * 3, concurrency=8) == NOT_SHOWN


def test_all_at_once_is_saturated_and_a_closed_loop_is_not_judged() -> None:
    assert verdict([sent()], float("inf")) == YES
    assert verdict([sent()], float("inf"), 8) is None
    assert figures([sent()] * 3, request_rate=float("inf"))["saturated"] == YES


def test_the_growth_is_in_the_row() -> None:
    found = figures([long_run(0.05)] * 3, request_rate=40.0)
    assert found["saturated"] == YES
    assert found["latency_growth"] == pytest.approx(0.05)
    assert found["latency_growth_lo"] == pytest.approx(0.05)


class Sender:
    """Remembers what was asked; the n-th run of the set is ``runs[n]``."""

    def __init__(self, runs: list[Sent]) -> None:
        self.runs = runs
        self.asked: list[tuple[int, float | None, int | None, int]] = []

    def __call__(
        self, requests: RequestSet, rate: float | None, concurrency: int | None, seed: int
    ) -> Sent:
        self.asked.append((len(requests.prompts), rate, concurrency, seed))
        return self.runs[seed]


def measure(runs: list[Sent], hits: float = 0.0, foreign: int = 0) -> tuple[Any, Sender]:
    done = [100.0, 100.0 + 3 * COUNT + foreign]
    counts = (api_server.Counters(h, d) for h, d in zip([5.0, 5.0 + hits], done, strict=True))
    sender = Sender(runs)
    measurement, _ = serving.run(serve_cell(), REQUESTS, sender, lambda: next(counts))
    return measurement, sender


def test_warm_ups_then_one_run_a_seed() -> None:
    measurement, sender = measure([sent()] * 3)
    assert measurement.refusals == []
    assert measurement.output_tokens == 3 * COUNT * TOKENS
    assert sender.asked == [(2, None, None, 0)] + [(COUNT, 4.0, None, seed) for seed in range(3)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"errors": [""] * (COUNT - 2) + ["Traceback\nConnection refused"] * 2},
            "2 of 120 requests failed, the first with: Connection refused",
        ),
        (
            {"output_lens": [TOKENS] * (COUNT - 1) + [9]},
            "1 of 120 requests had another number of output tokens than asked, e.g. 9 and not 11",
        ),
        (
            {"input_lens": [4] + [3] * (COUNT - 1)},
            "1 of 120 requests had another number of prompt tokens than asked, e.g. 4 and not 3",
        ),
        ({"output_lens": []}, "a seed returned another number of requests than 40"),
    ],
)
def test_a_bad_request_refuses_the_cell_and_makes_no_figures(
    change: dict[str, Any], said: str
) -> None:
    measurement, _ = measure([sent(), sent(), sent(**change)])
    assert said in measurement.refusals
    assert measurement.figures == {}


def test_prefix_hits_refuse_the_cell() -> None:
    measurement, _ = measure([sent()] * 3, hits=32)
    assert measurement.refusals == ["32 prompt tokens came from the prefix cache"]


SHARING = RequestSet([[7] * 32 + [1]] * COUNT, [TOKENS] * COUNT, prefix=Prefix(32, HALF, 1000))


def shared(hits: float) -> tuple[Any, list[RequestSet]]:
    """A cell whose prompts share 32 tokens by half of them: at most 640 hits a seed."""
    counts = iter([api_server.Counters(5.0, 100.0), api_server.Counters(5.0 + hits, 220.0)])
    asked: list[RequestSet] = []

    def send(requests: RequestSet, *_: object) -> Sent:
        asked.append(requests)
        return sent(input_lens=[33] * COUNT)

    measurement, _ = serving.run(serve_cell(), SHARING, send, lambda: next(counts))
    return measurement, asked


def test_hits_of_a_shared_prefix_are_a_share_of_the_prompts() -> None:
    measurement, asked = shared(hits=3 * 640)
    assert measurement.refusals == []
    assert measurement.figures["prefix_hit_share"] == pytest.approx(640 / (33 * COUNT))
    prompts = [tuple(prompt) for requests in asked for prompt in requests.prompts]
    assert len({prompt[:32] for prompt in prompts}) > COUNT  # what is not shared is drawn anew
    assert sum(prompt[:32] == (7,) * 32 for prompt in prompts) == 3 * COUNT // 2 + 2


@pytest.mark.parametrize(
    ("hits", "said"),
    [
        (3 * 640 + 16, "1936 prompt tokens came from the prefix cache; shared are 1920"),
        (
            0,
            "no prompt token came from the prefix cache: prefix_len 32 is below the engine's block",
        ),
    ],
)
def test_other_hits_than_those_of_the_prefix_refuse_the_cell(hits: float, said: str) -> None:
    measurement, _ = shared(hits)
    assert measurement.refusals[0].startswith(said) and measurement.figures == {}


def test_somebody_elses_requests_refuse_the_cell() -> None:
    measurement, _ = measure([sent()] * 3, foreign=2)
    (reason,) = measurement.refusals
    assert reason == "the server answered 122 requests, 120 were sent: someone else used it"


def test_steady_rates_leave_build_up_and_drain_out() -> None:
    run = sent(rate=4.0)
    made = figures([run] * 3)
    # Between the first completion (0.07 s) and the last send (9.75 s) 38.7 requests' worth of
    # load was served: whole requests end, and tokens come at 4 x 11 a second.
    assert made["steady_request_s"] == pytest.approx(4.0, rel=0.03)
    assert made["steady_output_tok_s"] == pytest.approx(4.0 * TOKENS, rel=0.03)
    assert made["request_s"] == pytest.approx(COUNT / (39 / 4 + E2E_S))


def test_a_slow_drain_is_in_the_whole_rate_alone() -> None:
    late = [TTFT_S] * (COUNT - 1) + [20.0]  # the last answer takes 20 s
    run = sent(rate=4.0, ttft_s=late)
    run = replace(run, duration_s=max(run.end_s) - 100)
    made = figures([run] * 3)
    assert made["request_s"] < 1.5
    assert made["steady_request_s"] == pytest.approx(4.0, rel=0.03)


def test_steady_rates_are_of_their_window_alone() -> None:
    run = sent(rate=4.0)
    found = serving.steady_rates(run, 102.0, 104.0)
    assert found is not None
    assert found.request_s == pytest.approx(4.0)  # 8 answers end in these 2 s
    assert found.output_tok_s == pytest.approx(4.0 * TOKENS)
    assert serving.steady_rates(run, 104.0, 104.0) is None
    cut = replace(run, itl_s=[[], *run.itl_s[1:]], ttft_s=[0.0, *run.ttft_s[1:]])
    none = replace(cut, output_lens=[0, *run.output_lens[1:]])
    before = serving.steady_rates(none, 99.0, 100.2)
    assert before is not None and before.request_s == before.output_tok_s == 0.0


def test_all_at_once_has_no_steady_rate() -> None:
    run = replace(sent(), start_s=[100.0] * COUNT)
    assert figures([run] * 3, request_rate=None)["steady_request_s"] is None
