"""The page's choice of a layout: the same answers as `tpsweep recommend`, and how it is used."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

import tpsweep.report
from tests.browser.conftest import Opener
from tests.published import FOLDERS, RESULTS
from tests.unit.made_up import Sweep
from tpsweep.analysis.builder import build_tables
from tpsweep.analysis.recommend import offers
from tpsweep.analysis.recommend.evidence import gather
from tpsweep.analysis.recommend.expected import Expectation
from tpsweep.analysis.recommend.inputs import Inputs
from tpsweep.analysis.recommend.question import Question
from tpsweep.analysis.recommend.unmeasured import wanted
from tpsweep.cli.main import main
from tpsweep.core.slo import LIMITS, Slo
from tpsweep.report.choices import choices_of
from tpsweep.results.load import load, records
from tpsweep.tables import BUILDERS

SCRIPT = Path(tpsweep.report.__file__).parent / "templates" / "recommend.js"
SLOS = (
    *("", "ttft_p99_ms=30", "ttft_p99_ms=100", "ttft_p99_ms=300", "ttft_p99_ms=600"),
    *("tpot_p99_ms=6", "tpot_p99_ms=9", "tpot_p99_ms=50", "itl_p50_ms=7", "e2e_p95_ms=1500"),
    *("ttft_p99_ms=500,tpot_p99_ms=50", "ttft_p50_ms=40,tpot_p50_ms=6.5", "tpot_p99_ms=0.01"),
    *("ttft_p95_ms=600,tpot_p95_ms=20", "ttft_p95_ms=600,tpot_p99_ms=50"),
)
RATES = (0.3, 5, 20, 33, 64, 90, 1000)

pytestmark = pytest.mark.browser


def made_up(root: Path) -> Path:
    """What no published folder has: searches, several starts, prices and two node classes."""
    sweep = Sweep(root)
    args = {"max_model_len": 4096, "max_num_seqs": 256, "max_num_batched_tokens": 8192}
    given = json.dumps(args | {"gpu_memory_utilization": 0.9})
    for (gpu, card), tp in itertools.product((("H200", "NVIDIA H200"), ("CPU", "CPU")), (1, 2)):
        place = {"gpu": gpu, "gpu_card": card, "model": "llama-3.1-8b", "settings": "s"}
        for run, rate in itertools.product((0, 1), (2.0, 8.0, 32.0)):
            start = {
                "engine_id": f"{gpu}{tp}{run}",
                "engine_args": given,
                "gpu_power_w": [300.0] * tp,
            }
            known = {name: (20 + rate + run) * (1 + at) for at, name in enumerate(LIMITS)}
            slow = {"saturated": "yes"} if rate > 20 and tp == 1 else {}
            sweep.online(
                tp, 50.0, request_rate=rate, run=run, measured=known | start | slow, **place
            )
            if rate == 2 and (gpu == "H200" or tp == 1):
                # The CPU's search confirms more than the 32/s that saturated elsewhere.
                most = 10.0 * tp if gpu == "H200" else 40.0
                found = {"chat": (most + run, most + 2 * tp), "none": (None, 0.5)}
                said = {
                    "capacity_verdicts": ["not monotonic", "nothing passes"],
                    "slos": json.dumps({"chat": {"ttft_p99_ms": 500}, "none": {"ttft_p99_ms": 1}}),
                }
                sweep.searched(tp, found, run=run, measured=start | said, **place)
    for cell in sweep.manifest:
        cell["gpu_hour_usd"] = {"H200": 4.0, "CPU": None}[cell["gpu"]]
    sweep.write_manifest()
    return root


def told(offer: offers.Offer, slo: Slo | None) -> list[Any]:
    measured = offer.capacity.is_measured
    capacity = offer.capacity.request_s, offer.capacity.fails_at, offer.capacity.starts
    known = [offer.percentiles.get(name) for name in LIMITS]
    return [offer.label, measured, *capacity, offer.engines, offer.gpus, offer.nodes, offer.usd,
            offer.headroom, offer.latency_at, offer.has_long_steps, offer.may_fail(slo),
            known]  # fmt: skip


THEIRS = """
const choices = new Choices(arguments[0]);
return arguments[1].map((question) => {
  const { offers, refused, wanted } = choices.answer(question);
  const names = choices.data.names.slice(0, choices.data.percentiles);
  const known = ({ point }) => names.map((name) => point && choices.ms(point, name));
  return {
    offers: offers.map((one) => [one.engine.layout, one.isMeasured, one.capacity.rate,
      one.capacity.fails, one.capacity.starts, one.count, one.gpus, one.nodes, one.usd,
      one.headroom, one.isSeen ? one.point.rate : null, one.isBusy, one.mayFail, known(one)]),
    refused: refused.map((one) => one.engine.layout),
    wanted: wanted.map((one) => [one.engine.layout, one.rates]),
  };
});
"""


@pytest.mark.parametrize("name", [*(folder.name for folder in FOLDERS), "made-up"])
def test_the_page_answers_as_the_command_does(
    browser: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = next((one for one in FOLDERS if one.name == name), None) or made_up(tmp_path / name)
    results = load(folder)
    manifest = records(results.manifest, ["gpu", "gpu_hour_usd"])
    prices = {line["gpu"]: line["gpu_hour_usd"] for line in manifest if line["gpu_hour_usd"]}
    inputs = Inputs(records(results.rows), prices, [folder])
    (builder,) = (one for one in BUILDERS if one.name == "choices")
    data = choices_of(build_tables(results, [builder])["choices"], name, [])
    # The model of a load takes long, and is the same for all questions.
    known: dict[Any, Expectation] = {}
    monkeypatch.setattr(
        offers,
        "Expectation",
        lambda *parts: known.setdefault((id(parts[0]), *parts[1:2]), Expectation(*parts)),
    )
    asked, ours = [], []
    for model in data["models"]:
        traffic = inputs.traffic(model["name"])
        assert traffic is not None
        shape = inputs.shape(model["name"])
        candidates = offers.Candidates(
            gather(inputs.rows, model["name"], traffic),
            inputs.others(model["name"]),
            inputs.classes,
            shape,
        )
        slos = [inputs.slo(text) if text else None for text in (*SLOS, *inputs.slos)]
        for slo, rate in itertools.product(slos, RATES):
            limits = [list(pair) for pair in slo.limits] if slo else []
            asked.append({"model": model["name"], "rate": rate, "limits": limits})
            question = Question(model["name"], traffic, rate, slo, data["objective"])
            found = offers.answer(question, candidates)
            ours.append(
                {
                    "offers": [told(offer, slo) for offer in found.offers],
                    "refused": [one.label for one in found.refused],
                    "wanted": [[one.label, list(one.rates)] for one in wanted(found)],
                }
            )
    assert len(asked) >= len(SLOS) * len(RATES)
    browser.get("about:blank")
    theirs = browser.execute_script(SCRIPT.read_text() + THEIRS, data, asked)
    for question, here, there in zip(asked, ours, theirs, strict=True):
        assert there == here, question


def answer(browser: Any) -> str:
    return str(browser.find_element("class name", "answer").text)


def wait_for(browser: Any, words: str) -> None:
    try:
        WebDriverWait(browser, 5, 0.02).until(lambda _: words in answer(browser))
    except TimeoutException:
        assert words in answer(browser)


def test_a_question_is_typed_and_its_link_asks_it_again(
    browser: Any, page: Path, open_page: Opener
) -> None:
    """8B on two H200s: 4 requests/s were measured, with too few requests for a p99, and 128, where
    both layouts fail; in between the answer is expected."""
    open_page(page, 1440)
    assert "TP=1 on H200: 1 server on 1 GPU (expected)" in answer(browser)
    field = {
        name: browser.find_element("name", name)
        for name in ("rate", "slo", "ttft_p99_ms", "tpot_p99_ms")
    }
    # The rate rises: more engines. The token time falls: TP=2.
    field["rate"].send_keys(Keys.BACKSPACE * 3, "100")
    wait_for(browser, "TP=1 on H200: 2 servers behind a load balancer, 2 GPUs on 1 node (expected)")
    field["tpot_p99_ms"].send_keys(Keys.BACKSPACE * 3, "5")
    wait_for(browser, "TP=2 on H200 (custom all-reduce): 3 servers behind a load balancer, 6 GPUs")
    assert "TPOT p99 is" in browser.find_element("class name", "reasons").text
    assert [e.text for e in browser.find_elements("css selector", ".key strong")] == [
        "TP=2 on H200 (custom all-reduce), expected: recommended"
    ]
    limits = [e.text for e in browser.find_elements("css selector", ".panels text.limit")]
    assert limits == ["limit 500 ms", "limit 5 ms"]
    before = answer(browser)
    fragment = browser.execute_script("return location.hash.slice(1)")
    assert fragment == "model=llama-3.1-8b&rate=100&slo=ttft_p99_ms%3D500%2Ctpot_p99_ms%3D5"
    # No limit: the fields for limits go. Measured comes first: one engine held 4 requests/s.
    Select(field["slo"]).select_by_visible_text("no limit")
    wait_for(browser, "TP=1 on H200: 25 servers")
    assert "it is expected to do better: 2 GPUs, not 25" in browser.page_source
    assert not field["ttft_p99_ms"].is_displayed()
    # The link leads to the same answer, on a phone too.
    open_page(page, 400, fragment=fragment)
    assert answer(browser) == before
    assert browser.find_element("name", "tpot_p99_ms").get_attribute("value") == "5"
    assert browser.get_log("browser") == []


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of published rows that a sweep did not end."""
    root = tmp_path_factory.mktemp("published")
    for name in ("h200x2", "h200x2-capacity", "h200x2-layouts"):
        ignored = shutil.ignore_patterns("report.html")
        shutil.copytree(RESULTS / "published" / name, root / name, ignore=ignored)
        assert main(["report", str(root / name)]) == 0
    return root


