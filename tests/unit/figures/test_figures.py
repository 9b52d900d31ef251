"""The figures: their points are the tables' numbers, gaps stay gaps, what is missing is named."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.unit.made_up import Sweep
from tpsweep.analysis.table import Table
from tpsweep.cli.main import main
from tpsweep.figures import files
from tpsweep.figures.batch_scaling import draw_batch_scaling
from tpsweep.figures.groups import number_format
from tpsweep.figures.pareto import frontier
from tpsweep.figures.plot import Picture
from tpsweep.figures.speedup import draw_speedup


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "results")


def named(tables: dict[str, Table]) -> dict[str, Picture]:
    drawn, _ = files.pictures(tables)
    assert len({picture.name for picture in drawn}) == len(drawn)
    return {picture.name: picture for picture in drawn}


def painted(picture: Picture, panel: int = 0) -> Axes:
    axes = Figure().add_subplot()
    picture.panels[panel](axes)
    return axes


def curve(axes: Axes, label: str) -> list[tuple[float, float]]:
    (line,) = (line for line in axes.get_lines() if line.get_label() == label)
    return list(zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True))


def same(found: list[tuple[float, float]], expected: list[tuple[float, float]]) -> bool:
    return found == [(pytest.approx(x), pytest.approx(y, nan_ok=True)) for x, y in expected]


def test_points_are_the_tables_numbers(sweep: Sweep) -> None:
    for tp in (1, 2):
        for batch in (1, 8, 32):
            # Decode 8 and 4 ms at batch 1, growing by an eighth of it up to batch 32.
            sweep.add(tp, tpot=(8 + batch / 8) / tp, batch=batch, rate=100.0 * batch * tp)
    pictures = named(sweep.built())
    assert pictures.keys() >= {"batch_scaling0", "speedup0", "pareto0", "models0", "decode0"}
    scaling = pictures["batch_scaling0"]
    expected = [(1, 4.0625), (8, 4.5), (32, 6.0)]
    assert same(curve(painted(scaling), "TP=2"), expected)
    assert same(curve(painted(scaling, 1), "TP=2"), [(1, 200), (8, 1600), (32, 6400)])
    assert same(curve(painted(pictures["speedup0"]), "batch 8"), [(1, 1), (2, 2)])
    # Per user 1000 / decode, per GPU tok/s / GPUs, from slow to fast.
    per_gpu = [(1e3 / 6, 3200.0), (1e3 / 4.5, 800.0), (1e3 / 4.0625, 100.0)]
    assert same(curve(painted(pictures["pareto0"]), "H200, TP=2"), per_gpu)
    assert "TP=2: 4.062 ms at batch 1, 4.500 ms at batch 8" in scaling.description


def test_a_missing_cell_is_a_gap(sweep: Sweep) -> None:
    for batch in (1, 8, 32):
        sweep.add(1, tpot=8.0, batch=batch)
        sweep.add(2, tpot=None if batch == 8 else 4.0, batch=batch)
    found = curve(painted(named(sweep.built())["batch_scaling0"]), "TP=2")
    assert same(found, [(1, 4.0), (8, math.nan), (32, 4.0)])


def test_floors_stand_below_their_tp(sweep: Sweep) -> None:
    for batch, floor in ((1, 3.0), (8, 3.5)):
        measured = {"decode_floor_ms": 3.0, "decode_floor_kv_ms": floor}
        sweep.add(1, tpot=8.0, batch=batch, measured=measured)
    records = [sweep.built()[name].records for name in ("tp_comparison", "floors")]
    (picture,), more = draw_batch_scaling(*records, 1)
    lines = [line for line in painted(picture).get_lines() if line.get_marker() == "None"]
    drawn = [list(map(float, line.get_ydata())) for line in lines]
    assert [3.0, 3.0] in drawn and [3.0, 3.5] in drawn and more == 0


def test_the_three_terms_are_a_line(sweep: Sweep) -> None:
    for tp, tpot in ((1, 8.0), (2, 5.0), (4, 4.0)):
        sweep.add(tp, tpot=tpot)
    records = sweep.built()["tp_comparison"].records
    one: dict[str, Any] = {**next(r for r in records if r["tp"] == 2), "baseline_tp": 1}
    # 8 = 6 + 2, 5 = 6 / 2 + 2 - 0.5 + 0.5: at TP=4, 6 / 4 + 1.5 + 0.5.
    terms = {**one, "scaling_ms": 3.0, "fixed_ms": 1.5, "communication_ms": 0.5}
    (picture,), _ = draw_speedup(records, [terms], 3)
    dashed = [line for line in painted(picture).get_lines() if line.get_linestyle() == "--"]
    assert [list(map(float, line.get_ydata())) for line in dashed] == [
        pytest.approx([1.0, 7.5 / 5.0, 7.5 / 3.5])
    ]
    (without,), _ = draw_speedup(records, [], 3)
    assert "it needs captures" in without.caption


def test_the_frontier() -> None:
    places = [(1.0, 5.0), (2.0, 4.0), (1.5, 3.0), (3.0, 1.0), (3.0, 0.5)]
    assert frontier(places) == {(1.0, 5.0), (2.0, 4.0), (3.0, 1.0)}


def test_a_model_that_cannot_run_is_named(sweep: Sweep) -> None:
    sweep.add(1, tpot=8.0)
    sweep.add(2, tpot=4.0)
    sweep.add(1, model="large", status="infeasible", reason="141 GB on 80 GB")
    sweep.add(2, model="large", tpot=20.0)
    picture = named(sweep.built())["models0"]
    assert "No bar: large H200 TP=1 (infeasible)." in picture.caption
    heights = [bar.get_height() for bar in painted(picture).patches]
    assert heights == pytest.approx([8.0, 4.0, 20.0])


def test_node_classes_stand_side_by_side(sweep: Sweep) -> None:
    for gpu, factor in (("H200", 1.0), ("A100", 2.0)):
        for batch in (1, 8):
            sweep.add(2, tpot=4.0 * factor, batch=batch, gpu=gpu, rate=800 * batch / factor)
        sweep.online(2, 20.0 * factor, request_rate=4.0, gpu=gpu)
    pictures = named(sweep.built())
    assert same(curve(painted(pictures["classes_batch0"]), "A100, TP=2"), [(1, 400), (8, 3200)])
    bars = painted(pictures["classes_serve0"]).patches
    assert [bar.get_height() for bar in bars] == pytest.approx([40.0, 20.0])


def test_files(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.add(1, tpot=8.0)
    sweep.add(1, tpot=9.0, batch=8)
    sweep.add(2)
    sweep.add(2, batch=8)
    sweep.tables()
    (sweep.root / "figures").mkdir()
    (sweep.root / "figures/old.svg").touch()
    assert main(["figures", str(sweep.root)]) == 0
    found = sorted(path.name for path in (sweep.root / "figures").iterdir())
    names = {name.partition(".")[0] for name in found} - {"index"}
    assert found == sorted([f"{n}.{kind}" for n in names for kind in ("svg", "png")] + ["index.md"])
    assert f"{len(names)} figures" in capsys.readouterr().err and "old" not in names
    for name in names:
        text = (sweep.root / f"figures/{name}.svg").read_text("utf-8")
        assert "INCOMPLETE 2/4, SYNTHETIC, never measured" in text
        assert not re.search(r"#[ab]0000\d", text)
        png = (sweep.root / f"figures/{name}.png").read_bytes()
        width, height = struct.unpack(">II", png[16:24])
        assert 700 < width < 2500 and 300 < height < 900
    index = (sweep.root / "figures/index.md").read_text("utf-8")
    assert index.startswith("# Figures: INCOMPLETE 2/4, SYNTHETIC, never measured\n")
    assert "8.000 ms at batch 1, 9.000 ms at batch 8" in index


def test_an_empty_sweep_has_an_index_alone(sweep: Sweep) -> None:
    sweep.add(1)
    assert files.write_figures(sweep.root, sweep.built()) == 0
    assert [path.name for path in (sweep.root / "figures").iterdir()] == ["index.md"]
    assert "No figure: no line is measured." in (sweep.root / "figures/index.md").read_text("utf-8")


def test_one_engine_beside_smaller_ones_on_the_same_gpus(sweep: Sweep) -> None:
    for tp, rates in ((1, {1: 100, 2: 190, 4: 300, 8: 420}), (2, {1: 150, 2: 280, 4: 380, 8: 500})):
        for batch, rate in rates.items():
            sweep.add(tp, tpot=5.0, rate=float(rate), batch=batch)
    picture = named(sweep.built())["equal_sequences0"]
    # A batch of 1 cannot be shared out between two engines.
    expected = [(2, 1.4), (4, 1.0), (8, 500 / 600)]
    assert same(curve(painted(picture), "TP=2 / 2 x TP=1"), expected)
    assert "1.400 times at sequences 2" in picture.description
    (band,) = painted(picture).patches
    assert band.get_extents().height > 0


def test_a_caption_names_a_precision_that_is_not_the_models_own() -> None:
    line = {"dtype": "bfloat16", "precision": "bf16"}
    assert number_format(line) == number_format({"dtype": "bfloat16"}) == "bfloat16"
    assert number_format({**line, "precision": "fp8"}) == "bfloat16, fp8"


def test_one_class_alone_has_no_picture_of_classes(sweep: Sweep) -> None:
    for batch in (1, 8):
        sweep.add(1, tpot=8.0, batch=batch)
        sweep.add(1, batch=batch, gpu="A100", gpu_card="A100")  # not measured: nothing to see
    sweep.online(1, ttft=30.0)
    assert not [name for name in named(sweep.built()) if name.startswith("classes")]
    sweep.add(1, tpot=9.0, batch=1, gpu="A100", gpu_card="A100")
    sweep.online(1, ttft=40.0, gpu="A100", gpu_card="A100")
    found = [name for name in named(sweep.built()) if name.startswith("classes")]
    assert found == ["classes_serve0", "classes_batch0"]
