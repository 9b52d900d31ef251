"""docs/plan.md says what the code says today."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.perfmodel.test_memory import ON_GPU, of
from tpsweep.cli.main import main
from tpsweep.core.layout import Layout
from tpsweep.perfmodel.constants import document
from tpsweep.perfmodel.memory import fit, memory_constants

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "plan.md").read_text("utf-8")
SEED = ["--configfile", "docs/seed-experiments.yaml", "--site", "cluster/pace/site.yaml"]


def test_the_saving_of_the_seeds_experiments_is_what_the_command_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PACE_ACCOUNT", "of-a-test")
    assert main(["plan", *SEED]) == 0
    said = capsys.readouterr().out.split("\n\nMemory")[0]
    assert said in PAGE
    assert "3 engine starts instead of 20" in said


def test_every_constant_of_the_cost_is_there_with_its_origin() -> None:
    for name, entry in document()["cost"].items():
        assert f"| {name} | {entry['value']} | {entry['origin']} |" in PAGE
    estimates = memory_constants()
    assert f"({estimates['runtime_gib']:g} GiB, {estimates['runtime_tp_gib']:g} more" in PAGE
    assert f"The driver ({estimates['driver_gib']:g} GiB)" in PAGE


@pytest.mark.parametrize("said", ON_GPU, ids=lambda said: str(said["where"]))
def test_vllms_own_words_are_there(said: dict[str, object]) -> None:
    tp = said["tp"]
    assert isinstance(tp, int)
    found = fit(*of(said), Layout(tp=tp))
    assert f"{said['cache_tokens']:,} / {found.expected_cache_tokens:,} |" in PAGE
