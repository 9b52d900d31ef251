"""Identity of cells: what changes a number changes the id, and nothing else does."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.cells import engine, latency_cell, model
from tpsweep.core.cell import Cell, Engine, slug


def test_the_place_of_a_local_model_is_no_identity() -> None:
    here, there = (latency_cell(engine=engine(model=model(path=path))) for path in ("a", "b c"))
    assert here.cell_id == there.cell_id
    assert here.engine.session == there.engine.session
    assert here.to_json() == there.to_json()  # Snakemake's params trigger sees no change


def test_a_hub_model_is_its_name_and_revision() -> None:
    one = latency_cell(engine=engine(model=model(path="x/a", is_hub=True, digest=None)))
    other = latency_cell(engine=engine(model=model(path="x/b", is_hub=True, digest=None)))
    assert one.cell_id != other.cell_id


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Cell)])
def test_every_field_of_a_cell_is_identity(field: str) -> None:
    changed: dict[str, Any] = {"engine": engine(run=7), "extra": {"x": 1}, "batch": 3}
    cell = latency_cell()
    other = dataclasses.replace(cell, **{field: changed.get(field, 99)})
    assert other.cell_id != cell.cell_id


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Engine)])
def test_every_field_of_an_engine_makes_another_session(field: str) -> None:
    changed: dict[str, Any] = {"model": model(dtype="bfloat16"), "args": {"max_model_len": 513}}
    other = dataclasses.replace(engine(), **{field: changed.get(field, 99)})
    assert other.session != engine().session


def test_offline_and_served_cells_share_what_is_started_and_keep_their_ids() -> None:
    offline, served = engine(mode="offline"), engine(mode="server")
    assert offline.shared == served.shared
    assert offline.shared.session not in (offline.session, served.session)
    assert offline.shared.serves(offline) and offline.shared.serves(served)
    assert offline.serves(offline) and not offline.serves(served)
    assert not offline.shared.serves(engine(mode="offline", run=1))
    # From before engines were shared: the ids of published rows are such.
    assert latency_cell(engine=offline).identity()["engine"]["mode"] == "offline"


@pytest.mark.parametrize(
    "own", [{"mode": "nsys"}, {"mode": "server", "replicas": 2}, {"mode": "server", "dp": 2}]
)
def test_nsys_and_data_parallel_engines_have_a_start_of_their_own(own: dict[str, Any]) -> None:
    alone = engine(**own)
    assert alone.shared is alone
    assert not engine().shared.serves(alone)


def test_json_round_trip_keeps_the_id() -> None:
    cell = latency_cell()
    assert Cell.from_json(cell.to_json()).cell_id == cell.cell_id
    assert Engine.from_json(cell.engine.to_json()) == cell.engine


def test_a_cell_with_an_unknown_field_is_refused() -> None:
    data = json.loads(latency_cell().to_json())
    with pytest.raises(TypeError, match="surprise"):
        Cell.from_json(json.dumps({**data, "surprise": 1}))


@given(st.text())
def test_slugs_are_safe_names(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", slug(text))
    assert len(slug(text)) <= 60


@given(st.text(min_size=1, max_size=300))
def test_paths_stay_inside_the_results_root(name: str) -> None:
    cell = latency_cell(engine=engine(gpu=name, model=model(name=name), variant=name))
    parts = cell.path.split("/")
    assert len(parts) == 6
    assert not any(part.startswith(".") for part in parts)
    assert max(len(part) for part in parts) < 255
