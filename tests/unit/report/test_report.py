"""The page from synthetic rows: what stands in it, what must not, and how large it gets."""

from __future__ import annotations

import importlib.util
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.unit.made_up import Sweep
from tpsweep.cli.main import main
from tpsweep.figures import plot

HOSTILE = "<script>alert('x')</script> $a$ & \"b\""
TABLES = (
    *("TP comparison", "Models at increasing TP", "TP against TP", "Batch scaling", "Serving"),
    *("Throughput", "Layouts on the same GPUs", "Crossover"),
)
EMPTY = """The matrix has no latency cells.
The matrix has no throughput cells.
The matrix has no serve cells.
No cell failed.
Nothing is measured yet.""".splitlines()


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


class Reader(HTMLParser):
    """Collects tags with their attributes, and the text outside of styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.tags)


def page(sweep: Sweep) -> str:
    sweep.tables()
    assert main(["page", str(sweep.root)]) == 0
    return (sweep.root / "report.html").read_text("utf-8")


def fill(sweep: Sweep, **axes: object) -> None:
    for tp in (1, 2):
        for batch in (1, 8):
            sweep.add(tp, tpot=8.0 / tp, batch=batch, **axes)
        sweep.offline(tp, 10.0 * tp, **axes)
        for rate in (1.0, math.inf):
            saturated = {"saturated": "yes" if math.isinf(rate) else "no"}
            sweep.online(tp, 100.0 / tp, request_rate=rate, measured=saturated, **axes)


def test_every_section_says_what_there_is(sweep: Sweep) -> None:
    fill(sweep)
    html = page(sweep)
    found = Reader(html)
    assert "10/10 cells measured" in found.text and "INCOMPLETE" not in found.text
    assert "SYNTHETIC: made-up rows, never measured." in found.text
    assert "computed: 2 engines of TP=1" in found.text
    captions = re.findall(r"<caption><span>([^<]*)", html)
    matrices = ["Decode (ms/token)", "Prefill (ms)", "Output per GPU (tok/s)"]
    assert captions[:3] == matrices
    assert captions[3:] == [
        *(f"{table}: llama on H200" for table in TABLES),
        *("Where it ran", "Models"),
        *(f"{table}: llama on H200" for table in ("Validity", "Floors", "Expected and measured")),
    ]
    assert found.count("h1") == 1
    assert all(attributes["scope"] == "col" for tag, attributes in found.tags if tag == "th")


def test_every_table_is_linked(sweep: Sweep) -> None:
    fill(sweep)
    sweep.tables()
    written = {f"tables/{path.name}" for path in (sweep.root / "tables").glob("*.csv")}
    tags = Reader(page(sweep)).tags
    links = {value for tag, found in tags if tag == "a" and (value := found.get("href"))}
    assert {link for link in links if link.startswith("tables/")} == written


def test_an_empty_sweep_says_why_in_every_section(sweep: Sweep) -> None:
    text = Reader(page(sweep)).text
    assert all(line in text for line in EMPTY)


def test_an_incomplete_sweep_names_failures_and_holes(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0)
    sweep.fail(sweep.add(2), "out_of_memory", "no room")
    sweep.add(4)
    for batch in (2, 3):
        sweep.add(1, status="infeasible", reason="141 GB on 80 GB", model="large", batch=batch)
    html = page(sweep)
    text = Reader(html).text
    assert "INCOMPLETE 1/3" in text and "out_of_memory" in text and "no room" in text
    assert "<td>141 GB on 80 GB</td><td class=n>2</td><td>large</td>" in html
    assert "<td>missing</td><td>not run yet</td><td class=n>1</td>" in html


def test_a_hostile_name_is_text(sweep: Sweep) -> None:
    fill(sweep, model=HOSTILE, variant=HOSTILE, gpu=HOSTILE)
    sweep.fail(sweep.add(4, model=HOSTILE), "crash", f"</td>{HOSTILE}")
    sweep.add(8, status="excluded", reason=HOSTILE)
    found = Reader(page(sweep))
    # Its own, whose hash is allowed, and data, which no browser runs.
    kinds = [attributes.get("type") for tag, attributes in found.tags if tag == "script"]
    assert kinds == ["application/json", None] and found.count("img") == 0
    assert HOSTILE in found.text and f"</td>{HOSTILE}" in found.text


def test_nothing_is_asked_for(sweep: Sweep) -> None:
    fill(sweep)
    html = page(sweep)
    found = Reader(html)
    links = [a[k] or "" for _, a in found.tags for k in ("href", "src", "xlink:href") if k in a]
    assert links and all(link.startswith(("#", "tables/")) for link in links)
    assert "@import" not in html and not re.search(r"url\((?!#)", html)


def test_ids_are_unique_and_referred_ones_are_there(sweep: Sweep) -> None:
    fill(sweep)
    fill(sweep, gpu="A100")
    html = page(sweep)
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    asked = re.findall(r'(?:href="#|url\(#|labelledby=")([^")]*)', html)
    assert set(asked) <= set(ids)


def test_figures_have_their_numbers_in_words(sweep: Sweep) -> None:
    fill(sweep)
    html = page(sweep)
    descriptions = re.findall(r"<desc [^>]*>([^<]*)</desc>", html)
    assert len(descriptions) == html.count('role="img"')
    (decode,) = (text for text in descriptions if text.startswith("Decode time per token against"))
    assert "TP=2: 4.000 ms at batch 1, 4.000 ms at batch 8" in decode
    (served,) = (text for text in descriptions if text.startswith("TTFT and ITL against the off"))
    assert "TTFT p50 (ms), TP=2: 50.00 at 1, 50.00 at inf" in served
    assert "#b0000" not in html and "#a0000" not in html
    assert "Decode (ms/token)</text>" in html


@pytest.mark.parametrize(("rates", "figures"), [((1.0, 8.0), 1), ((1.0, 1.0), 2)])
def test_unequal_numbers_of_requests_share_a_figure_if_their_rates_differ(
    sweep: Sweep, rates: tuple[float, float], figures: int
) -> None:
    for rate, requests in zip(rates, (60, 480), strict=True):
        sweep.online(1, 100.0, request_rate=rate, num_prompts=requests)
    html = page(sweep)
    assert html.count("TTFT and ITL against the offered rate.") == figures
    assert ("60 or 480 requests" in html) == (figures == 1)


def test_without_matplotlib_the_page_says_so(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(sweep)
    find = importlib.util.find_spec
    monkeypatch.setattr(plot, "find_spec", lambda name: None if "matplot" in name else find(name))
    html = page(sweep)
    assert html.count(plot.MISSING) == 7 and "<svg" not in html


def test_a_large_sweep_makes_a_page_that_opens(sweep: Sweep) -> None:
    for batch in range(1, 501):
        for tp in (1, 2):
            sweep.add(tp, batch=batch, input_len=batch)
    for number, cell in enumerate(sweep.manifest):
        sweep.fail(cell["cell_id"], "crash", f"{number} " * 400)
    html = page(sweep)
    assert len(html) < 1_000_000
    assert html.count("and 600 more, see") == 2  # lines of the comparison, failures


def test_every_model_has_its_share_of_the_page(sweep: Sweep) -> None:
    for model in ("a", "b"):
        for batch in range(1, 302):
            sweep.add(1, model=model, batch=batch)
    html = page(sweep)
    assert "and 202 more, see" in html
    assert "TP comparison: a on H200" in html and "TP comparison: b on H200" in html


def test_the_command(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("tables", "report"):
        assert main([command, str(sweep.root)]) == 2
        assert "matrix.parquet: no such manifest" in capsys.readouterr().err
    sweep.add(1, tpot=8.0)
    sweep.write_manifest()
    for command in ("page", "figures"):
        assert main([command, str(sweep.root)]) == 2
        assert "no such table; `tpsweep tables` makes it" in capsys.readouterr().err
    for command in ("tables", "figures", "page"):
        assert main([command, str(sweep.root)]) == 0
    assert "report.html" in capsys.readouterr().err
    first = (sweep.root / "report.html").read_bytes()
    assert main(["report", str(sweep.root)]) == 0
    assert (sweep.root / "report.html").read_bytes() == first
    assert (sweep.root / "tables/tp_comparison.md").exists()


def test_several_folders_on_one_page(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Sweep(tmp_path / "other")
    for made, site in ((sweep, "here"), (other, "there")):
        made.add(1, tpot=8.0, site=site, cell_id=site)
        made.write_manifest()
    both, out = [str(sweep.root), str(other.root)], tmp_path / "out"
    assert main(["report", *both]) == 2
    assert "--output: missing, allowed: a folder" in capsys.readouterr().err
    assert main(["report", *both, "--output", str(out)]) == 0
    text = Reader((out / "report.html").read_text("utf-8")).text
    assert "2/2 cells measured" in text and "results + other" in text
    assert (out / "tables/cells.csv").read_text("utf-8").count("\n") == 3
    assert not (sweep.root / "report.html").exists()
    assert main(["report", *both, "--output", str(sweep.root / "matrix.parquet")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
