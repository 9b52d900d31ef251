"""The page of the committed smoke test's real rows, in a real Chromium."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from tests.browser.conftest import Opener
from tests.unit.made_up import Sweep
from tpsweep.cli.main import main

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "results" / "smoke"
SUBJECT = "llama-3.1-8b on H200"
CAPTIONS = [
    *("Decode (ms/token)", "Prefill (ms)", "Output per GPU (tok/s)"),
    *(f"{table}: {SUBJECT}" for table in ("TP comparison", "Models at increasing TP")),
    *(f"{table}: {SUBJECT}" for table in ("TP against TP", "Batch scaling", "Serving")),
    *(f"{table}: {SUBJECT}" for table in ("Layouts on the same GPUs", "Crossover")),
    *(
        f"{table}: {SUBJECT}"
        for table in ("Communication", "What TP divides, and what it does not")
    ),
    f"Cost: planned and taken: {SUBJECT}",
    *("Where it ran", "Models"),
    *(f"{table}: {SUBJECT}" for table in ("Validity", "Floors", "Expected and measured")),
]
GROUPS = ["fast", "much", "why", "spent", "trust"]
SECTIONS = [
    *("tp", "models", "tp_pairs", "batch_scaling"),
    *("serving", "capacity", "throughput", "layouts", "crossover"),
    *("communication", "terms", "cost"),
    *("ran", "validity", "floors", "expected", "failures", "holes"),
]

HOSTILE = "</script><b class=evil>x</b>'"
LINES = "#tp details"
"""All lines of the comparison, below its matrices."""

pytestmark = pytest.mark.browser


def unfold(browser: Any) -> None:
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1440])
def test_it_fits_and_says_nothing_on_the_console(
    browser: Any, page: Path, open_page: Opener, width: int, scheme: str
) -> None:
    open_page(page, width, scheme)
    root = "document.documentElement"
    assert browser.execute_script("return innerWidth") == width
    wide = f"return {root}.scrollWidth - {root}.clientWidth"
    assert browser.execute_script(wide) == 0
    assert browser.get_log("browser") == []
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 200) == (scheme == "dark")


def test_every_table_and_figure_is_there(browser: Any, page: Path, open_page: Opener) -> None:
    open_page(page, 1440)
    assert texts(browser, "caption") == CAPTIONS
    assert (
        browser.execute_script(
            "return [...document.querySelectorAll('nav a')].map(a => a.hash.slice(1))"
        )
        == GROUPS
    )
    assert (
        browser.execute_script("return [...document.querySelectorAll('section')].map(s => s.id)")
        == SECTIONS
    )
    unfold(browser)
    lines = browser.execute_script(
        "return [...document.querySelectorAll('#tp details tbody tr')]"
        ".map(r => [...r.cells].map(c => c.textContent))"
    )
    # Batch, TP, GPUs, decode: the figures of results/smoke/README.md.
    assert [(line[0], line[1], line[3][:4]) for line in lines] == [
        ("1", "1", "4.93"),
        ("1", "2", "3.51"),
        ("32", "1", "5.83"),
        ("32", "2", "4.12"),
    ]
    matrix = browser.find_element("css selector", ".matrices table").text
    assert matrix.splitlines()[1:] == ["Batch TP=1 TP=2", "1 4.936 3.513", "32 5.833 4.123"]
    drawn = "const b = document.querySelector('section figure svg').getBoundingClientRect();"
    assert browser.execute_script(f"{drawn} return b.width > 400 && b.height > 200")
    assert "TP=1" in texts(browser, "svg text")


def test_wide_tables_scroll_in_their_own_box(browser: Any, page: Path, open_page: Opener) -> None:
    open_page(page, 400)
    unfold(browser)
    moved = "const s = document.querySelector('#tp details .scroll'); s.scrollLeft = 200; return"
    assert browser.execute_script(f"{moved} s.scrollLeft") == 200
    assert browser.execute_script("return scrollX") == 0


def test_nothing_but_the_file_is_asked_for(browser: Any, page: Path, open_page: Opener) -> None:
    browser.get("about:blank")
    browser.get_log("performance")
    open_page(page, 1440)
    messages = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    asked = {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    # What is in the page itself, as data, is no request that leaves it.
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}


def texts(browser: Any, selector: str) -> list[str]:
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector
    )
    return found


def column(browser: Any, box: str, index: int) -> list[str]:
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0] + ' tbody tr')]"
        ".filter(r => !r.hidden).map(r => r.cells[arguments[1]].textContent)",
        box,
        index,
    )
    return found


def test_a_table_sorts_by_number_from_the_keyboard(
    browser: Any, page: Path, open_page: Opener
) -> None:
    open_page(page, 1440)
    unfold(browser)
    decode = 3
    before = column(browser, LINES, decode)
    button = browser.find_elements("css selector", f"{LINES} th button")[decode]
    button.send_keys(Keys.ENTER)
    rising = column(browser, LINES, decode)
    assert rising == sorted(before, key=lambda text: float(text.split()[0]))
    assert rising != before
    button.send_keys(Keys.ENTER)
    assert column(browser, LINES, decode) == rising[::-1]
    header = browser.find_elements("css selector", f"{LINES} th")[decode]
    assert header.get_attribute("aria-sort") == "descending"
    assert browser.get_log("browser") == []


def test_a_table_filters_by_words(browser: Any, page: Path, open_page: Opener) -> None:
    open_page(page, 1440)
    unfold(browser)
    search = browser.find_element("css selector", "#communication input[type=search]")
    search.send_keys("nsys 2025")
    assert len(column(browser, "#communication", 0)) == 2
    status = browser.find_element("css selector", "#communication [role=status]")
    assert status.text == "2 of 6 lines"
    search.clear()
    search.send_keys("x")
    search.send_keys(Keys.BACKSPACE)
    assert len(column(browser, "#communication", 0)) == 6


def test_made_up_rows_carry_a_watermark_and_names_stay_text(
    browser: Any, page: Path, open_page: Opener, tmp_path: Path
) -> None:
    mark = "return getComputedStyle(document.body, '::after').content"
    open_page(page, 1440)
    assert browser.execute_script(mark) == "none"
    made = Sweep(tmp_path / "made-up")
    made.searched(1, {HOSTILE: (40.0, 42.0)}, model=HOSTILE)
    made.write_manifest()
    assert main(["report", str(made.root)]) == 0
    open_page(made.root / "report.html", 1440)
    assert "SYNTHETIC" in browser.execute_script(mark)
    # Nor is a model's name anything but text, in what the script adds too.
    answer = browser.find_element("class name", "answer")
    asked = Select(browser.find_element("name", "slo"))
    assert asked.first_selected_option.text == f"{HOSTILE}: TTFT p99 ≤ 500 ms"
    assert answer.text == "Use TP=1 on H200: 1 server on 1 GPU (measured)."
    asked.select_by_visible_text("own limits")
    none = f"No layout of {HOSTILE} is known to carry 10 requests/s within these limits."
    assert answer.text == none
    asked.select_by_index(0)
    fragment = browser.execute_script("return location.hash.slice(1)")
    open_page(made.root / "report.html", 400, fragment=fragment)
    answer = browser.find_element("class name", "answer")
    assert answer.text == "Use TP=1 on H200: 1 server on 1 GPU (measured)."
    assert not browser.find_elements("class name", "evil")
    assert browser.get_log("browser") == []