EIGHT = "model=llama-3.1-8b"
SAID = [
    (
        "h200x2-capacity",
        "rate=100&slo=",
        "2 servers behind a load balancer, 2 GPUs on 1 node (measured).",
        (
            "Each server holds at least 60.7 requests/s: headroom at least 18 %.",
            "too: headroom at least 2 % instead of at least 18 %",
            "confirmed under chat, which is stricter",
            "No other layout is expected to do better, and the answer has several engine starts.",
        ),
    ),
    (
        "h200x2-capacity",
        "rate=100&slo=chat",
        "2 GPUs on 1 node (measured).",
        ("Keeps the limits up to 60.7 requests/s per server, by a search.",),
    ),
    # TP=1 x 2 replicas failed at 64/s: so many GPUs as 64/s would take are not offered.
    (
        "h200x2-layouts",
        "rate=100&slo=ttft_p99_ms%3D100",
        "8 GPUs on 4 nodes (measured); 2 GPUs if the expectation holds, which it may not.",
        (
            "2 GPUs may not be enough: TTFT p99 may not hold.",
            "Measured TTFT p99 was up to 1.7 times",
        ),
    ),
    (
        "h200x2",
        "rate=999999&slo=ttft_p99_ms%3D500",
        "31,250 servers behind a load balancer, 31,250 GPUs",
        (
            "no headroom known",
            "16,127 GPUs, not 31,250",
            "cells of this sweep that would show served load are missing, and may change",
        ),
    ),
]


