"""Rows of two methods of measuring never stand in one comparison."""

from __future__ import annotations

from pathlib import Path

from tests.unit.made_up import Sweep
from tpsweep.results.load import load, records


def test_settings_say_the_method_where_it_is_not_the_first(tmp_path: Path) -> None:
    made = Sweep(tmp_path)
    for batch, method in ((1, None), (2, 2), (4, None)):
        measured = {"method": method, "tpot_ms": 1.0} if batch < 4 else None
        made.add(1, batch=batch, settings="ab12cd34", measured=measured)
    made.write_manifest()
    found = {line["batch"]: line["settings"] for line in records(load(tmp_path).manifest)}
    # The cell without a row stands beside the newest: the next run measures it so.
    assert found == {1: "ab12cd34", 2: "ab12cd34/m2", 4: "ab12cd34/m2"}


def test_two_methods_give_no_speedup(tmp_path: Path) -> None:
    made = Sweep(tmp_path)
    made.add(1, tpot=4.0, settings="ab12cd34")
    made.add(2, tpot=2.0, settings="ab12cd34", measured={"method": 2})
    made.write_manifest()
    made.tables()
    lines = made.read("tp_comparison")
    assert [line["settings"] for line in lines] == ["ab12cd34", "ab12cd34/m2"]
    assert [line["decode_speedup"] for line in lines] == [None, None]
