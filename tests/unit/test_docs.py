"""The reference pages say what the code says."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from snakemake_executor_plugin_submitit.site import load_site
from tools import axes, columns
from tpsweep.config import settings
from tpsweep.config.load import load_config
from tpsweep.config.settings import Closed
from tpsweep.core import failure
from tpsweep.core.axes import LISTED
from tpsweep.core.slo import LIMITS
from tpsweep.sweep.expand import expand

ROOT = Path(__file__).parents[2]
SECTIONS = {
    "Settings": "Top level",
    "ModelEntry": "Models",
    "LayoutEntry": "Layouts",
    "Workload": "Workloads",
    "Pins": "Engine",
    "StaticBatch": "Static batches",
    "Latency": "Static batches",
    "Capture": "Static batches",
    "RequestSet": "Request sets",
    "Throughput": "Request sets",
    "Serve": "Request sets",
    "Capacity": "Capacity",
    "Slo": "SLO",
    "SloLimits": "SLOs",
    "Axes": "Exclude",
    "Exclusion": "Exclude",
}
ELSEWHERE = dict.fromkeys(("kind", "repeats", "warmups", "minutes"), "Workloads")
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
    listed = [axis.config_key for axis in LISTED]
    for key, field in own_fields(model).items():
        place = (section_of(model, key), key)
        if key in LIMITS:
            continue  # described by a pattern, below the table
        if key in listed and place not in pages:
            assert f"| `{key}` " in axes.section()
            continue
        assert place in pages, f"docs/config.md, section {place[0]}: no line for `{key}`"
        if model.__name__ in ("Serve", "Capacity") and key in ELSEWHERE:
            continue  # its own default stands in the text of the common line
        assert pages[place] == default_text(field), place


def test_nothing_else_is_described() -> None:
    known = {(section_of(model, key), key) for model in models() for key in own_fields(model)}
    assert {place for place in described() if place[0] != "Axes"} <= known


SWEEP: dict[str, Any] = {
    "vllm_version": "0.32.0",
    "models": {"m": {"path": "org/model", "dtype": "bfloat16", "weights": "real"}},
    "gpus": ["here"],
    "tp": [1],
    "workloads": {
        "d": {"kind": "latency", "batch": [1], "input_len": [8], "output_len": [8]},
        "s": {
            "kind": "serve",
            "num_prompts": [8],
            "input_len": [8],
            "output_len": [8],
            "request_rate": [1],
        },
        "c": {"kind": "capture", "batch": [1], "input_len": [8], "output_len": [8]},
        "most": {"kind": "capacity", "input_len": [8], "output_len": [8]},
    },
    "slos": {"chat": {"ttft_p90_ms": 500}},
}
CHANGES: dict[tuple[str, str], tuple[str, Any]] = {
    ("Top level", "results"): ("results", "elsewhere"),
    ("Top level", "vllm_version"): ("vllm_version", "0.33.0"),
    ("Top level", "hf_home"): ("hf_home", "cache"),
    ("Top level", "engine_start_minutes"): ("engine_start_minutes", 3),
    ("Models", "revision"): ("models/m/revision", "v2"),
    ("Models", "dtype"): ("models/m/dtype", "float16"),
    ("Models", "weights"): ("models/m/weights", "dummy"),
    ("Models", "label"): ("models/m/label", "M"),
    ("Workloads", "warmups"): ("workloads/d/warmups", 1),
    ("Workloads", "repeats"): ("workloads/d/repeats", 5),
    ("Workloads", "minutes"): ("workloads/d/minutes", 5),
    ("Workloads", "label"): ("workloads/d/label", "D"),
    ("Workloads", "models"): ("workloads/d/models", ["m"]),
    ("Workloads", "gpus"): ("workloads/d/gpus", ["here"]),
    ("Workloads", "tp"): ("workloads/d/tp", [1]),
    ("Workloads", "variants"): ("workloads/d/variants", ["default"]),
    ("Workloads", "allreduce_backends"): ("workloads/d/allreduce_backends", ["auto"]),
    ("Workloads", "runs"): ("workloads/d/runs", 1),
    ("Engine", "max_model_len"): ("workloads/d/engine", {"max_model_len": 4096}),
    ("Engine", "max_num_seqs"): ("workloads/d/engine", {"max_num_seqs": 64}),
    ("Engine", "max_num_batched_tokens"): ("workloads/d/engine", {"max_num_batched_tokens": 4096}),
    ("Engine", "gpu_memory_utilization"): ("workloads/d/engine", {"gpu_memory_utilization": 0.8}),
    ("Static batches", "profiler"): ("workloads/c/profiler", "nsys"),
    **{
        ("Capacity", key): (f"workloads/most/{key}", value)
        for key, value in {
            "probe_s": 20,
            "probe_requests": 100,
            "max_request_rate": 50,
            "max_probes": 20,
        }.items()
    },
    ("SLOs", "goodput_share"): ("slos/chat", {"goodput_share": 0.9, "ttft_ms": 500}),
    ("SLO", "ttft_ms"): ("workloads/s/slo", {"ttft_ms": 100}),
    ("SLO", "tpot_ms"): ("workloads/s/slo", {"tpot_ms": 100}),
    ("SLO", "e2e_ms"): ("workloads/s/slo", {"e2e_ms": 100}),
}


def ids(path: str = "", value: object = None) -> set[str]:
    """Ids of the cells of SWEEP, with the key at ``path`` set to ``value``."""
    data = copy.deepcopy(SWEEP)
    if path:
        *parents, last = path.split("/")
        place = data
        for key in parents:
            place = place[key]
        place[last] = value
    site = load_site(ROOT / "cluster/local/site.yaml")
    return {item.cell.cell_id for item in expand(load_config(data, ROOT), site)}


@pytest.mark.parametrize("place", CHANGES, ids="/".join)
def test_what_changes_an_id_is_said(place: tuple[str, str]) -> None:
    section, key = place
    (text,) = re.findall(rf"^#+ {section}$(.*?)(?=^#|\Z)", page("config.md"), re.M | re.S)
    (line,) = re.findall(rf"^\| `{key}` \|(.*)\|$", text, re.M)
    says = line.rsplit("|", 1)[1].strip()
    assert says in ("yes", "no")
    assert (ids(*CHANGES[place]) != ids()) == (says == "yes")


def default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, Closed):
        return "see below"
    if isinstance(field.default, str):
        return f"`{field.default}`"
    return f"`{json.dumps(field.default)}`"


def test_the_list_of_axes_is_current() -> None:
    page = axes.PAGE.read_text()
    assert axes.replaced(page) == page, "python -m tools.axes"


def test_the_page_of_columns_is_current() -> None:
    made = "run: python -m tools.columns > docs/columns.md"
    assert page("columns.md") == columns.markdown(), made


def test_every_type_of_failure_is_described() -> None:
    named = re.findall(r"^\| `(\w+)` \|", page("measuring.md"), re.MULTILINE)
    assert set(failure.TYPES) <= set(named)


@pytest.mark.parametrize(
    "file", [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))], ids=lambda f: f.name
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
            assert anchor in anchors(linked), target


def anchors(file: Path) -> set[str]:
    """What a link into a page can name: ids of HTML, the slugs that GitHub gives to titles."""
    text = file.read_text("utf-8")
    if file.suffix == ".html":
        return set(re.findall(r'\bid="([^"]+)"', text))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", t).strip().lower().replace(" ", "-") for t in titles}
