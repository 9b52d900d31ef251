"""The reference pages say what the code says."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from tpsweep import columns, failure, settings
from tpsweep.settings import Closed

ROOT = Path(__file__).parents[2]
SECTIONS = {
    "Settings": "Top level",
    "ModelEntry": "Models",
    "Workload": "Workloads",
    "Pins": "Engine",
    "StaticBatch": "Static batches",
    "Latency": "Static batches",
    "Capture": "Static batches",
    "RequestSet": "Request sets",
    "Throughput": "Request sets",
    "Serve": "Request sets",
    "Slo": "SLO",
    "Exclusion": "Exclude",
}
ELSEWHERE = {"kind": "Workloads", "repeats": "Workloads"}
"""Keys that the kinds narrow, described once for all of them."""


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def described() -> dict[tuple[str, str], str]:
    """(section, key) -> the default that docs/config.md gives."""
    found = {}
    for section in re.split(r"^#+ ", page("config.md"), flags=re.MULTILINE)[1:]:
        title = section.splitlines()[0]
        for key, default in re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|", section, re.MULTILINE):
            assert (title, key) not in found, f"{title}: {key} twice"
            found[title, key] = default.strip()
    return found


def models(base: type[Closed] = Closed) -> Iterator[type[Closed]]:
    for model in base.__subclasses__():
        yield model
        yield from models(model)


def section_of(model: type[Closed], key: str) -> str:
    special = ELSEWHERE.get(key) if issubclass(model, settings.Workload) else None
    return special or SECTIONS[model.__name__]


def own_fields(model: type[Closed]) -> dict[str, FieldInfo]:
    return {key: field for key, field in model.model_fields.items() if key in model.__annotations__}


@pytest.mark.parametrize("model", list(models()), ids=lambda model: model.__name__)
def test_every_key_of_the_config_is_described(model: type[Closed]) -> None:
    pages = described()
    for key, field in own_fields(model).items():
        place = (section_of(model, key), key)
        assert place in pages, f"docs/config.md, section {place[0]}: no line for `{key}`"
        if model is settings.Serve and key == "repeats":
            continue  # its own default stands in the text of the common line
        assert pages[place] == default_text(field), place


def test_nothing_else_is_described() -> None:
    known = {(section_of(model, key), key) for model in models() for key in own_fields(model)}
    assert set(described()) == known


def default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, Closed):
        return "see below"
    if isinstance(field.default, str):
        return f"`{field.default}`"
    return f"`{json.dumps(field.default)}`"


def test_the_page_of_columns_is_current() -> None:
    made = "run: python -m tpsweep.columns > docs/columns.md"
    assert page("columns.md") == columns.markdown(), made


def test_every_type_of_failure_is_described() -> None:
    named = re.findall(r"^\| `(\w+)` \|", page("measuring.md"), re.MULTILINE)
    assert set(failure.TYPES) <= set(named)


@pytest.mark.parametrize(
    "file", [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))], ids=lambda f: f.name
)
def test_every_link_leads_somewhere(file: Path) -> None:
    text = re.sub(r"^```.*?^```", "", file.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+://", target):
            continue
        path, _, anchor = target.partition("#")
        linked = file.parent / path if path else file
        assert linked.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", linked.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", t).strip().lower().replace(" ", "-") for t in titles}
            assert anchor in slugs, target