@pytest.mark.parametrize(("name", "asked", "answered", "reasons"), SAID)
def test_an_answer_says_what_it_rests_on(
    browser: Any,
    published: Path,
    open_page: Opener,
    name: str,
    asked: str,
    answered: str,
    reasons: tuple[str, ...],
) -> None:
    open_page(published / name / "report.html", 1440, fragment=f"{EIGHT}&{asked}")
    wait_for(browser, answered)
    said = browser.find_element("class name", "reasons").text
    assert [one for one in reasons if one not in said] == []


def test_limits_stay_in_the_picture_of_a_light_load(
    browser: Any, published: Path, open_page: Opener
) -> None:
    """At 4/s there are too few requests for a p99: the next rate that has one is shown."""
    limits = "ttft_p99_ms%3D500%2Ctpot_p99_ms%3D50"
    page = published / "h200x2" / "report.html"
    open_page(page, 1440, fragment=f"{EIGHT}&rate=0.001&slo={limits}")
    shown = [e.text for e in browser.find_elements("css selector", ".panels text.limit")]
    assert shown == ["limit 500 ms", "limit 50 ms"]


def test_on_a_phone_nothing_of_the_choice_is_cut(
    browser: Any, published: Path, open_page: Opener
) -> None:
    page = published / "h200x2-capacity" / "report.html"
    open_page(page, 400, fragment=f"{EIGHT}&rate=100&slo=chat")
    table = browser.find_element("css selector", ".choice .table")
    browser.execute_script("arguments[0].parentNode.open = true", table)
    assert int(table.get_property("scrollWidth")) <= int(table.get_property("clientWidth"))
    # A select does not tell what it cuts: its text in its own font, beside the arrow.
    chosen = browser.find_element("name", "slo")
    width = browser.execute_script(
        "const pen = document.createElement('canvas').getContext('2d');"
        "pen.font = getComputedStyle(arguments[0]).font;"
        "return pen.measureText(arguments[0].selectedOptions[0].text).width",
        chosen,
    )
    assert width <= chosen.size["width"] - 40


def test_what_cannot_be_answered_is_said_in_a_line(
    browser: Any, page: Path, open_page: Opener
) -> None:
    open_page(page, 1440, fragment="model=other&rate=5&slo=")
    wait_for(browser, "This page has no rows of the model “other”.")
    open_page(page, 1440, fragment="model=llama-3.1-8b&rate=5&slo=chat")
    wait_for(
        browser, "The SLO “chat” is neither named here nor limits of ttft_p99_ms and tpot_p99_ms."
    )
    open_page(page, 1440)
    rate, limit = (browser.find_element("name", name) for name in ("rate", "ttft_p99_ms"))
    rate.send_keys(Keys.BACKSPACE * 3, "<b>lots")
    wait_for(browser, "Requests/s: “<b>lots” is not a number above 0 and at most 1,000,000.")
    assert rate.get_attribute("aria-invalid") == "true"
    assert not browser.find_element("class name", "found").is_displayed()
    rate.send_keys(Keys.BACKSPACE * 9, "99999999")
    wait_for(browser, "“99999999” is not a number above 0 and at most 1,000,000.")
    rate.send_keys(Keys.BACKSPACE * 9)
    wait_for(browser, "Requests/s is missing: type a number above 0 and at most 1,000,000.")
    rate.send_keys("5")
    assert limit.get_attribute("placeholder") == "no limit"
    limit.send_keys(Keys.BACKSPACE * 9, "0.1")
    wait_for(
        browser, "No layout of llama-3.1-8b is known to carry 5 requests/s within these limits."
    )
    assert (
        "limit 0.1 for a single request, expected"
        in browser.find_element("class name", "reasons").text
    )
    assert rate.get_attribute("aria-invalid") is None
    assert browser.get_log("browser") == []
