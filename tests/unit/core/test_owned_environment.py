"""Variables that would spread an engine otherwise than its layout says."""

from __future__ import annotations

import pytest

from tests.unit.cells import engine
from tpsweep.core.errors import StartError
from tpsweep.core.owned_environment import OWNED, owned_problem
from tpsweep.measure.daemon import _prepare


def test_each_is_named_with_its_value_and_what_sets_it() -> None:
    for name, owner in OWNED.items():
        said = f"environment: {name}: '3': what it changes is set by {owner}; allowed: other varia"
        assert str(owned_problem({"PATH": "/bin", name: "3"})).startswith(said)
    assert owned_problem({"PATH": "/bin", "VLLM_LOGGING_LEVEL": "INFO"}) is None


def test_the_gpus_of_a_session_are_its_own() -> None:
    given = {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert owned_problem(given) is None
    assert "set by the executor" in str(owned_problem(given, of_site=True))


def test_no_engine_starts_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever set it: the site's set-up lines, or the shell that Snakemake was started in."""
    monkeypatch.setenv("VLLM_DP_SIZE", "2")
    with pytest.raises(StartError, match="environment: VLLM_DP_SIZE: '2': what it changes"):
        _prepare(engine(), None)
