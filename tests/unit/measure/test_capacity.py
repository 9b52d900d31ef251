"""The capacity workload on simulated servers: what is sent, judged, kept and resumed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.cells import engine, latency_cell
from tests.unit.measure.simulated import Array, Batching, Fixed, Server
from tpsweep.core.cell import Cell
from tpsweep.core.failure import STOPPED
from tpsweep.core.row_file import read_row, write_row
from tpsweep.core.slo_counts import Stop, Watch, slos_of
from tpsweep.engine.api_server import Counters
from tpsweep.engine.load_generator import Sent, times_of
from tpsweep.measure import capacity
from tpsweep.measure.capacity_search import CHECK, CONFIRM, SEARCH, Ask
from tpsweep.measure.measurement import Measurement
from tpsweep.measure.probe_log import ProbeLog
from tpsweep.sweep.request_set import RequestSet

SLOS = {"chat": {"ttft_p90_ms": 200.0}, "slow": {"ttft_p50_ms": 400.0}}
TOKENS = 9
SET = RequestSet([[place] * 3 for place in range(50)], [TOKENS] * 50)
ABOUT = {"cell_id": "c1", "method": 1}


def capacity_cell(**extra: Any) -> Cell:
    settings: dict[str, Any] = {
        "slos": SLOS,
        "probe_s": 10.0,
        "probe_requests": 100,
        "max_request_rate": 1000.0,
        "max_probes": 40,
    }
    return latency_cell(
        workload="capacity",
        engine=engine(mode="server"),
        batch=None,
        num_prompts=50,
        warmups=8,
        repeats=2,
        extra={**settings, **extra},
    )


class Client:
    """Sends to a simulated server, and stops where the real one would; ``dies_at``: at that run."""

    def __init__(self, server: Server, **changes: Any) -> None:
        self.server, self.changes = server, changes
        self.rates: list[float] = []
        self.dies_at: int | None = None
        self.sent = 0

    def __call__(
        self,
        requests: RequestSet,
        rate: float | None,
        concurrency: int | None,
        seed: int,
        *,
        stop: Stop | None = None,
    ) -> Sent:
        if rate is not None:
            if len(self.rates) == self.dies_at:
                raise KeyboardInterrupt
            self.rates.append(rate)
        arrivals = np.asarray(requests.arrivals_s or [0.0] * len(requests.prompts))
        ttft, tpot = (times / 1e3 for times in self.server(arrivals, seed))
        count = arrivals.size
        errors, lost, over = [""] * count, None, 0.0
        if stop:
            watch, ends = Watch(stop), arrivals + ttft + tpot * (TOKENS - 1)
            for place in np.argsort(ends, kind="stable").tolist():
                times = times_of(ttft[place], [tpot[place]] * (TOKENS - 1), TOKENS)
                sent = int(np.searchsorted(arrivals, ends[place]))
                watch.add(place, times, sent, ends[place])
                if watch.is_hopeless:
                    lost, over = dict(watch.lost), float(ends[place])
                    count = int(np.searchsorted(arrivals, over))
                    errors = [STOPPED if ends[k] > over else "" for k in range(count)]
                    break
        self.sent += count
        good = [not error for error in errors]
        fields: dict[str, Any] = {
            "duration_s": over if lost else float((arrivals + ttft + tpot * (TOKENS - 1)).max()),
            "input_lens": [3] * count,
            "output_lens": [TOKENS if ok else 0 for ok in good],
            "ttft_s": [t if ok else 0.0 for t, ok in zip(ttft.tolist(), good, strict=False)],
            "itl_s": [
                [t] * (TOKENS - 1) if ok else [] for t, ok in zip(tpot.tolist(), good, strict=False)
            ],
            "start_s": (100 + arrivals[:count]).tolist(),
            "queued_s": None,
            "errors": errors,
            "client_cpu_s": 0.1,
            "raw": {},
            "lost": lost,
        }
        return Sent(**{**fields, **self.changes})

    def counters(self, hits: float = 0.0) -> Counters:
        return Counters(hits if self.sent else 0.0, float(self.sent))


def run(
    folder: Path,
    client: Client,
    cell: Cell | None = None,
    expected: float | None = 40.0,
    about: dict[str, Any] = ABOUT,
    counters: Callable[[], Counters] | None = None,
) -> Measurement:
    log = ProbeLog(folder / "probes.jsonl", about)
    counted = counters or client.counters
    return capacity.run(cell or capacity_cell(), SET, client, counted, log, expected, "e1")


def test_a_row_has_an_answer_for_each_slo_and_every_probe(tmp_path: Path) -> None:
    client = Client(Fixed(100.0, 4))  # 40 requests/s at most
    found = run(tmp_path, client)
    assert found.refusals == []
    made = found.figures
    assert made["slo_names"] == ["chat", "slow"]
    strict, loose = made["capacity_request_s"]
    assert 28 < strict < 40 and strict <= loose < 42
    assert all(
        low < high
        for low, high in zip((strict, loose), made["capacity_upper_request_s"], strict=True)
    )
    lists = {name: value for name, value in made.items() if name.startswith("probe_")}
    assert {len(value) for value in lists.values()} == {len(client.rates)}
    assert made["probe_request_s"] == client.rates
    assert made["probe_request_s"][0] == 24.0  # 0.6 of what is expected at most
    assert set(made["probe_purposes"]) <= {SEARCH, CHECK, CONFIRM}
    assert json.loads(made["slos"]) == SLOS
    path = tmp_path / "row.parquet"
    write_row({"cell_id": "x", **made}, path)  # every column is in the schema, with its type
    assert read_row(path)["capacity_request_s"] == [strict, loose]
    at = [place for place, rate in enumerate(client.rates) if rate == strict]
    confirming = [place for place in at if made["probe_purposes"][place] == CONFIRM]
    shown = [made["probe_output_tok_s"][place] for place in confirming]
    assert made["capacity_output_tok_s"][0] == pytest.approx(np.mean(shown))
    assert np.mean(shown) == pytest.approx(strict * TOKENS, rel=0.1)


def test_without_an_expectation_the_first_look_says_where_to_start(tmp_path: Path) -> None:
    client = Client(Fixed(100.0, 4))
    run(tmp_path, client, expected=None)  # 8 requests at once take 0.2 s and a bit
    assert client.rates[0] == pytest.approx(0.6 * 40, rel=0.25)


def test_a_hopeless_probe_is_stopped_and_fails(tmp_path: Path) -> None:
    client = Client(Fixed(100.0, 4))
    made = run(tmp_path, client, expected=1000.0).figures  # starts at 15 times the capacity
    assert made["probe_stopped"][0] is True
    assert made["probe_verdicts"][0] == "chat: fails (saturated); slow: fails (saturated)"
    assert made["probe_requests"][0] < 100 and made["probe_duration_s"][0] < 3
    lost = {words for words in made["probe_verdicts"] if "slow: not known" in words}
    assert lost == {"chat: fails (ttft_p90_ms); slow: not known"}  # stopped for the stricter one
    assert made["capacity_verdicts"] == ["bracket", "bracket"]


def test_more_than_is_served_fails_whatever_the_limits(tmp_path: Path) -> None:
    lenient = capacity_cell(slos={"any": {"ttft_p50_ms": 1e9}}, probe_s=30.0)
    made = run(tmp_path, Client(Fixed(100.0, 4)), lenient).figures
    assert made["capacity_limits"] == ["saturated"]
    assert made["capacity_request_s"][0] == pytest.approx(40, rel=0.15)


@pytest.mark.parametrize(("every", "holds"), [(7, True), (4, False)])
def test_the_seeds_that_confirm_are_counted_together(
    tmp_path: Path, every: int, holds: bool
) -> None:
    def search(folder: Path, unlucky: int | None) -> dict[str, Any]:
        """Slow from 30/s on; of one seed, one request in ``every`` is late (one in ten may be)."""

        def server(arrivals: Array, seed: int) -> tuple[Array, Array]:
            too_fast = bool(client.rates) and client.rates[-1] > 30
            late = (seed == unlucky) & (np.arange(arrivals.size) % every == 0) | too_fast
            return 50.0 + 1e3 * late, np.full(arrivals.size, 2.0)

        client = Client(server)
        return run(folder, client, capacity_cell(slos={"chat": {"ttft_p90_ms": 200.0}})).figures

    calm = search(tmp_path / "calm", None)
    unlucky = calm["probe_purposes"].index(CONFIRM)
    made = search(tmp_path / "unlucky", unlucky)
    assert made["probe_request_s"][unlucky] == calm["capacity_request_s"][0]
    assert made["probe_verdicts"][unlucky] == "chat: fails (ttft_p90_ms)"
    assert made["probe_stopped"][unlucky] is not holds  # no second seed could make up for it
    assert (made["capacity_request_s"] == calm["capacity_request_s"]) is holds


def test_a_killed_search_goes_on_at_the_next_probe(tmp_path: Path) -> None:
    whole = Client(Batching())
    expected = run(tmp_path / "whole", whole).figures
    (tmp_path / "killed").mkdir()
    killed = Client(Batching())
    killed.dies_at = 5
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", killed)
    with (tmp_path / "killed/probes.jsonl").open("a") as file:
        file.write('{"probe": {"request_s"')  # the kill cut a line off
    twice = Client(Batching())
    twice.dies_at = 1
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", twice)
    again = Client(Batching())
    found = run(tmp_path / "killed", again, expected=90.0).figures  # the start is the first one's
    assert [*killed.rates, *twice.rates, *again.rates] == whole.rates
    for name in ("capacity_request_s", "capacity_upper_request_s", "probe_seeds", "probe_queue"):
        assert found[name] == expected[name]


def test_probes_of_anything_else_are_not_believed(tmp_path: Path) -> None:
    short = capacity_cell(max_probes=2)
    first = Client(Batching())
    run(tmp_path, first, short)
    for about in ({"cell_id": "c2", "method": 1}, {"cell_id": "c1", "method": 2}):
        other = Client(Batching())
        run(tmp_path, other, short, about=about)
        assert other.rates == first.rates
    same = Client(Batching())
    run(tmp_path, same, short, about=about)
    assert same.rates == []  # all were there: the row was not
    head = json.dumps({"about": ABOUT, "start_request_s": 5.0})
    for text in (
        "",
        "[]\n",
        "not JSON\n",
        json.dumps({"about": ABOUT}) + "\n",
        *(f'{head}\n{{"probe": {probe}}}\n' for probe in ("1", '"x"', '{"counts": []}')),
    ):
        (tmp_path / "probes.jsonl").write_text(text)
        after = Client(Batching())
        run(tmp_path, after, short)
        assert after.rates == first.rates


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"client_cpu_s": 1e9}, "of a processor at"),
        ({"start_s": "late"}, "the client sent"),
    ],
)
def test_a_client_that_is_the_limit_is_named(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    client = Client(Fixed(100.0, 4))
    plain = client.__call__

    def slow(requests: RequestSet, rate: float | None, *rest: Any, **named: Any) -> Sent:
        sent = plain(requests, rate, *rest, **named)
        if changes.get("start_s"):
            return replace(sent, start_s=[100 + 1.2 * (start - 100) for start in sent.start_s])
        return replace(sent, **changes)

    log = ProbeLog(tmp_path / "probes.jsonl", ABOUT)
    made = capacity.run(
        capacity_cell(),
        SET,
        slow,
        client.counters,
        log,
        40.0,
        "e1",  # type: ignore[arg-type]
    ).figures
    assert all(
        said in note and "may have been the limit" in note for note in made["capacity_notes"]
    )


def test_a_client_that_sent_in_time_is_not_blamed_for_few_arrivals() -> None:
    slos = slos_of({"never": {"ttft_p90_ms": 1.0}})
    for seed in range(20):  # each is stopped after 21 requests, whose rate is 15 to 35/s
        client, ask = Client(Fixed(100.0, 4)), Ask(20.0, seed, SEARCH, ("never",))
        load = capacity.make_load(ask, SET, 200, 100.0)
        stop = Stop(slos, load.first, load.last, load.tokens, 2.0)
        sent = client(load.requests, 20.0, None, seed, stop=stop)
        found = capacity.judge(ask, load, slos, sent, "e1")
        assert found.probe.stopped and found.client_problem is None
        slow = replace(sent, start_s=[100 + 1.2 * (start - 100) for start in sent.start_s])
        late = capacity.judge(ask, load, slos, slow, "e1").client_problem
        assert late == "the client sent 16.7/s at 20/s"


def test_failed_requests_and_other_lengths_refuse_the_cell(tmp_path: Path) -> None:
    failing = Client(Fixed(100.0, 4), errors=["connection lost"] * 8)
    measured = run(tmp_path, failing)
    assert measured.figures == {}
    assert "8 of 8 requests failed, the first with: connection lost" in measured.refusals
    client = Client(Fixed(100.0, 4))
    load = capacity.make_load(Ask(20.0, 3, SEARCH, ()), SET, 100, 100.0)
    sent = client(load.requests, 20.0, None, 3)
    assert capacity.problems(load.requests, sent) == []
    wrong = replace(sent, output_lens=[TOKENS - 1, *sent.output_lens[1:]])
    assert "another number of output tokens" in capacity.problems(load.requests, wrong)[0]
    cut = replace(sent, errors=[STOPPED, *sent.errors[1:]], output_lens=wrong.output_lens)
    assert capacity.problems(load.requests, cut) == []


def test_cache_hits_and_foreign_requests_refuse_the_cell(tmp_path: Path) -> None:
    client = Client(Fixed(100.0, 4))
    found = run(
        tmp_path, client, capacity_cell(max_probes=1), counters=lambda: client.counters(hits=64.0)
    )
    assert found.refusals == ["64 prompt tokens came from the prefix cache"]
    client = Client(Fixed(100.0, 4))
    found = run(
        tmp_path / "b",
        client,
        capacity_cell(max_probes=1),
        counters=lambda: Counters(0.0, 1.5 * client.sent),
    )
    assert "someone else used it" in found.refusals[0]


def test_a_probe_warms_up_at_its_own_load_and_keeps_it_up() -> None:
    ask = Ask(20.0, 7, SEARCH, ())
    load = capacity.make_load(ask, SET, judged=400, latency_ms=3000.0)
    assert load.first == 90  # 1.5 times 3 s at 20/s: more than a fifth of the judged ones
    assert load.last - load.first == 400
    assert len(load.requests.prompts) == 90 + 400 + 61  # 3 s behind them
    arrivals = load.requests.arrivals_s
    assert arrivals is not None and arrivals[0] == 0.0
    span = arrivals[load.last - 1] - arrivals[load.first - 1]
    assert span == pytest.approx(400 / 20.0)
    gaps = np.diff(arrivals)
    assert gaps.std() == pytest.approx(1 / 20.0, rel=0.15)  # as of Poisson arrivals
    other = capacity.make_load(replace(ask, seed=8), SET, 400, 3000.0)
    assert other.requests.prompts != load.requests.prompts
    assert sorted(other.requests.prompts[:50]) == sorted(SET.prompts)  # each in turn
    again = capacity.make_load(ask, SET, 400, 3000.0)
    assert again.requests.digest == load.requests.digest


def test_answers_of_one_token_keep_every_itl() -> None:
    client, ask = Client(Fixed(100.0, 4)), Ask(15.0, 2, SEARCH, ("itl",))
    slos = slos_of({"itl": {"itl_p99_ms": 1.0}})
    load = capacity.make_load(ask, SET, 100, 100.0)
    sent = client(load.requests, 15.0, None, 2)
    assert capacity.judge(ask, load, slos, sent, "e1").probe.counts["itl"]["itl_p99_ms"].kept == 0
    count = len(sent.errors)
    single = replace(sent, output_lens=[1] * count, itl_s=[[] for _ in range(count)])
    found = capacity.judge(ask, load, slos, single, "e1").probe.counts["itl"]["itl_p99_ms"]
    assert (found.kept, found.of) == (100, 100) and slos[0].limits[0].is_kept(found.kept, found.of)


def test_judged_requests_are_enough_for_every_share() -> None:
    slos = slos_of({"a": {"ttft_p99_ms": 1.0}, "b": {"goodput_share": 0.9, "ttft_ms": 1.0}})
    assert capacity.judged_requests(capacity_cell(), slos, 20.0) == 2000
    assert capacity.judged_requests(capacity_cell(), slos[1:], 20.0) == 200  # 10 s at 20/s
    assert capacity.judged_requests(capacity_cell(), slos[1:], 50.0) == 500
    assert capacity.judged_requests(capacity_cell(probe_requests=700), slos[1:], 50.0) == 700


def test_rates_and_queue_are_of_the_judged_time() -> None:
    client = Client(Fixed(100.0, 4))
    ask = Ask(15.0, 2, SEARCH, ("chat",))
    load = capacity.make_load(ask, SET, 900, 100.0)
    found = capacity.judge(ask, load, slos_of(SLOS), client(load.requests, 15.0, None, 2), "e1")
    assert found.requests == 900
    assert found.sent_request_s == pytest.approx(15.0, rel=0.01)
    assert found.served_request_s == pytest.approx(15.0, rel=0.05)
    assert found.output_tok_s == pytest.approx(15.0 * TOKENS, rel=0.05)
    latency_s = found.e2e_p50_ms / 1e3 if found.e2e_p50_ms else math.nan
    assert found.queue == pytest.approx(15.0 * latency_s, rel=0.15)  # Little's law
    counts = found.probe.counts["chat"]["ttft_p90_ms"]
    assert counts.of == 900 and counts.kept / 900 > 0.9
    assert found.ttft_p99_ms is None  # 900 requests
