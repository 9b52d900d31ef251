"""An axis that nobody has heard of, declared in a copy of the package: it must appear everywhere.

The copy differs in two places: an entry of ``core/axes.py`` and a field of ``core/layout.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
ENTRY = """    Axis(
        "stripes",
        int,
        "parts into which somebody cuts a model",
        Group.LAYOUT,
        "Stripes",
        "{} stripes",
        short="st",
        config_key="stripes",
        lists={SWEEP: [1]},
        default=1,
        added=True,
        multiplies_gpus=True,
        vllm_arg="stripe_size",
        ran="stripes of the loaded engine",
    ),
"""
PROGRAM = """
import json, sys
from pathlib import Path
import pyarrow.parquet as pq
import yaml
from tools import columns
from tpsweep.core.row_file import write_row
from types import SimpleNamespace
from tpsweep.engine.vllm_api import llm_arguments, log_facts, ran_of
from tpsweep.results.load import load
from tpsweep.sweep.manifest import write_manifest
from tpsweep.sweep.sweep import InputError, load_sweep
from tpsweep.tables import tp_comparison
from tpsweep.analysis.compare import compare
from tpsweep.analysis.series import Source
from tpsweep.cli.compare import lines

root, out = Path.cwd(), Path(sys.argv[1])
config = yaml.safe_load(Path("cluster/local/sweep.yaml").read_text())
config["workloads"] = {"decode": config["workloads"]["decode"]}
config |= {"site": "cluster/local/site.yaml", "tp": [1], "runs": 1}
before = load_sweep(config, root)
asked = load_sweep({**config, "stripes": [1, 2]}, root)
only = load_sweep({**config, "stripes": [1, 2], "only": {"stripes": 2}}, root)
lists = {key: value for key, value in config.items() if key != "tp"}
ways = load_sweep({**lists, "layouts": [{"tp": 1}, {"stripes": 2}]}, root)
left = load_sweep({**config, "stripes": [1, 2], "exclude": [{"stripes": 2, "reason": "no"}]}, root)
try:
    load_sweep({**config, "stripes": [0]}, root)
    refused = ""
except InputError as error:
    refused = str(error)
cells = [item.cell for item in asked.planned]
new = [cell for cell in cells if cell.engine.stripes == 2]
write_manifest(asked.planned, out / "matrix.parquet")
for at, cell in enumerate(cells):
    samples = [2.0 + at, 2.1 + at]
    figures = {"tpot_ms": samples[0], "tpot_ms_samples": samples, "synthetic": True}
    write_row({"cell_id": cell.cell_id, **cell.columns(), **figures}, out / cell.path)
# As an older program wrote them: without the new column.
old = out.with_name("old")
write_manifest(before.planned, old / "matrix.parquet")
for item in before.planned:
    cell = item.cell
    write_row({"cell_id": cell.cell_id, **cell.columns(), **figures}, old / cell.path)
for path in old.rglob("*.parquet"):
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.drop_columns(["stripes"]), path)
table = tp_comparison.build(Source(load(out)))
table.write(out)
json.dump({
    "old_ids": [item.cell.cell_id for item in before.planned],
    "ids": [cell.cell_id for cell in cells],
    "names": sorted({cell.path.rpartition("/")[2].partition("-eager")[0] for cell in new}),
    "gpus": sorted({cell.engine.gpus for cell in new}),
    "only": len(only.only), "planned": len(asked.jobs), "new": len(new),
    "excluded": sum(item.status == "excluded" for item in left.planned),
    "refused": refused,
    "by_layouts": [item.cell.cell_id for item in ways.planned],
    "arguments": [llm_arguments(cell.engine).get("stripe_size") for cell in (cells[0], new[0])],
    "ran": [
        ran_of(SimpleNamespace(parallel_config=SimpleNamespace(stripe_size=2)))["stripes"],
        log_facts("Initializing a V1 LLM engine (v1): stripe_size=4, x", 1).ran["stripes"],
    ],
    "old_rows": sorted(set(load(old).rows["stripes"])),
    "old_manifest": sorted(set(load(old).manifest["stripes"])),
    "lines": sorted({(line["stripes"], line["gpus"]) for line in table.records}),
    "markdown": (out / "tp_comparison.md").read_text(),
    "compare": "\\n".join(lines(compare(out, out))),
    "docs": columns.markdown(),
}, sys.stdout, default=int)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("copy")
    for name in ("workflow", "cluster/local", "tools"):
        shutil.copytree(ROOT / name, folder / name)
    axes = folder / "workflow/tpsweep/core/axes.py"
    text = axes.read_text()
    assert text.count('    Axis("run"') == 1
    axes.write_text(text.replace('    Axis("run"', ENTRY + '    Axis("run"'))
    layout = folder / "workflow/tpsweep/core/layout.py"
    text = layout.read_text()
    assert text.count("    replicas: int = 1\n") == 1
    layout.write_text(
        text.replace("    replicas: int = 1\n", "    replicas: int = 1\n    stripes: int = 1\n")
    )
    (folder / "out").mkdir()
    places = [str(folder / "workflow"), str(folder), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder / "out")],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_cells_that_do_not_use_it_keep_their_ids(found: dict[str, Any]) -> None:
    assert found["old_ids"]
    assert set(found["old_ids"]) < set(found["ids"])
    assert len(set(found["ids"])) == 2 * len(found["old_ids"])


def test_it_is_in_config_filters_and_messages(found: dict[str, Any]) -> None:
    assert found["planned"] == 2 * found["new"]
    assert found["only"] == found["excluded"] == found["new"]
    assert "stripes" in found["refused"]
    assert "0" in found["refused"]


def test_an_entry_of_layouts_may_name_it(found: dict[str, Any]) -> None:
    assert sorted(found["by_layouts"]) == sorted(found["ids"])


def test_it_is_in_the_file_name_and_the_world_size(found: dict[str, Any]) -> None:
    assert found["gpus"] == [2]
    assert found["names"] == [f"b{batch}-in64-out32-st2" for batch in (1, 2, 4, 8)]


def test_vllm_gets_its_argument_unless_it_is_the_default(found: dict[str, Any]) -> None:
    assert found["arguments"] == [None, 2]


def test_what_ran_of_it_is_asked_of_the_engine(found: dict[str, Any]) -> None:
    assert found["ran"] == [2, 4]
    assert "`stripes_ran`" in found["docs"]


def test_rows_and_manifests_that_are_older_have_its_default(found: dict[str, Any]) -> None:
    assert found["old_rows"] == [1]
    assert found["old_manifest"] == [1]


def test_it_is_in_tables_compare_and_docs(found: dict[str, Any]) -> None:
    assert found["lines"] == [[1, 1], [2, 2]]
    assert "| Stripes" in found["markdown"]
    assert "2 stripes" in found["compare"]
    assert "`stripes`" in found["docs"]
