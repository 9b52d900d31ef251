"""The full H100/H200/A100 matrix from made-up rows: every table, figure and section comes out.

Also with a fifth of the cells gone at random: nothing crashes, and nothing is filled in.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from tests.unit.made_up import Sweep, report
from tpsweep.cli.main import main
from tpsweep.figures import files

BANDWIDTH = {"H100": 3.35, "H200": 4.8, "A100": 2.04}
MODELS = {"llama-3.1-8b": (1.0, 8.0), "llama-3.1-70b": (8.8, 80.0)}
TPS, BATCHES, RUNS = (1, 2, 4), (1, 4, 16, 64), (0, 1, 2)
TABLES = {
    *(
        "cells",
        "machines",
        "failures",
        "tp_comparison",
        "batch_scaling",
        "models",
        "tp_pairs",
        "metrics",
        "layouts",
    ),
    *(
        "floors",
        "validity",
        "throughput",
        "serving",
        "capacity",
        "choices",
        "communication",
        "terms",
    ),
    "crossover",
    *("expected", "cost"),
}
FIGURES = {"models", "classes_serve", "classes_batch", "batch_scaling", "speedup", "pareto"}


def fill(sweep: Sweep, holes: float = 0.0) -> None:
    rng = np.random.default_rng(3)
    for gpu, (model, (scale, room)), tp in itertools.product(BANDWIDTH, MODELS.items(), TPS):
        place = {"gpu": gpu, "gpu_card": f"NVIDIA {gpu}", "model": model, "settings": model}
        if room / tp > 70:
            for batch in BATCHES:
                why = f"weights {room} GB / tp {tp} on 80 GB"
                sweep.add(tp, status="infeasible", reason=why, batch=batch, **place)
            continue
        tpot = scale * (15 / BANDWIDTH[gpu] / tp + 1)
        for batch, run in itertools.product(BATCHES, RUNS):
            time = tpot * (1 + batch / 100) * rng.uniform(0.99, 1.01)
            here = {**place, "batch": batch, "run": run}
            state = rng.choice(["missing", "failed", "infeasible"]) if rng.random() < holes else ""
            if state == "infeasible":
                sweep.add(tp, status="infeasible", reason="made up", **here)
            elif state:
                cell = sweep.add(tp, **here)
                if state == "failed":
                    sweep.fail(cell, "invalid", "a rule: made up")
            else:
                floor = {"decode_floor_ms": scale * 15 / BANDWIDTH[gpu] / tp}
                rate = 900 * batch / time
                sweep.add(tp, tpot=time, prefill=9.0 * batch, rate=rate, measured=floor, **here)
        sweep.offline(tp, 10.0 * tp, **place)
        for rate in (1.0, 16.0):
            sweep.online(tp, 20.0 / tp, itl=tpot, request_rate=rate, **place)
        sweep.searched(tp, {"chat": (10.0 * tp, 10.5 * tp)}, **place)
        if tp < 4:
            compute = tpot * 0.8
            sweep.capture(tp, report(tp, compute=compute, step=tpot), **place)


@pytest.mark.parametrize("holes", [0.0, 0.2])
def test_everything_comes_out(tmp_path: Path, holes: float) -> None:
    sweep = Sweep(tmp_path / "results")
    fill(sweep, holes)
    summary = sweep.tables()
    assert summary.infeasible >= 4 * 2 and summary.complete == (holes == 0)
    assert {path.stem for path in (sweep.root / "tables").glob("*.md")} == TABLES
    # Two of them need a plan's expectations, one a failed cell.
    for name in TABLES - {"cost", "expected", "failures"}:
        lines = sweep.read(name)
        assert lines, name
        assert "SYNTHETIC, never measured" in sweep.markdown(name)
        assert ("INCOMPLETE" in sweep.markdown(name)) == (holes > 0)
    # Every cell is in the table of cells, with its state; no other line has figures.
    cells = sweep.read("cells")
    assert len(cells) == len(sweep.manifest)
    assert all((line["state"] == "measured") or line["tpot_ms"] is None for line in cells)
    drawn, _ = files.pictures(sweep.built())
    kinds = {re.sub(r"\d+$", "", picture.name) for picture in drawn}
    assert kinds >= FIGURES | {"decode", "serving", "share", "step", "pareto_serve"}
    assert main(["page", str(sweep.root)]) == 0
    page = (sweep.root / "report.html").read_text("utf-8")
    assert len(page) < 5e6 and "SYNTHETIC: made-up rows, never measured." in page


def test_only_measured_runs_are_counted(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "results")
    fill(sweep, 0.2)
    sweep.tables()
    runs: dict[tuple[object, ...], int] = {}
    for line in sweep.read("cells"):
        if line["workload"] == "latency":
            key = (line["gpu"], line["model"], line["tp"], line["batch"])
            runs[key] = runs.get(key, 0) + (line["state"] == "measured")
    for name in ("tp_comparison", "batch_scaling", "models"):
        for line in sweep.read(name):
            key = (line["gpu"], line["model"], line["tp"], line["batch"])
            assert line["runs"] == runs[key]
            assert (line["tpot_ms"] is None) == (runs[key] == 0)
