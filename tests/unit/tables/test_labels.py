"""Labels of the config: in tables, figures and page in place of names, and never an identity."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.unit.made_up import Sweep
from tests.unit.made_up import report as capture_report
from tpsweep.cli.main import main
from tpsweep.cli.tables import BUILDERS
from tpsweep.core.manifest import LABELS
from tpsweep.figures import files
from tpsweep.results.load import load
from tpsweep.tables import write_tables

MODEL, WORKLOAD = "Llama of the paper", "Decode | for *Figure 3*"
NAMES = {column.name for column in LABELS}
WITHOUT = {"machines", "failures", "cost", "choices"}
"""Tables that compare no workloads."""


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    made = Sweep(tmp_path / "results")
    for tp in (1, 2):
        for batch in (1, 8):
            made.add(tp, tpot=8.0 / tp, batch=batch)
        made.offline(tp, 10.0)
        made.online(tp, ttft=30.0)
        made.searched(tp, {"chat": (10.0, 10.5)})
        made.capture(tp, capture_report(tp, compute=3.0))
    return made


def labelled(sweep: Sweep) -> Sweep:
    for cell in sweep.manifest:
        cell |= {"model_label": MODEL, "workload_label": WORKLOAD}
    return sweep


def test_every_table_that_names_a_model_shows_its_label(sweep: Sweep) -> None:
    labelled(sweep).tables()
    for builder in BUILDERS:
        if builder.name in WITHOUT:
            continue
        text, lines = sweep.markdown(builder.name), sweep.read(builder.name)
        assert MODEL in text and r"Decode \| for \*Figure 3\*" in text, builder.name
        assert {line["model"] for line in lines} == {"llama"}, "what identifies is the name"
        assert {line["model_label"] for line in lines} == {MODEL}, builder.name


def test_the_choice_calls_models_by_their_labels(sweep: Sweep) -> None:
    labelled(sweep).tables()
    assert MODEL in sweep.markdown("choices")
    assert main(["page", str(sweep.root)]) == 0
    html = (sweep.root / "report.html").read_text("utf-8")
    assert f'"label": "{MODEL}"' in html and "<h2>" + MODEL in html


def test_without_labels_no_table_has_the_columns(sweep: Sweep) -> None:
    sweep.tables()
    for builder in BUILDERS:
        path = sweep.root / "tables" / f"{builder.name}.parquet"
        assert not NAMES & set(pq.read_schema(path).names)
        assert "Label" not in sweep.markdown(builder.name)


def test_figures_and_page_show_them(sweep: Sweep) -> None:
    sweep.add(4)
    drawn, _ = files.pictures(labelled(sweep).built())
    assert len({picture.name.rstrip("0123456789") for picture in drawn}) >= 6
    for picture in drawn:
        if not picture.name.startswith("models"):  # one figure of many models: its bars are named
            assert MODEL in picture.caption, picture.name
        assert WORKLOAD in picture.caption, picture.name
    models = next(picture for picture in drawn if picture.name == "models0")
    assert f"{MODEL} H200" in models.description
    sweep.tables()
    assert main(["page", str(sweep.root)]) == 0
    page = (sweep.root / "report.html").read_text("utf-8")
    assert f"TP comparison: {MODEL} on H200" in page and "<dd>Decode | for *Figure 3*</dd>" in page
    assert "llama on" not in page and "<td>llama</td>" not in page, "nor in any list"


def test_a_label_of_some_lines_is_a_column(sweep: Sweep) -> None:
    labelled(sweep)
    sweep.manifest[0]["workload_label"] = "Other"
    sweep.write_manifest()
    write_tables(sweep.root, load(sweep.root), BUILDERS)
    assert "| Label " in sweep.markdown("cells")
