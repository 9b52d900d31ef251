"""The benchmark of executors measures what it says: its site lets jobs share tasks, or does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from snakemake_executor_plugin_submitit.packing import Request, SessionKey, pack
from snakemake_executor_plugin_submitit.site import Site
from snakemake_executor_plugin_submitit.spec import Cell
from tests.bench.executors import SITE, WAYS


@pytest.mark.parametrize(
    ("name", "tasks"), [("this executor", 42), ("this executor, a task each", 500)]
)
def test_jobs_share_tasks_as_the_way_says(name: str, tasks: int) -> None:
    (way,) = (way for way in WAYS if way.name == name)
    site = Site.model_validate(yaml.safe_load(SITE.replace("PACK", str(way.pack_minutes))))
    key = SessionKey("", "", "", 0, 1, way.mem_mb)
    jobs = [Request(key, Cell(str(k), ["true"], Path("log"), 5 * 60)) for k in range(500)]
    assert len(pack(jobs, site)) == tasks
