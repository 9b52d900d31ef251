"""cluster/gpu-host/h100x2.yaml in parts: each fits its minutes, together they are the sweep."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from tpsweep.perfmodel.cell_time import expected_of, start_seconds
from tpsweep.perfmodel.model_folder import read_config
from tpsweep.perfmodel.model_shape import Shape
from tpsweep.sweep.sweep import Sweep, load_sweep

ROOT = Path(__file__).parents[3]
HOST = ROOT / "cluster/gpu-host"
PARTS = sorted((HOST / "parts").glob("*.yaml"))
LIMIT_S = 9 * 60


def load(part: Path | None = None) -> Sweep:
    raw: dict[str, Any] = yaml.safe_load((HOST / "h100x2.yaml").read_text())
    raw |= yaml.safe_load(part.read_text()) if part else {}
    return load_sweep(raw | {"site": "cluster/gpu-host/site.yaml"}, ROOT)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.stem)
def test_a_part_is_one_engine_start_of_at_most_nine_minutes(part: Path) -> None:
    sweep = load(part)
    cells = [job.cell for job in sweep.jobs.values() if job.cell.cell_id in (sweep.only or ())]
    assert len({cell.engine.session for cell in cells}) == 1
    shapes = {
        name: Shape.from_config(read_config(ROOT / "workflow/models" / f"{name}.json"))
        for name in sweep.config.models
    }
    seconds = [expected_of(cell, shapes[cell.engine.model.name]).seconds for cell in cells]
    start = start_seconds(cells[0].engine, shapes)
    assert None not in (*seconds, start)
    total = sum(s for s in (*seconds, start) if s is not None)
    print(f"{part.stem}: {len(cells)} cells, {total:.0f} s")
    assert total < LIMIT_S


def test_the_parts_together_are_the_whole_sweep_once() -> None:
    sweep = load()
    asked = defaultdict(list)
    for part in PARTS:
        for cell_id in load(part).only or ():
            asked[cell_id].append(part.stem)
    assert {one: parts for one, parts in asked.items() if len(parts) > 1} == {}
    missing = [j.cell.readable for j in sweep.jobs.values() if j.cell.cell_id not in asked]
    assert missing == []
    assert sweep.left_out == ""
