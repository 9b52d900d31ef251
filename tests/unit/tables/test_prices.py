"""Prices of the config: checked, kept in the manifest, and cost per token in the tables."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from snakemake_executor_plugin_submitit.site import load_site
from tests.unit.config.test_load import GOOD, ROOT
from tests.unit.made_up import Record, Sweep
from tpsweep import tables
from tpsweep.analysis.prices import COST, PRICE
from tpsweep.cli.main import main
from tpsweep.config.load import ConfigError, load_config
from tpsweep.results.load import load
from tpsweep.sweep.expand import expand

SITE = "name: here\ncluster: local\ngpus:\n  here: {card: cpu, memory_gib: 8, per_node: 2}\n"


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def priced(sweep: Sweep, table: str, price: float | None = 3.6) -> list[Record]:
    for cell in sweep.manifest:
        cell["gpu_hour_usd"] = price
    sweep.tables()
    return sweep.read(table)


def dollars(gpus: int, tokens: int, seconds: float, price: float) -> float:
    """USD per million tokens of a batch: what its GPUs cost meanwhile, by the token."""
    return price * (gpus * seconds / 3600) / tokens * 1_000_000


@pytest.mark.parametrize(
    ("prices", "said"),
    [
        ({"there": 3.5}, "config: prices: 'there': allowed: here"),
        ({"here": 0}, "config: prices.here: 0: allowed: greater than 0"),
        ({"here": -1.5}, "config: prices.here: -1.5: allowed: greater than 0"),
        ({"here": float("inf")}, "config: prices.here: inf: allowed: a finite number"),
        ({"here": float("nan")}, "config: prices.here: nan: allowed: "),
        ({"here": "3.5"}, "config: prices.here: '3.5': allowed: a valid number"),
        ({"here": True}, "config: prices.here: True: allowed: a valid number"),
        ({"here": None}, "config: prices.here: None: allowed: a valid number"),
        ([3.5], "config: prices: [3.5]: allowed: a mapping"),
        (3.5, "config: prices: 3.5: allowed: a mapping"),
    ],
)
def test_a_wrong_price_is_one_line(prices: Any, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config({**copy.deepcopy(GOOD), "prices": prices}, ROOT)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


def test_prices_are_not_in_the_cells_ids(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SITE.replace("memory_gib: 8", "memory_gib: 80"))
    site = load_site(tmp_path / "site.yaml")
    without, cheap, dear = (
        [item.cell.cell_id for item in expand(load_config(data, ROOT), site)]
        for data in (GOOD, {**GOOD, "prices": {"here": 1}}, {**GOOD, "prices": {"here": 2.5}})
    )
    assert without == cheap == dear


@pytest.mark.parametrize("prices", [{}, {"prices": {"here": 2}}])
def test_the_manifest_command_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prices: Record
) -> None:
    (tmp_path / "site.yaml").write_text(SITE.replace("memory_gib: 8", "memory_gib: 80"))
    monkeypatch.chdir(ROOT)
    path = tmp_path / "matrix.parquet"
    data = {**GOOD, **prices, "site": str(tmp_path / "site.yaml")}
    assert main(["manifest", json.dumps(data), str(path)]) == 0
    kept = pd.read_parquet(path)["gpu_hour_usd"]
    assert len(kept) > 0
    assert (kept == 2.0).all() if prices else kept.isna().all()


def test_cost_of_a_static_batch(sweep: Sweep) -> None:
    for tp, seconds in ((1, 2.0), (2, 1.25), (4, 1.0)):
        for batch in (8, 16):
            sweep.add(tp, tpot=8.0, batch=batch, rate=batch * 128 / seconds)
    found = {(line["tp"], line["batch"]): line for line in priced(sweep, "tp_comparison")}
    for tp, seconds in ((1, 2.0), (2, 1.25), (4, 1.0)):
        for batch in (8, 16):
            line = found[tp, batch]
            assert line[PRICE] == 3.6
            assert line[COST] == pytest.approx(dollars(tp, batch * 128, seconds, 3.6))
    markdown = sweep.markdown("tp_comparison")
    assert "Cost (USD per million output tokens)" in markdown
    assert "prices per GPU-hour (USD): H200 3.600" in markdown


def test_cost_of_replicas_measured_and_computed(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0, batch=4, rate=400.0)
    sweep.add(1, tpot=8.0, batch=8, rate=600.0)
    sweep.add(2, tpot=5.0, batch=8, rate=900.0)
    sweep.online(1, ttft=30.0)
    sweep.online(1, ttft=30.0, replicas=2, measured={"output_tok_s": 700.0})
    sweep.online(2, ttft=20.0)
    found = {
        (line["workload"], line["tp"], line["replicas"]): line[COST]
        for line in priced(sweep, "layouts", 2.0)
    }
    assert found["latency", 2, 1] == pytest.approx(dollars(2, 900, 1.0, 2.0))
    assert found["latency", 1, 2] == pytest.approx(dollars(2, 800, 1.0, 2.0))
    assert found["serve", 1, 2] == pytest.approx(dollars(2, 700, 1.0, 2.0))
    assert found["serve", 2, 1] == pytest.approx(dollars(2, 390, 1.0, 2.0))


def test_cost_of_throughput_and_of_computed_engines(sweep: Sweep) -> None:
    sweep.offline(1, 10.0)
    sweep.offline(2, 15.0)
    lines = priced(sweep, "throughput")
    found = {(line["tp"], line["gpus"]): line[COST] for line in lines}
    assert found[1, 1] == pytest.approx(dollars(1, 1000, 1.0, 3.6))
    assert found[1, 2] == pytest.approx(dollars(2, 2000, 1.0, 3.6))
    assert found[2, 2] == pytest.approx(dollars(2, 1500, 1.0, 3.6))


def test_cost_of_serving_at_its_load(sweep: Sweep) -> None:
    sweep.online(1, ttft=30.0)
    sweep.online(1, ttft=30.0, replicas=2)
    sweep.online(2)
    one, two, hole = priced(sweep, "serving")
    assert one[COST] == pytest.approx(dollars(1, 390, 1.0, 3.6))
    assert two[COST] == pytest.approx(dollars(2, 390, 1.0, 3.6)) and hole[COST] is None
    assert "Cost (USD per million output tokens)" in sweep.markdown("serving")
    # Without prices the columns are not there: tables of older sweeps stay as they are.
    assert COST not in priced(sweep, "serving", None)[0]
    assert "Cost" not in sweep.markdown("serving")


@pytest.mark.parametrize("table", ["tp_comparison", "throughput", "layouts"])
def test_without_a_price_or_a_row_there_is_no_cost(sweep: Sweep, table: str) -> None:
    for tp in (1, 2):
        sweep.add(tp, tpot=8.0, batch=2)
        sweep.add(tp, tpot=8.0, batch=1)
        sweep.offline(tp, 10.0)
    assert all(line[COST] is None for line in priced(sweep, table, None))
    assert "Cost" not in sweep.markdown(table)
    sweep.add(4, batch=2)
    sweep.offline(4)
    holes = [line for line in priced(sweep, table) if line["state"] == "missing"]
    assert holes and all(line[COST] is None for line in holes)
    assert "Cost" in sweep.markdown(table)


def test_real_rows_and_a_price_made_up_here(tmp_path: Path) -> None:
    """An old manifest has no such column; with one, cost follows from the rows alone."""
    real = tmp_path / "smoke"
    shutil.copytree(ROOT / "results" / "smoke", real)
    path = real / "matrix.parquet"
    manifest = pq.read_table(path)
    priced_at = [2.5] * len(manifest)
    if "gpu_hour_usd" in manifest.column_names:
        manifest = manifest.drop_columns("gpu_hour_usd")
    pq.write_table(manifest.append_column("gpu_hour_usd", [priced_at]), path)
    tables.write_tables(real, load(real), tables.BUILDERS)
    lines = pq.read_table(real / "tables" / "tp_comparison.parquet").to_pylist()
    assert len(lines) == 4
    for line in lines:
        per_gpu = line["output_tok_s_per_gpu"]
        assert line[COST] == pytest.approx(2.5 / (per_gpu * 3600 / 1e6))
