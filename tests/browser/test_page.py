"""The page of the committed smoke test's real rows, in a real Chromium."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from tests.unit.made_up import Sweep
from tpsweep.cli.main import main

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "results" / "smoke"
TABLES = (
    *("TP comparison", "Metrics", "Models at increasing TP", "TP against TP", "Crossover"),
    *("Batch scaling", "Serving", "Communication", "What TP divides, and what it does not"),
    *("Layouts on the same GPUs", "Floors", "Expected and measured", "Cost: planned and taken"),
    "Validity",
)
CAPTIONS = [
    *("Where it ran", "Models", "Questions", "Expectations"),
    *(f"{table}: llama-3.1-8b on H200" for table in TABLES),
]
SECTIONS = [
    *("ran", "questions", "tp", "metrics", "models", "tp_pairs", "crossover", "batch_scaling"),
    *("throughput", "serving", "communication", "terms", "layouts", "floors", "expected", "cost"),
    *("validity", "failures", "holes"),
]
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-sync", "--disable-background-networking", "--disable-component-update"),
)

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "smoke"
    shutil.copytree(ROWS, folder, ignore=shutil.ignore_patterns("report.html"))
    assert main(["report", str(folder)]) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver; on Debian: install/browser.sh")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    opened = webdriver.Chrome(options=options, service=service)
    yield opened
    opened.quit()


def open_page(browser: Any, page: Path, width: int, scheme: str = "light") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(page.as_uri())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1440])
def test_it_fits_and_says_nothing_on_the_console(
    browser: Any, page: Path, width: int, scheme: str
) -> None:
    open_page(browser, page, width, scheme)
    root = "document.documentElement"
    assert browser.execute_script("return innerWidth") == width
    wide = f"return {root}.scrollWidth - {root}.clientWidth"
    assert browser.execute_script(wide) == 0
    assert browser.get_log("browser") == []
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 200) == (scheme == "dark")


def test_every_table_and_figure_is_there(browser: Any, page: Path) -> None:
    open_page(browser, page, 1440)
    assert texts(browser, "caption") == CAPTIONS
    assert (
        browser.execute_script(
            "return [...document.querySelectorAll('nav a')].map(a => a.hash.slice(1))"
        )
        == SECTIONS
    )
    assert (
        browser.execute_script("return [...document.querySelectorAll('section')].map(s => s.id)")
        == SECTIONS
    )
    lines = browser.execute_script(
        "return [...document.querySelectorAll('#tp tbody tr')].map(r => r.innerText.split('\\t'))"
    )
    # Batch, TP, GPUs, decode: the figures of results/smoke/README.md.
    assert [(line[0], line[1], line[3][:4]) for line in lines] == [
        ("1", "1", "4.93"),
        ("1", "2", "3.51"),
        ("32", "1", "5.83"),
        ("32", "2", "4.12"),
    ]
    drawn = "const b = document.querySelector('figure svg').getBoundingClientRect();"
    assert browser.execute_script(f"{drawn} return b.width > 400 && b.height > 200")
    assert "TP=1" in texts(browser, "svg text")


def test_wide_tables_scroll_in_their_own_box(browser: Any, page: Path) -> None:
    open_page(browser, page, 400)
    moved = "const s = document.querySelector('#tp .scroll'); s.scrollLeft = 200; return"
    assert browser.execute_script(f"{moved} s.scrollLeft") == 200
    assert browser.execute_script("return scrollX") == 0


def test_nothing_but_the_file_is_asked_for(browser: Any, page: Path) -> None:
    browser.get("about:blank")
    browser.get_log("performance")
    open_page(browser, page, 1440)
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


def test_a_table_sorts_by_number_from_the_keyboard(browser: Any, page: Path) -> None:
    open_page(browser, page, 1440)
    decode = 3
    before = column(browser, "#tp", decode)
    button = browser.find_elements("css selector", "#tp th button")[decode]
    button.send_keys(Keys.ENTER)
    rising = column(browser, "#tp", decode)
    assert rising == sorted(before, key=lambda text: float(text.split()[0]))
    assert rising != before
    button.send_keys(Keys.ENTER)
    assert column(browser, "#tp", decode) == rising[::-1]
    header = browser.find_elements("css selector", "#tp th")[decode]
    assert header.get_attribute("aria-sort") == "descending"
    assert browser.get_log("browser") == []


def test_a_table_filters_by_words(browser: Any, page: Path) -> None:
    open_page(browser, page, 1440)
    search = browser.find_element("css selector", "#communication input[type=search]")
    search.send_keys("nsys 2025")
    assert len(column(browser, "#communication", 0)) == 2
    status = browser.find_element("css selector", "#communication [role=status]")
    assert status.text == "2 of 6 lines"
    search.clear()
    search.send_keys("x")
    search.send_keys(Keys.BACKSPACE)
    assert len(column(browser, "#communication", 0)) == 6


def test_made_up_rows_carry_a_watermark(browser: Any, page: Path, tmp_path: Path) -> None:
    mark = "return getComputedStyle(document.body, '::after').content"
    open_page(browser, page, 1440)
    assert browser.execute_script(mark) == "none"
    made = Sweep(tmp_path / "made-up")
    made.add(1, tpot=5.0)
    made.write_manifest()
    assert main(["report", str(made.root)]) == 0
    open_page(browser, made.root / "report.html", 1440)
    assert "SYNTHETIC" in browser.execute_script(mark)
